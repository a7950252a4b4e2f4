"""Compiles the CUDA sources to PTX and to host code, linked with a runtime that runs nothing itself."""

import fcntl
import hashlib
import pathlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from torch.utils.cpp_extension import include_paths, library_paths

from bench import paths
from bench.speed.instructions import GENERATORS, find_nvcc

HERE = pathlib.Path(__file__).parent
ARCHS = ("90", "80")
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", f"-I{paths.ROOT / 'csrc'}"]
HOST_FLAGS = ["-DTORCH_TARGET_VERSION=0x020a000000000000", *(f"-I{path}" for path in include_paths())]


class Built(NamedTuple):
    library: pathlib.Path
    ptx: dict[str, list[pathlib.Path]]  # by architecture


def build() -> Built:
    """Once for each state of the sources, whatever process asks first."""
    sources = sorted([*(paths.ROOT / "csrc").rglob("*"), *HERE.glob("*.cpp"), HERE / "build.py"])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources if path.is_file()))
    folder = paths.ROOT / "build" / "ptx" / digest.hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _compile(folder)
            (folder / "ready").touch()
    found = {arch: sorted(folder.glob(f"*/*compute_{arch}.ptx")) for arch in ARCHS}
    return Built(folder / "cuda_on_cpu.so", found)


def _compile(folder: pathlib.Path) -> None:
    jobs = [(f"generator{number}", "cuda/perturb.cu", [f"-DTIP_GENERATOR={number}"]) for number in GENERATORS.values()]
    host = [f"csrc/cuda/{name}.cpp" for name in ("plan", "launch")]
    jobs += [(name, f"cuda/{name}.cu", []) for name in ("saliency", "rank", "norm", "device")]
    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(lambda job: _compile_device(folder, *job), jobs))
        sources = [*(paths.ROOT / source for source in host), HERE / "cuda_ops.cpp", HERE / "runtime.cpp"]
        objects += list(pool.map(lambda source: _compile_host(folder, source), sources))
    libraries = [flag for path in library_paths() for flag in ("-L", path)]
    flags = ["-shared", "-cudart", "none", "-Xlinker=-Bsymbolic,-z,defs"]
    _nvcc([*flags, *map(str, objects), "-o", str(folder / "cuda_on_cpu.so"), *libraries, "-ltorch_cpu"])


def _compile_device(folder: pathlib.Path, name: str, source: str, flags: list[str]) -> pathlib.Path:
    """The object, with PTX beside it; nothing is made of the PTX."""
    own = folder / name
    own.mkdir(parents=True)
    targets = [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in ARCHS]
    target = own / f"{name}.o"
    kept = ["-keep", "-keep-dir", str(own)]
    _nvcc([*NVCC_FLAGS, *targets, *flags, *kept, "-c", str(paths.ROOT / "csrc" / source), "-o", str(target)])
    for other in own.iterdir():
        if other.suffix not in (".o", ".ptx"):
            other.unlink()
    return target


def _compile_host(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
    target = folder / f"{source.stem}.o"
    _nvcc([*NVCC_FLAGS, *HOST_FLAGS, "-c", str(source), "-o", str(target)])
    return target


def _nvcc(arguments: list[str]) -> None:
    done = subprocess.run([str(find_nvcc()), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(re.sub(r"\n+", "\n", done.stdout + done.stderr))
