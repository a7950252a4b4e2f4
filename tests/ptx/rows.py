"""Calls that together take every kernel of the CUDA backend, and every barrier in them."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import tip_kernels as tip

from .cuda import CudaOnCpu

KEY = bytes(range(32))
SHAPE = tip.Amplitudes(tuple(0.5 + j / 9 for j in range(9)), tuple(1.5 - j / 9 for j in range(9)))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Row(NamedTuple):
    """A call of perturb_ on gradients of these shapes, or of channel_saliency."""

    shapes: tuple[tuple[int, ...], ...]
    options: Mapping[str, Any] = MappingProxyType({})
    dtype: torch.dtype = torch.float32
    last: bool = False
    passes: int = 0
    offset: int = 0


def perturb(device: CudaOnCpu, row: Row, backend: str = "cuda") -> list[torch.Tensor]:
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
    tip.perturb_(grads, scores, **{"ratio": 0.5, "std": 1.0, "rng": rng, "backend": backend, **row.options})
    return [*grads, torch.tensor(rng.step)]


def saliency(device: CudaOnCpu, row: Row) -> list[torch.Tensor]:
    grad = torch.randn(row.shapes[0], generator=torch.Generator().manual_seed(0)).to(row.dtype)
    if row.last:
        grad = grad.contiguous(memory_format=torch.channels_last)
    device.most_rows = 2  # samples for which a grid has blocks; the kernels go on with the others
    return [tip.channel_saliency(grad, backend="cuda")]


WEIGHTS = [[0.1 * (j + 1) for j in range(9)], 0.25, None, [0.5] * 25]
PERTURB = {
    "dense": Row(((6, 95, 3, 3),)),
    "dense, several passes": Row(((1, 600, 3, 3),), {"ratio": 1.0}, passes=2),
    "dense, unaligned": Row(((3, 75, 3, 3),), offset=1),
    "dense, several passes, unaligned": Row(((1, 601, 3, 3),), {"ratio": 1.0}, passes=2, offset=1),
    "interleaved": Row(((3, 80, 3, 3),), last=True),
    "any": Row(((5, 3, 5, 5),)),
    "replaced": Row(((5, 3, 5, 5),), {"keep": 0.5}),
    "floor": Row(((5, 7, 3, 3), (40,)), {"floor_std": 0.5}),
    "floor, dense": Row(((6, 95, 3, 3),), {"floor_std": 0.5}),
    "floor, several passes": Row(((2, 600, 3, 3), (2148,)), {"floor_std": 0.5}, passes=2),
    "floor, unaligned": Row(((1, 601, 3, 3), (3000,)), {"floor_std": 0.5}, passes=2, offset=1),
    "floor, interleaved": Row(((3, 80, 3, 3),), {"floor_std": 0.5}, last=True),
    "long list, floor": Row(((2, 600, 3, 3), (2148,)) + ((40,),) * 30, {"floor_std": 0.5}, passes=2),
    "clipped": Row(((6, 20, 3, 3), (2000,), (7, 5)), {"max_grad_norm": 0.5}),
    "long list, clipped": Row(((6, 20, 3, 3), (2000,)) + ((7, 5),) * 200, {"max_grad_norm": 0.5}),
    "clipped by weights": Row(
        ((6, 20, 3, 3), (2000,), (7, 5), (3, 2, 5, 5)), {"max_grad_norm": 0.5, "norm_weights": WEIGHTS}
    ),
    "long list, clipped by weights": Row(
        ((6, 20, 3, 3),) + ((2, 1, 3, 3),) * 30, {"max_grad_norm": 0.5, "norm_weights": WEIGHTS[:1] * 31}
    ),
    "ranked before": Row(((3000, 8, 3, 3), (6, 20, 3, 3))),
    "long list, ranked before": Row(((3000, 8, 3, 3),) + ((2, 1, 3, 3),) * 30),
    "long list, dense": Row(((3, 70, 3, 3),) + ((2, 1, 3, 3),) * 30),
    "long list, several passes": Row(((1, 600, 3, 3),) + ((2, 1, 3, 3),) * 30, {"ratio": 1.0}, passes=2),
    "two kernels a group": Row(((5, 7, 3, 3),), {"keep": 0.5}),
    "four groups a kernel": Row(((3, 2, 7, 7),)),
    "shaped, dense": Row(((6, 95, 3, 3),), {"amplitudes": [SHAPE]}),
    "shaped, floor, dense": Row(((6, 95, 3, 3),), {"floor_std": 0.5, "amplitudes": [SHAPE]}),
    "shaped, floor, interleaved": Row(((3, 80, 3, 3),), {"floor_std": 0.5, "amplitudes": [SHAPE]}, last=True),
    "shaped, floor, replaced": Row(((5, 7, 3, 3),), {"floor_std": 0.5, "keep": 0.5, "amplitudes": [SHAPE]}),
    "long list, any": Row(((5, 3, 5, 5),) + ((2, 1, 3, 3),) * 30),
    "long list, replaced": Row(((5, 3, 5, 5), (5, 7, 3, 3)) + ((2, 1, 3, 3),) * 30, {"keep": 0.5}),
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
