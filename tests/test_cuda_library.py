"""The compiled CUDA library, built by setup.py as for a user: it loads with any torch, and says why it cannot run here.

Needs nvcc, and no GPU.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

from bench.speed.instructions import find_nvcc

ROOT = pathlib.Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed"),
    pytest.mark.xdist_group("cuda library"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> pathlib.Path:
    """For one compute capability; whatever does not build is an error."""
    folder = tmp_path_factory.mktemp("library")
    options = ["--build-lib", str(folder), "--build-temp", str(folder / "temp")]
    settings = {"TIP_KERNELS_CUDA_ARCHS": "90", "TIP_KERNELS_REQUIRE_COMPILED": "1", "TIP_KERNELS_VARIANTS": "generic"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", *options]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True, capture_output=True)
    (found,) = folder.glob("tip_kernels/_cuda*.so")
    return found


def run(code: str, *arguments: pathlib.Path) -> str:
    """Runs a program that has no other compiled library, so that nothing else registers the ops."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def undefined(library: pathlib.Path) -> set[str]:
    listed = subprocess.run(["nm", "--dynamic", "--undefined-only", str(library)], capture_output=True, text=True)
    return {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}


def test_needs_nothing_that_only_a_cuda_torch_has(library):
    names = undefined(library)
    assert not [name for name in names if name.startswith("cuda") or "cuda_stream" in name]
    assert "torch_library_impl" in names or "aoti_torch_library_impl" in names


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_why_it_cannot_run(library):
    """Without a driver: the reason names both versions of CUDA, and comes from the library itself."""
    load = "import sys, torch, tip_kernels; torch.ops.load_library(sys.argv[1])"
    reason = run(f"{load}; print(torch.ops.tip_kernels.cuda_problem(0))", library).strip()
    assert reason.startswith("its library was built with CUDA 1")
    assert reason.endswith("and the driver supports up to CUDA 0.0")


FAKE = """
#include <stdint.h>
int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream) { *stream = 0; return 0; }
"""

CALL = """
import ctypes, sys, torch, tip_kernels
from torch._C import DispatchKey
if len(sys.argv) > 2:
    ctypes.CDLL(sys.argv[2])
torch.ops.load_library(sys.argv[1])
state, out = torch.zeros(6, dtype=torch.int64), torch.zeros(4, dtype=torch.int32)
assert torch._C._dispatch_has_kernel_for_dispatch_key("tip_kernels::words_", "CUDA")
with torch._C._IncludeDispatchKeyGuard(DispatchKey.CUDA):
    try:
        torch.ops.tip_kernels.words_(out, state, 0, 0, 12)
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_finds_the_current_stream_in_a_library_that_is_loaded(library, tmp_path):
    """Its CUDA kernel, called by force with CPU tensors, asks for the stream: of no library, then of a stand-in."""
    assert "expected a torch with CUDA" in run(CALL, library)
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    source, fake = tmp_path / "fake.c", tmp_path / "libtorch_cuda.so"
    source.write_text(FAKE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", source, "-o", fake], check=True)
    assert "expected a torch with CUDA" not in run(CALL, library, fake)
