"""Builds the compiled libraries. Metadata is in pyproject.toml.

The libraries use torch's stable ABI and no Python API, so one build serves torch >= 2.10 and Python >= 3.10.
``_cpu`` needs a C++17 compiler (GCC or Clang). Without one the package installs with a warning, and says at its
first use why it is slow; TIP_KERNELS_REQUIRE_COMPILED=1 makes that an error.
"""

import os
import pathlib
import platform
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from torch.utils.cpp_extension import include_paths, library_paths

REQUIRED = os.environ.get("TIP_KERNELS_REQUIRE_COMPILED") == "1"

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-ffp-contract=fast",  # fused multiply-add; nothing else of fast-math
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",  # GCC 12 warns about its own AVX-512 header
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]

# Kernels are compiled once for each instruction set; csrc/cpu/register.cpp chooses at run time.
CPU_VARIANTS = {
    "x86_64": {
        "generic": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": [
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mfma",
            "-mf16c",
            "-mprefer-vector-width=512",
        ],
    },
    "aarch64": {"neon": []},
}.get(platform.machine(), {"generic": []})


class BuildLibraries(build_ext):
    """Compiles each source with flags of its own, in parallel."""

    def build_extension(self, ext: Extension) -> None:
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(self._compile, cpu_jobs()))
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            libraries=["torch_cpu"],
            library_dirs=library_paths(),
            target_lang="c++",
        )

    def _compile(self, job: tuple[str, str, list[str]]) -> str:
        source, folder, flags = job
        output = pathlib.Path(self.build_temp) / folder
        includes = ["csrc", *include_paths()]
        return self.compiler.compile([source], str(output), include_dirs=includes, extra_postargs=FLAGS + flags)[0]


def cpu_jobs() -> list[tuple[str, str, list[str]]]:
    """(source, folder for its object, flags) of everything in the CPU library."""
    names = "".join(f" X({name})" for name in CPU_VARIANTS)
    jobs = [("csrc/cpu/register.cpp", "common", [f"-DTIP_VARIANTS(X)={names}"]), ("csrc/cpu/plan.cpp", "common", [])]
    for variant, flags in CPU_VARIANTS.items():
        for source in ("perturb.cpp", "saliency.cpp"):
            jobs.append((f"csrc/cpu/{source}", variant, [*flags, f"-DTIP_VARIANT={variant}"]))
    return jobs


setup(
    ext_modules=[Extension("tip_kernels._cpu", sources=[], py_limited_api=True, optional=not REQUIRED)],
    cmdclass={"build_ext": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
