"""What is released: the same bytes for the same sources, a wheel of the package alone, an archive that tests itself.

One version, and the locks: packages with hashes to make it and to test it. ``make test-release`` builds the wheel with
its compiled library twice and takes minutes; these tests take seconds.
"""

import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
from packaging.requirements import Requirement

import tip_kernels

ROOT = pathlib.Path(__file__).resolve().parent.parent
HIDDEN = (".git", ".venv", ".*_cache", ".hypothesis", ".benchmarks", ".coverage*")
SOURCES = shutil.ignore_patterns(*HIDDEN, "build", "dist", "*.egg-info", "*.so", "*.pyd", "__pycache__")
FRAMEWORKS = {"flower", "lightning", "nvflare", "opacus"}  # extras that make test does not install
DATE = 1_700_000_000
RELEASE = """
import sys
from setuptools import build_meta
target = sys.argv[1]  # setuptools changes argv
build_meta.build_sdist(target)
build_meta.build_wheel(target)
"""


def release(source: pathlib.Path, target: pathlib.Path) -> dict[str, bytes]:
    """The bytes of an sdist and of a wheel without compiled library, built from a copy of the sources.

    The copy holds what a build in place leaves behind, which is to get into neither.
    """
    shutil.copytree(ROOT, source, ignore=SOURCES)
    for left_behind in ("tip_kernels/_cpu.abi3.so", "csrc/kernels.so", "bench/paths.pyc"):
        (source / left_behind).write_bytes(b"built")
    target.mkdir()
    environment = {
        **os.environ,
        "CC": "false",
        "CXX": "false",
        "SOURCE_DATE_EPOCH": str(DATE),
        "TIP_KERNELS_CUDA_ARCHS": "none",
    }
    environment.pop("TIP_KERNELS_REQUIRE_COMPILED", None)
    command = [sys.executable, "-c", RELEASE, target]
    result = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> pathlib.Path:
    """Folder of a sdist and a wheel."""
    folder = tmp_path_factory.mktemp("release")
    release(folder / "source", folder / "dist")
    return folder / "dist"


def test_same_bytes_in_another_folder_later(released, tmp_path):
    time.sleep(1.1)  # dates in archives have seconds
    again = release(tmp_path / "deeper" / "source", tmp_path / "dist")
    assert sorted(again) == sorted(path.name for path in released.iterdir())
    for name, content in again.items():
        assert content == (released / name).read_bytes(), name


def test_wheel_has_the_package_and_nothing_else(released):
    (path,) = released.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"tip_kernels", path.name.split("-cp")[0] + ".dist-info"}
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "tip_kernels").rglob("*.py")} | {"tip_kernels/py.typed"}
    assert {name for name in names if name.startswith("tip_kernels/")} == files


def test_sdist_has_every_source_and_nothing_built(released):
    (path,) = released.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        members = sdist.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    tracked = [
        file
        for folder in ("bench", "csrc", "docs", "examples", "requirements", "tests", "tip_kernels")
        for file in (ROOT / folder).rglob("*")
    ]
    built = re.compile(r"\.(pyc|so|pyd)$|/\.")
    for file in tracked:
        relative = file.relative_to(ROOT).as_posix()
        assert relative in names or file.is_dir() or built.search(f"/{relative}"), relative
    assert {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "setup.py", "pyproject.toml"} <= names
    hidden = {name for name in names if name.startswith(".")}
    assert hidden == {".clang-format", ".pre-commit-config.yaml", ".github/workflows/ci.yml"}
    assert not [name for name in names - hidden if built.search(f"/{name}")]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", DATE)}


@pytest.fixture(scope="module")
def unpacked(released, tmp_path_factory) -> pathlib.Path:
    """The sources as the sdist has them."""
    folder = tmp_path_factory.mktemp("unpacked")
    (path,) = released.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        sdist.extraction_filter = getattr(tarfile, "data_filter", None)  # old Pythons 3.10 and 3.11 have none
        sdist.extractall(folder)
    (source,) = folder.iterdir()
    return source


PYTEST = """
import pathlib, sys
import pytest
import bench, examples, tip_kernels

for package in (bench, examples, tip_kernels):
    assert pathlib.Path(package.__file__).parent.parent.samefile("."), package.__file__
sys.exit(pytest.main(sys.argv[1:]))
"""


def pytest_from(source: pathlib.Path, *arguments: str) -> str:
    """Runs pytest on the sources in that folder, not on those here; returns what it printed, or fails with it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    environment["PYTHONPATH"] = ""
    command = [sys.executable, "-c", PYTEST, "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_sdist_has_what_its_tests_import(unpacked):
    collected = pytest_from(unpacked, "--collect-only")
    assert "test_perturb.py" in collected
    assert "test_release.py" in collected


def test_tests_pass_from_the_sdist(unpacked):
    """Those that read what lies beside them: pages, vectors, results, the lock."""
    reading = (
        "tests/test_habits.py",
        "tests/test_readme.py",
        "tests/test_generators.py::test_philox_gives_the_published_vectors",
        "tests/test_bench.py::test_results_lie_beside_the_code_whatever_the_current_folder_is",
        "tests/test_release.py::test_a_lock_has_a_hash_of_every_package_and_no_host",
    )
    assert "passed" in pytest_from(unpacked, *reading)


def test_one_version():
    """The package's, that of its metadata, and that of the newest entry of the changelog."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    named = {
        "tip_kernels": tip_kernels.__version__,
        "pyproject.toml": re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1],
        "CHANGELOG.md": re.search(r"^## \[(.+?)\] - (?:unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)[1],
    }
    assert len(set(named.values())) == 1, named


LOCKS = {
    "dev": lambda extra: extra not in {"docs", *FRAMEWORKS},
    "docs": lambda extra: extra == "docs",
    "frameworks": lambda extra: extra in {"test", *FRAMEWORKS},
}
"""Which extras each lock serves."""


def text_of(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.lock.txt").read_text()


def locked(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each pinned package of a lock with the lines of its hashes."""
    blocks = re.split(r"\n(?=\S)", "\n".join(line for line in text_of(lock).splitlines() if not line.startswith("#")))
    lines = [[line.strip(" \\") for line in block.splitlines()] for block in blocks]
    return [(Requirement(first), hashes) for first, *hashes in lines]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_of_every_package_and_no_host(lock):
    for requirement, hashes in locked(lock):
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), requirement
    assert "://" not in text_of(lock)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_serves_what_the_package_asks_for(lock):
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    applies = [pin for pin, _ in locked(lock) if not pin.marker or pin.marker.evaluate()]
    pinned = {pin.name: str(pin.specifier)[2:] for pin in applies}
    extras = [lines for name, lines in project["optional-dependencies"].items() if LOCKS[lock](name)]
    left_out = {"torch"} if lock == "dev" else {"torch", "triton"}
    assert not left_out & pinned.keys()
    for line in itertools.chain(project["dependencies"], *extras):
        wanted = Requirement(line)
        if wanted.name not in left_out and (wanted.marker is None or wanted.marker.evaluate()):
            assert wanted.name in pinned, f"make lock: {wanted}"
            assert wanted.specifier.contains(pinned[wanted.name]), f"make lock: {wanted}"
