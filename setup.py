"""Builds the compiled libraries. Metadata is in pyproject.toml.

The libraries use torch's stable ABI and no Python API, so one build serves torch >= 2.10 and Python >= 3.10.
``_cpu`` needs a C++17 compiler. A library that cannot be built is left out with a warning: the package then
installs, and says at its first use why it is slow. Set TIP_KERNELS_REQUIRE=cpu to fail instead.
"""

import os
import pathlib
import platform
import warnings
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = pathlib.Path("csrc")
COMMON_FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-DTORCH_TARGET_VERSION=0x020a000000000000"]

# Kernels are compiled once for each instruction set; csrc/cpu/register.cpp chooses at run time.
CPU_VARIANTS = {
    "x86_64": {
        "scalar": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"],
    },
    "aarch64": {"scalar": ["-fno-tree-vectorize"], "neon": []},
}.get({"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()), {"scalar": []})


class BuildLibraries(build_ext):
    """Compiles each source with its own flags, in parallel, and survives a library that cannot be built."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except Exception as error:
            if ext.name.rpartition("_")[2] in os.environ.get("TIP_KERNELS_REQUIRE", "").split(","):
                raise
            warnings.warn(f"{ext.name} was not built: {error}", stacklevel=1)

    def copy_extensions_to_source(self) -> None:
        self.extensions = [ext for ext in self.extensions if pathlib.Path(self.get_ext_fullpath(ext.name)).exists()]
        super().copy_extensions_to_source()

    def _build(self, ext: Extension) -> None:
        jobs = cpu_jobs() if ext.name.endswith("_cpu") else []
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(self._compile, jobs))
        self.compiler.link_shared_object(objects, self.get_ext_fullpath(ext.name), target_lang="c++")

    def _compile(self, job: tuple[str, str, list[str]]) -> str:
        source, variant, flags = job
        folder = pathlib.Path(self.build_temp) / variant
        from torch.utils.cpp_extension import include_paths

        (compiled,) = self.compiler.compile(
            [source], str(folder), include_dirs=[str(CSRC), *include_paths()], extra_postargs=COMMON_FLAGS + flags
        )
        return compiled


def cpu_jobs() -> list[tuple[str, str, list[str]]]:
    """(source, folder for its object, flags) of everything in the CPU library."""
    names = "".join(f" X({name})" for name in CPU_VARIANTS)
    jobs = [("csrc/cpu/register.cpp", "common", [f"-DTIP_VARIANTS(X)={names}"])]
    for variant, flags in CPU_VARIANTS.items():
        for source in ("perturb.cpp", "saliency.cpp"):
            jobs.append((f"csrc/cpu/{source}", variant, [*flags, f"-DTIP_VARIANT={variant}"]))
    return jobs


setup(
    ext_modules=[Extension("tip_kernels._cpu", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
