"""Without any one of its barriers, fences and waits, a kernel's PTX gives an error or other values in some call."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from ptx.cuda import CudaOnCpu
from ptx.mutants import mutants_of
from ptx.parse import PtxError

import tip_kernels as tip
from bench.speed.instructions import find_nvcc
from tip_kernels import _dispatch

pytestmark = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")

KEY = bytes(range(32))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Row(NamedTuple):
    """A call of perturb_ on gradients of these shapes, or of channel_saliency."""

    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any] = {}
    dtype: torch.dtype = torch.float32
    last: bool = False
    passes: int = 0
    offset: int = 0


def perturb(device: CudaOnCpu, row: Row) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    grads = []
    for shape in row.shapes:
        values = torch.randn(shape, generator=draw).to(row.dtype)
        if row.last:
            values = values.contiguous(memory_format=torch.channels_last)
        if row.offset:
            values = torch.cat([torch.zeros(row.offset, dtype=row.dtype), values.flatten()])[row.offset :].view(shape)
        grads.append(values)
    scores = [torch.rand(g.shape[0], generator=draw) if g.dim() == 4 else None for g in grads]
    device.passes = row.passes
    rng = tip.NoiseRNG(KEY)
    tip.perturb_(grads, scores, **{"ratio": 0.5, "std": 1.0, "rng": rng, "backend": "cuda", **row.options})
    return [*grads, torch.tensor(rng.step)]


def saliency(device: CudaOnCpu, row: Row) -> list[torch.Tensor]:
    grad = torch.randn(row.shapes[0], generator=torch.Generator().manual_seed(0)).to(row.dtype)
    if row.last:
        grad = grad.contiguous(memory_format=torch.channels_last)
    device.most_rows = 2  # samples for which a grid has blocks; the kernels go on with the others
    return [tip.channel_saliency(grad, backend="cuda")]


PERTURB = {
    "dense": Row(((6, 95, 3, 3),)),
    "dense, several passes": Row(((1, 600, 3, 3),), {"ratio": 1.0}, passes=2),
    "dense, unaligned": Row(((3, 75, 3, 3),), offset=1),
    "dense, several passes, unaligned": Row(((1, 601, 3, 3),), {"ratio": 1.0}, passes=2, offset=1),
    "interleaved": Row(((3, 80, 3, 3),), last=True),
    "any": Row(((5, 3, 5, 5),)),
    "replaced": Row(((5, 3, 5, 5),), {"keep": 0.5}),
    "floor": Row(((5, 7, 3, 3), (40,)), {"floor_std": 0.5}),
    "long list, dense": Row(((3, 70, 3, 3),) + ((2, 1, 3, 3),) * 30),
    "long list, several passes": Row(((1, 600, 3, 3),) + ((2, 1, 3, 3),) * 30, {"ratio": 1.0}, passes=2),
    "long list, replaced": Row(((5, 3, 5, 5),) + ((2,),) * 30, {"keep": 0.5}),
}  # fmt: skip
SALIENCY = {
    "rows for blocks": Row(((3, 2, 40, 40),)),
    "rows for warps": Row(((3, 1400, 2, 2),)),
    "columns": Row(((3, 64, 9, 9),), last=True),
    "few columns": Row(((3, 16, 3, 3),), last=True),
}
ROWS: dict[str, tuple[Callable[[CudaOnCpu, Row], list[torch.Tensor]], Row]] = {
    **{name: (perturb, row) for name, row in PERTURB.items()},
    **{
        f"{name}, {dtype}": (saliency, row._replace(dtype=dtype))
        for (name, row), dtype in itertools.product(SALIENCY.items(), DTYPES)
    },
}


@pytest.fixture(scope="module")
def device():
    device = CudaOnCpu()
    plain = _dispatch._op
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_dispatch, "_op", lambda p, n, d: device.op(p.format("")) if n == "cuda" else plain(p, n, d))
        yield device


@pytest.fixture(scope="module")
def expected(device) -> dict[str, tuple[set[str], list[torch.Tensor]]]:
    """(kernels that were launched, results) of each row."""
    found = {}
    for name, (run, row) in ROWS.items():
        device.launches.clear()
        results = run(device, row)
        found[name] = {launch.name for launch in device.launches}, results
    return found


def is_noticed(device: CudaOnCpu, name: str, results: list[torch.Tensor]) -> bool:
    run, row = ROWS[name]
    device.reset()
    try:
        return not all(map(torch.equal, run(device, row), results))
    except PtxError:
        return True


def kernels_of_interest(device: CudaOnCpu) -> list[str]:
    """All but those of the other generators, which come of the same source."""
    return [name for name in device.names() if device.generator_of(name) in (None, 12) and "write_words" not in name]


def test_rows_take_every_kernel(device, expected):
    launched = set().union(*(names for names, _ in expected.values()))
    assert launched == set(kernels_of_interest(device))


def test_every_barrier_is_needed(device, expected):
    unnoticed = []
    for kernel in kernels_of_interest(device):
        rows = [(name, results) for name, (names, results) in expected.items() if kernel in names]
        for what, mutant in mutants_of(device.kernel(kernel)):
            device.replaced = {kernel: mutant}
            if not any(is_noticed(device, name, results) for name, results in rows):
                unnoticed.append((kernel, what))
    device.replaced = {}
    device.reset()
    assert unnoticed == []
