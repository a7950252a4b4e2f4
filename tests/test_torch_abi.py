"""Every source that knows torch compiles with the headers of each torch at hand, and asks for no symbol that it lacks.

That is the installed torch and, after ``make test-torches``, the oldest that is supported and the newest, whose wheels
``fetch_torches.py`` brings.
"""

import functools
import os
import pathlib
import re
import runpy
import subprocess
from typing import NamedTuple

import pytest
import setuptools
import torch
from fetch_torches import FOLDER, oldest
from torch.utils.cpp_extension import include_paths

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = re.compile(r"(aoti_torch|torch)_\w+")
CUDA_ONLY = {"aoti_torch_get_current_cuda_stream"}
"""What the CUDA library may ask of libtorch_cuda, which not every wheel has."""


class Torch(NamedTuple):
    version: str
    includes: list[str]
    libraries: pathlib.Path


def unpacked(folder: pathlib.Path) -> Torch:
    include = folder / "torch" / "include"
    paths = [include, include / "torch" / "csrc" / "api" / "include"]
    return Torch(folder.name, [str(path) for path in paths], folder / "torch" / "lib")


INSTALLED = Torch(f"installed {torch.__version__}", include_paths(), pathlib.Path(torch.__file__).parent / "lib")
TORCHES = [INSTALLED, *(unpacked(folder) for folder in sorted(FOLDER.glob("*.*")))]


def build() -> dict:
    """The names of setup.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        return runpy.run_path(str(ROOT / "setup.py"))


SOURCES = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*/*.c*") if "#include <torch/" in path.read_text()
)


def flags() -> list[str]:
    flags = [flag for flag in build()["FLAGS"] if not flag.startswith("-ffile-prefix-map")]
    return [*flags, "-DTIP_VARIANTS(X)=X(generic)"]


def compile_with(installed: Torch, source: str, target: pathlib.Path) -> subprocess.CompletedProcess:
    system = [flag for path in installed.includes for flag in ("-isystem", path)]
    command = [os.environ.get("CXX", "g++"), *flags(), "-O0", "-Werror", f"-I{ROOT / 'csrc'}", *system]
    return subprocess.run([*command, "-c", source, "-o", target], cwd=ROOT, capture_output=True, text=True)


def symbols(path: pathlib.Path, *options: str) -> set[str]:
    listed = subprocess.run(["nm", *options, str(path)], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines()}


@functools.cache
def provided(libraries: pathlib.Path) -> set[str]:
    found = [libraries / name for name in ("libtorch_cpu.so", "libtorch_cuda.so")]
    return set().union(*(symbols(path, "--dynamic", "--defined-only") for path in found if path.exists()))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("installed", TORCHES, ids=lambda one: one.version)
def test_compiles_and_finds_its_symbols(installed, source, tmp_path):
    target = tmp_path / "object.o"
    done = compile_with(installed, source, target)
    assert done.returncode == 0, done.stderr
    needed = {name for name in symbols(target, "--undefined-only") if OURS.fullmatch(name)}
    assert needed or "register" not in source
    has_cuda = (installed.libraries / "libtorch_cuda.so").exists()
    assert needed - provided(installed.libraries) <= (set() if has_cuda else CUDA_ONLY)


def test_a_macro_of_newer_headers_is_noticed(tmp_path):
    """The fault that this test is for: a name that not all versions have."""
    source = tmp_path / "newer.cpp"
    source.write_text("#include <torch/csrc/stable/tensor.h>\nvoid f() { NAME_OF_A_NEWER_TORCH(0); }\n")
    assert "NAME_OF_A_NEWER_TORCH" in compile_with(INSTALLED, str(source), tmp_path / "newer.o").stderr


@pytest.mark.skipif(not FOLDER.exists(), reason="make test-torches brings the oldest and the newest torch")
def test_the_oldest_is_among_them():
    assert any(one.version.startswith(oldest()) for one in TORCHES[1:])
    assert len(TORCHES) == 3
