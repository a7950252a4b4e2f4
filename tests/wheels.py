"""The wheel in dist/ on every Python and torch that can be had: it installs without a compiler, the sdist's tests pass.

    python -m tests.wheels --page docs/releasing.md
    python -m tests.wheels --pythons 3.11 3.14 --torches 'torch==2.10.*'

uv, which must be on PATH, finds each Python there or gets it; the table says which it could not. The sdist is unpacked
without the package, so that tests can import the installed one only. Environments are in build/wheels.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

from bench.pages import publish
from tests.fetch_torches import oldest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "wheels"

TESTS = [
    "tests/test_determinism.py",  # the bits of the golden file, which shows a library that computes something else
    "tests/test_generators.py",  # published vectors, keys
    "tests/test_perturb.py",  # values of every layout and dtype, through torch's stable ABI
    "tests/test_saliency.py",  # hooks, which are torch's
    "tests/test_rng.py",  # pickles, copies, forks, tracebacks, which are Python's
    "tests/test_native.py",  # how the library is found and loaded
]
LEFT_OUT = "not triton and not compiled and not instruction_set and not processes"
"""Triton's kernels are no part of a wheel; the others need a C++ compiler (torch.compile) or start tests themselves."""
PACKAGES = ["cryptography", "hypothesis", "mpmath", "numpy", "pytest", "randomgen", "scipy"]
NO_COMPILER = {"CC": "false", "CXX": "false"}

INSTALLED = """
import pathlib, sys, tip_kernels
found = pathlib.Path(tip_kernels.__file__)
assert found.is_relative_to(sys.prefix), found
assert "cpu" in tip_kernels.available_backends(), tip_kernels.available_backends()
"""
"""Without its library the wheel would pass the tests, too: they skip backends that cannot run."""


def run(*command: str | pathlib.Path, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, **NO_COMPILER, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def only(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    """The one file of that name in the folder."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"expected one {pattern} in {folder}, got {len(found)}: make release")
    return found[0]


def unpack(sdist: pathlib.Path) -> pathlib.Path:
    """The sources of the sdist, without the package itself."""
    target = FOLDER / "sdist"
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # old Pythons 3.10 and 3.11 have none
        archive.extractall(target)
    (source,) = target.iterdir()
    shutil.rmtree(source / "tip_kernels")
    return source


def try_one(python: str, torch: str, wheel: pathlib.Path, source: pathlib.Path) -> str:
    """What the wheel does there: "12 passed", or a word on what failed, whose output is printed."""
    environment = FOLDER / f"python{python}"
    interpreter = environment / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--python", interpreter, "--only-binary", ":all:"]
    steps = {
        "no such Python": ["uv", "venv", "--quiet", "--clear", "--python", python, environment],
        "not installed": [*install, torch, wheel, *PACKAGES],
        "does not load": [interpreter, "-c", INSTALLED],
        "failed": [interpreter, "-m", "pytest", "-p", "no:cacheprovider", "-k", LEFT_OUT, *TESTS],
    }
    printed = ""
    for failure, command in steps.items():
        step = run(*command, cwd=source)
        if step.returncode != 0:
            print(step.stdout[-4000:] + step.stderr[-4000:], file=sys.stderr)
            return failure
        printed = step.stdout
    counted = re.search(r"\d+ passed", printed)
    return counted[0] if counted else "failed"


def table(results: dict[tuple[str, str], str]) -> str:
    """Rows of Pythons, columns of torches."""
    pythons, torches = (list(dict.fromkeys(names)) for names in zip(*results, strict=True))
    rows = [f"| Python | {' | '.join(torches)} |", "|---" * (len(torches) + 1) + "|"]
    rows += [f"| {python} | {' | '.join(results[python, torch] for torch in torches)} |" for python in pythons]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", default=["3.10", "3.11", "3.12", "3.13", "3.14"])
    parser.add_argument("--torches", nargs="+", default=[f"torch=={oldest()}.*", "torch"])
    parser.add_argument("--dist", type=pathlib.Path, default=ROOT / "dist")
    parser.add_argument("--page", type=pathlib.Path, help="a page whose table between marks is replaced")
    given = parser.parse_args()
    wheel = only(given.dist.resolve(), "*manylinux*.whl")
    source = unpack(only(given.dist.resolve(), "*.tar.gz"))
    results = {}
    for python in given.pythons:
        for torch in given.torches:
            results[python, torch] = try_one(python, torch, wheel, source)
            print(f"Python {python}, {torch}: {results[python, torch]}", flush=True)
    print(table(results))
    if given.page:
        publish(given.page, "wheels", table(results))
    outcomes = set(results.values())
    if outcomes & {"not installed", "does not load", "failed"} or outcomes == {"no such Python"}:
        sys.exit(f"{wheel.name} does not pass everywhere")


if __name__ == "__main__":
    main()
