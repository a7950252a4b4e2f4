"""The CPU library for 64-bit ARM, cross-compiled, and tests of its kernels under emulation.

    python -m tests.aarch64                     # the tests of the CPU kernels
    python -m tests.aarch64 tests/test_rng.py   # these, or any arguments of pytest

Needs Debian's g++-aarch64-linux-gnu, qemu-user-static and mmdebstrap, and uv on PATH. Python and the C library for ARM
come from Debian; torch is the oldest that is supported, and the library is built with the headers of the torch that is
installed here. Tests that start processes cannot run, because no emulated program can start another.
Everything is in build/aarch64; root/ and site/ stay there for the next run.
"""

import os
import pathlib
import shutil
import subprocess
import sys

from tests.fetch_torches import oldest
from tests.instrument import NOT_COPIED

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "aarch64"
SYSTEM, SITE, SOURCE = FOLDER / "root", FOLDER / "site", FOLDER / "source"

DEBIAN, PYTHON = "bookworm", "3.11"
PROCESSOR = "neoverse-n1"
"""Without SVE: on QEMU's default processor, which has it, convolutions of torch stop with illegal instructions."""
PACKAGES = ["cryptography", "hypothesis", "mpmath", "numpy", "pytest", "randomgen", "scipy"]
NAMES = (
    *("perturb", "cpu_paths", "rounding", "generators", "far_addresses", "normals", "determinism", "shaping"),
    *("saliency", "saliency_op", "clip_scale", "raw_ops", "threads"),
)
TESTS = [*(f"tests/test_{name}.py" for name in NAMES), "-k", "cpu and not compiled and not random_ill_formed"]

EMULATED = """
import platform, torch, tip_kernels
assert platform.machine() == "aarch64", platform.machine()
assert torch.ops.tip_kernels.cpu_variant() == "neon"
"""
"""Without the library tests would pass, too: they skip backends that cannot run."""


def main() -> None:
    needed = ("aarch64-linux-gnu-g++", "qemu-aarch64-static", "mmdebstrap", "uv")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        sys.exit(f"expected {', '.join(missing)} on PATH, got none")
    get_python()
    get_packages()
    build()
    python("-c", EMULATED)
    python("-m", "pytest", "-p", "no:cacheprovider", "--durations", "5", *(sys.argv[1:] or TESTS))


def get_python() -> None:
    """Python with the libraries that it and torch need, unpacked and not installed."""
    if SYSTEM.exists():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    packages = f"--include=python{PYTHON},libstdc++6,libgomp1"
    unfinished = FOLDER / "unfinished"
    subprocess.run(["mmdebstrap", "--arch=arm64", "--variant=extract", packages, DEBIAN, unfinished], check=True)
    unfinished.rename(SYSTEM)


def get_packages() -> None:
    """torch and what tests import, for that Python."""
    target = ["--python-platform", "aarch64-manylinux_2_28", "--python-version", PYTHON, "--target", SITE]
    install = ["uv", "pip", "install", "--quiet", "--only-binary", ":all:", *target]
    subprocess.run([*install, f"torch=={oldest()}.*", *PACKAGES], check=True)


def build() -> None:
    """A fresh copy of the tree with its library built in place. Any warning of the compiler is an error."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT, SOURCE, ignore=NOT_COPIED)
    environment = {
        **os.environ,
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "CC": "aarch64-linux-gnu-gcc",
        "CXX": "aarch64-linux-gnu-g++",
        "LDFLAGS": f"-L{SITE / 'torch' / 'lib'}",
        "TIP_KERNELS_CFLAGS": "-Werror",
        "TIP_KERNELS_CUDA_ARCHS": "none",
        "TIP_KERNELS_REQUIRE_COMPILED": "1",
    }
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=SOURCE, env=environment, check=True)


def python(*arguments: str) -> None:
    """Runs the emulated Python on the copy; ends the program with its exit status if that is not 0."""
    emulator = ["qemu-aarch64-static", "-cpu", PROCESSOR, "-L", SYSTEM, SYSTEM / "usr" / "bin" / f"python{PYTHON}"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{SOURCE}{os.pathsep}{SITE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    status = subprocess.run([*emulator, *arguments], cwd=SOURCE, env=environment).returncode
    if status != 0:
        sys.exit(status)


if __name__ == "__main__":
    main()
