"""Builds the compiled libraries. Metadata is in pyproject.toml.

The libraries use torch's stable ABI and no Python API, so one build serves torch >= 2.10 and Python >= 3.10.
``_cpu`` needs a C++17 compiler (GCC or Clang). Without one the package installs with a warning, and says at its
first use why it is slow; TIP_KERNELS_REQUIRE_COMPILED=1 makes that an error. TIP_KERNELS_CFLAGS holds further flags
for compiling and linking it, which override all others, and TIP_KERNELS_VARIANTS names the instruction sets of
CPU_VARIANTS that are wanted ("generic avx2"), all unless given: both for tests/instrument.py.
``_cuda`` needs nvcc 12.1 or newer, and no GPU. It is built if torch has CUDA, or for the compute capabilities that
TIP_KERNELS_CUDA_ARCHS lists ("90" or "80;90", against a torch without CUDA too; "none": it is not built).
sysconfig's platform is the one that is built for: tests/aarch64.py cross-compiles.
Builds of the same sources with the same compiler and torch have the same bytes, if dates are SOURCE_DATE_EPOCH; but
nvcc names hidden symbols anew in every build, so that of ``_cuda`` differs.
"""

import gzip
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sysconfig
import tarfile
from concurrent.futures import ThreadPoolExecutor

import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError
from torch.utils.cpp_extension import include_paths, library_paths

REQUIRED = os.environ.get("TIP_KERNELS_REQUIRE_COMPILED") == "1"
EXTRA_FLAGS = shlex.split(os.environ.get("TIP_KERNELS_CFLAGS", ""))

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-ffp-contract=fast",  # fused multiply-add; nothing else of fast-math
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    # The same bytes wherever it is built, and no folder of whoever built it in messages or debug information.
    f"-ffile-prefix-map={pathlib.Path.cwd()}=.",
    *(f"-ffile-prefix-map={folder}=torch" for folder in include_paths()),
]

# Kernels are compiled once for each instruction set; csrc/cpu/variant.cpp chooses at run time.
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
}.get(sysconfig.get_platform().rpartition("-")[2], {"generic": []})
WANTED_VARIANTS = os.environ.get("TIP_KERNELS_VARIANTS", "").split() or list(CPU_VARIANTS)

CUDA_ARCHS = ("80", "86", "89", "90", "100", "120")
GENERATORS = (8, 10, 12, 20)  # each an object of its own
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-I", "csrc"]


class BuildLibraries(build_ext):
    """Compiles each source with flags of its own, in parallel."""

    def build_extension(self, ext: Extension) -> None:
        is_cuda = ext.name.endswith("_cuda")
        jobs = cuda_jobs() if is_cuda else cpu_jobs()
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(self._compile, jobs))
        if is_cuda:
            self._link_cuda(objects, self.get_ext_fullpath(ext.name))
            return
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            libraries=["torch_cpu"],
            library_dirs=library_paths(),
            extra_postargs=EXTRA_FLAGS,
            target_lang="c++",
        )

    def _compile(self, job: tuple[str, str, list[str]]) -> str:
        source, folder, flags = job
        output = pathlib.Path(self.build_temp) / folder
        if source.endswith(".cu"):
            target = output / pathlib.Path(source).with_suffix(".o").name
            target.parent.mkdir(parents=True, exist_ok=True)
            run_nvcc([*NVCC_FLAGS, *flags, "-c", source, "-o", str(target)])
            return str(target)
        includes = ["csrc", *include_paths()]
        return self.compiler.compile([source], str(output), include_dirs=includes, extra_postargs=[*FLAGS, *flags])[0]

    def _link_cuda(self, objects: list[str], target: str) -> None:
        pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
        folders = [flag for path in library_paths() for flag in ("-L", path)]
        run_nvcc(["-shared", "-cudart", "static", *objects, "-o", target, *folders, "-ltorch_cpu", "-ldl"])


class ReproducibleSdist(sdist):
    """An archive with the same bytes for the same files: names in order, one date (SOURCE_DATE_EPOCH), no owner."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None) -> str:
        date = os.environ.get("SOURCE_DATE_EPOCH")
        if date is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        archive = pathlib.Path(f"{base_name}.tar.gz")
        archive.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(archive, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=int(date)) as packed,
            tarfile.open(fileobj=packed, mode="w") as tar,
        ):
            tar.add(base_dir, filter=lambda member: anonymous(member, int(date)))
        return str(archive)


def anonymous(member: tarfile.TarInfo, date: int) -> tarfile.TarInfo:
    """``member`` without what differs between machines."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    member.mtime = date
    return member


def cpu_jobs() -> list[tuple[str, str, list[str]]]:
    """(source, folder for its object, flags) of everything in the CPU library."""
    names = "".join(f" X({name})" for name in WANTED_VARIANTS)
    jobs = [("csrc/cpu/variant.cpp", "common", [f"-DTIP_VARIANTS(X)={names}", *EXTRA_FLAGS])]
    jobs += [(f"csrc/cpu/{name}.cpp", "common", EXTRA_FLAGS) for name in ("register", "plan")]
    for variant in WANTED_VARIANTS:
        flags = [*CPU_VARIANTS[variant], f"-DTIP_VARIANT={variant}", *EXTRA_FLAGS]
        jobs += [
            (f"csrc/cpu/{source}", variant, flags)
            for source in ("perturb.cpp", "words.cpp", "saliency.cpp", "norm.cpp")
        ]
    return jobs


def cuda_jobs() -> list[tuple[str, str, list[str]]]:
    """(source, folder for its object, flags) of everything in the CUDA library."""
    targets = cuda_targets()
    jobs = [("csrc/cuda/perturb.cu", f"cuda{n}", [*targets, f"-DTIP_GENERATOR={n}"]) for n in GENERATORS]
    jobs += [(f"csrc/cuda/{name}.cu", "cuda", targets) for name in ("saliency", "device", "rank", "norm")]
    return jobs + [(f"csrc/cuda/{name}.cpp", "cuda", []) for name in ("register", "plan", "launch")]


def cuda_targets() -> list[str]:
    """Flags of nvcc for the wanted compute capabilities that it knows, and PTX of the newest for later ones."""
    known = re.findall(r"compute_(\d+)", run_nvcc(["--list-gpu-arch"]))
    wanted = re.findall(r"\d+", os.environ.get("TIP_KERNELS_CUDA_ARCHS", "")) or CUDA_ARCHS
    archs = sorted((arch for arch in wanted if arch in known), key=int)
    if not archs:
        raise CompileError(f"expected TIP_KERNELS_CUDA_ARCHS among {', '.join(known)}, got {', '.join(wanted)}")
    pairs = [(arch, f"sm_{arch}") for arch in archs] + [(archs[-1], f"compute_{archs[-1]}")]
    return [f"-gencode=arch=compute_{arch},code={code}" for arch, code in pairs]


def nvcc() -> str | None:
    """Path of nvcc: in CUDA_HOME, on PATH or where CUDA is installed."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which("/usr/local/cuda/bin/nvcc")


def run_nvcc(arguments: list[str]) -> str:
    """What nvcc printed; raises CompileError with it."""
    result = subprocess.run([str(nvcc()), *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise CompileError(result.stdout + result.stderr)
    return result.stdout


def extensions() -> list[Extension]:
    """The libraries to build here."""
    names = ["tip_kernels._cpu"]
    archs = os.environ.get("TIP_KERNELS_CUDA_ARCHS")
    wants_cuda = archs != "none" and (torch.version.cuda is not None or bool(archs))
    if wants_cuda and nvcc() is not None:
        names.append("tip_kernels._cuda")
    elif wants_cuda:
        print("note: nvcc is not installed, so the CUDA library is not built; Triton serves the GPU")
    return [Extension(name, sources=[], py_limited_api=True, optional=not REQUIRED) for name in names]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildLibraries, "sdist": ReproducibleSdist},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
