"""Which lines of their PTX the GPU kernels issue in a call, and how often: counted by executing it on the CPU."""

import collections
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

import tip_kernels as tip
from tests.ptx.cuda import CudaOnCpu
from tests.ptx.dispatch import use
from tip_kernels.backends.triton import portions

ARCH = "90"


class Path(NamedTuple):
    """A call of which a block's work is counted, for every element of a tensor."""

    name: str
    shape: tuple[int, ...]
    options: dict
    dtype: torch.dtype = torch.float32
    last: bool = False
    generator: str = "chacha12"
    bytes_moved: int = 2  # times the size of an element
    small_model: bool = False  # whose blocks have little to do each


class Launch(NamedTuple):
    """What was launched."""

    ptx: str
    kernel: str
    issued: collections.Counter[int]  # by line of PTX, how many warps


def launches_of(path: Path, backend: str) -> list[Launch]:
    """Those of the call, with every channel selected unless the path says otherwise."""
    with pytest.MonkeyPatch.context() as patch, _on_cpu(path, backend, patch) as launches:
        grad = torch.randn(path.shape).to(path.dtype)
        if path.last:
            grad = grad.contiguous(memory_format=torch.channels_last)
        scores = torch.rand(path.shape[0]) if grad.dim() == 4 else None
        options = {"ratio": 1.0, "std": 1.0, "rng": tip.NoiseRNG(generator=path.generator), **path.options}
        tip.perturb_([grad], [scores], backend=backend, **options)
    return launches


@contextlib.contextmanager
def _on_cpu(path: Path, backend: str, patch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    """What is launched in it, in a list that is filled at the end."""
    launches: list[Launch] = []
    if backend == "cuda":
        device = CudaOnCpu(ARCH)
        device.count_issued = True
        device.passes = 0 if path.small_model or path.shape[0] * path.shape[1] <= 300 else 8
        use("cuda", device.op, patch)
        yield launches
        launches += [Launch(device.ptx_of(made.name).read_text(), made.name, issued) for made, issued in device.issued]
    else:
        from tests.ptx.triton_on_cpu import TritonOnCpu  # it imports Triton

        triton = TritonOnCpu()
        triton.count_issued = True
        if path.small_model:
            triton.enough_programs = portions._ENOUGH_PROGRAMS
        triton.install(patch)
        use("triton", triton.op, patch)
        yield launches
        launches += [Launch(ptx, "perturb_portions", issued) for ptx, issued in triton.issued]
