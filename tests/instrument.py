"""Builds the CPU library with another compiler or other flags, in a copy of the tree, and runs tests there.

    python -m tests.instrument clang                      # the kernel tests, on every variant that runs here
    python -m tests.instrument asan tests/test_ops.py     # these tests, or any arguments of pytest
    python -m tests.instrument asan -m tests.fuzz_raw_ops --calls 2000 --seed 1   # any module

``clang``: Clang instead of the default compiler; CXX names another one.
``asan``: AddressSanitizer and UndefinedBehaviorSanitizer, every finding fatal. GCC.
``tsan``: ThreadSanitizer, with threads that it knows: tests/instrument_threads.cpp. GCC.
``gcov``: counts lines and branches, which ``make coverage`` sums up. GCC.

The copy stays in build/<kind> until the next run, for a debugger. Python, torch and Triton are not instrumented: of
them sanitizers see the allocations and the calls of libc. If ThreadSanitizer of GCC 12 or 13 says "unexpected memory
mapping", the kernel's addresses are too random for it: ``sysctl vm.mmap_rnd_bits=28``.
"""

import argparse
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from typing import NamedTuple

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "*.pyd", "__pycache__")
KERNEL_TESTS = [
    *(f"tests/test_{name}.py" for name in ("perturb", "generators", "normals", "saliency", "saliency_op", "threads")),
    "tests/test_cpu_variants.py::test_unknown_variant_is_refused_with_the_known_ones",
    "-k",
    "(cpu or at_once) and not compiled",
]
THREAD_TESTS = ["tests/test_threads.py", "tests/test_perturb.py", "-k", "at_once or test_threads and cpu"]
FUZZER = "tests.fuzz_raw_ops"


class Kind(NamedTuple):
    """How a library is built and its tests are run."""

    compiler: str
    flags: str = ""
    preload: tuple[str, ...] = ()
    """Libraries that must be in the process before Python: a sanitizer's, and the C++ library, whose exceptions it
    intercepts."""
    environment: dict[str, str] = {}  # noqa: RUF012  of a named tuple, never changed


# Python's own flags have -fwrapv, which makes signed overflow defined and so invisible.
KINDS = {
    "clang": Kind("clang++"),
    "asan": Kind(
        "g++",
        "-O1 -g -fno-omit-frame-pointer -fno-wrapv -fsanitize=address,undefined,float-cast-overflow "
        "-fno-sanitize-recover=all",
        ("libasan.so", "libubsan.so", "libstdc++.so"),
        {
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1:strict_init_order=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    ),
    "tsan": Kind(
        "g++",
        "-O1 -g -fno-omit-frame-pointer -fsanitize=thread",
        ("libtsan.so", "libstdc++.so"),
        {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"},
    ),
    # Inlined copies would count as branches of their own.
    "gcov": Kind("g++", "-O0 -g --coverage -fprofile-update=atomic -Dalways_inline=unused"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of pytest, or -m module ... or -c code")
    given = parser.parse_args()
    build(given.kind)
    for variant in variants():
        print(f"== {given.kind}, {variant}", flush=True)
        for command in commands(given.kind, given.arguments):
            result = run(given.kind, *command, TIP_KERNELS_CPU=variant)
            if result.returncode != 0:
                raise SystemExit(f"{given.kind}: TIP_KERNELS_CPU={variant} {' '.join(command)} failed")


def commands(kind: str, arguments: list[str]) -> list[list[str]]:
    """Arguments of Python for what is to run: what the user gave, or the tests that the kind is for."""
    # Not the default --capture=fd, with which a sanitizer's last words would be lost with the process.
    pytest = ["-m", "pytest", "-p", "no:cacheprovider", "--capture=sys"]
    if arguments:
        return [arguments if arguments[0] in ("-c", "-m") else [*pytest, *arguments]]
    if kind == "tsan":
        return [[*pytest, *THREAD_TESTS]]
    return [[*pytest, *KERNEL_TESTS], ["-m", FUZZER, "--calls", "2000", "--seed", "1"]]


def copy_of(kind: str) -> pathlib.Path:
    return ROOT / "build" / kind


def build(kind: str) -> None:
    """A fresh copy of the tree with its library built in place."""
    copy = copy_of(kind)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    compiler = compiler_of(kind)
    environment = {
        **os.environ,
        "CC": compiler,
        "CXX": compiler,
        "TIP_KERNELS_CFLAGS": KINDS[kind].flags,
        "TIP_KERNELS_VARIANTS": " ".join(variants()),
        "TIP_KERNELS_REQUIRE_COMPILED": "1",
    }
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=copy, env=environment, check=True)
    if kind == "tsan":
        threads = ["tests/instrument_threads.cpp", "-o", "threads.so"]
        subprocess.run(
            [compiler, "-std=c++17", "-g", "-fsanitize=thread", "-fPIC", "-shared", *threads], cwd=copy, check=True
        )


def compiler_of(kind: str) -> str:
    """Path of its compiler, which may have its version in its name: of Clangs the one in CXX, or the newest."""
    wanted = KINDS[kind].compiler
    names = [wanted, *(f"{wanted}-{version}" for version in range(30, 9, -1))]
    if kind == "clang" and os.environ.get("CXX"):
        names = [os.environ["CXX"]]
    found = [path for name in names if (path := shutil.which(name))]
    if not found:
        raise SystemExit(f"expected {names[0]} on PATH, got none")
    return found[0]


def variants() -> list[str]:
    """What setup.py can build that this processor runs: the others would only cost the compiler's time."""
    if platform.machine() == "aarch64":
        return ["neon"]
    widest = {"AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)
    return ["generic", "avx2", "avx512"][:widest]


def run(kind: str, *command: str, capture_output: bool = False, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python with ``command`` in the copy, whose library it finds first."""
    copy = copy_of(kind)
    preload = [library_path(name) for name in KINDS[kind].preload] + (
        [str(copy / "threads.so")] if kind == "tsan" else []
    )
    settings = {"PYTHONPATH": str(copy), "LD_PRELOAD": " ".join(preload), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env={**os.environ, **settings, **KINDS[kind].environment, **environment},
        capture_output=capture_output,
        text=True,
    )


def library_path(name: str) -> str:
    """Path of one of GCC's libraries."""
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
