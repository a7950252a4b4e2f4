"""Four kernels in memory, which a lane reads and writes in vectors of four elements."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .table import CONTIGUOUS, INTERLEAVED, STRIDED
from .vectors import join, narrow, split, zeros


class Place(NamedTuple):
    """Where the kernels of each lane are."""

    grad: Any
    dense: Any  # int64 [LANES]: offset of the first, if all kernels lie one after the other
    first: Any  # int64 [LANES]: offset of the first, in any case
    tap_offsets: Any  # pointer
    stride: Any  # from kernel to kernel
    mask: Any  # [LANES]


@triton.jit
def _pointers(place, i: tl.constexpr, ACCESS: tl.constexpr):
    """Pointers [LANES, 4] to what a lane reads i-th: four elements in a row, or tap i of its four kernels."""
    four = tl.arange(0, 4)[None, :]
    BYTES: tl.constexpr = 4 * place.grad.dtype.element_ty.itemsize
    if ACCESS == CONTIGUOUS:
        pointers = place.grad + (place.dense[:, None] + (4 * i + four))
    elif ACCESS == INTERLEAVED:
        pointers = place.grad + (place.first + tl.load(place.tap_offsets + i))[:, None] + four
    else:
        pointers = place.grad + (place.first + tl.load(place.tap_offsets + i))[:, None] + four * place.stride
    if ACCESS != STRIDED:  # and no return before: Triton would compile, and believe, what comes after it
        pointers = tl.max_contiguous(tl.multiple_of(pointers, (1, BYTES)), (1, 4))
    return pointers


@triton.jit
def _load(place, ACCESS: tl.constexpr, TAPS: tl.constexpr, LANES: tl.constexpr):
    values = ()
    for i in tl.static_range(TAPS):
        vector = tl.load(_pointers(place, i, ACCESS), mask=place.mask[:, None])
        values = values + split(vector.to(tl.float32), 4, LANES)
    if ACCESS == CONTIGUOUS:
        kernels = values
    else:  # tap by tap so far
        kernels = ()
        for i in tl.static_range(4 * TAPS):
            kernels = kernels + (values[i % TAPS * 4 + i // TAPS],)
    return kernels


@triton.jit
def load_quad(place, access, ACCESSES: tl.constexpr, TAPS: tl.constexpr, LANES: tl.constexpr):
    """4 TAPS tensors [LANES], kernel by kernel. ``access`` is one of ACCESSES, which are added up."""
    if ACCESSES == CONTIGUOUS or ACCESSES == INTERLEAVED or ACCESSES == STRIDED:
        kernels = _load(place, ACCESSES, TAPS, LANES)
    else:
        kernels = zeros(4 * TAPS, LANES)
        if CONTIGUOUS & ACCESSES:
            if access == CONTIGUOUS:
                kernels = _load(place, CONTIGUOUS, TAPS, LANES)
        if INTERLEAVED & ACCESSES:
            if access == INTERLEAVED:
                kernels = _load(place, INTERLEAVED, TAPS, LANES)
        if STRIDED & ACCESSES:
            if access == STRIDED:
                kernels = _load(place, STRIDED, TAPS, LANES)
    return kernels


@triton.jit
def _store(
    place, kernels,
    ACCESS: tl.constexpr, TAPS: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    for i in tl.static_range(TAPS):
        if ACCESS == CONTIGUOUS:
            values = join((kernels[4 * i], kernels[4 * i + 1], kernels[4 * i + 2], kernels[4 * i + 3]), 4, LANES)
        else:
            values = join((kernels[i], kernels[TAPS + i], kernels[2 * TAPS + i], kernels[3 * TAPS + i]), 4, LANES)
        tl.store(_pointers(place, i, ACCESS), narrow(values, DTYPE, INTERPRETED), mask=place.mask[:, None])


@triton.jit
def store_quad(
    place, kernels, access,
    ACCESSES: tl.constexpr, TAPS: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Writes what ``load_quad`` returns."""
    if ACCESSES == CONTIGUOUS or ACCESSES == INTERLEAVED or ACCESSES == STRIDED:
        _store(place, kernels, ACCESSES, TAPS, DTYPE, INTERPRETED, LANES)
    else:
        if CONTIGUOUS & ACCESSES:
            if access == CONTIGUOUS:
                _store(place, kernels, CONTIGUOUS, TAPS, DTYPE, INTERPRETED, LANES)
        if INTERLEAVED & ACCESSES:
            if access == INTERLEAVED:
                _store(place, kernels, INTERLEAVED, TAPS, DTYPE, INTERPRETED, LANES)
        if STRIDED & ACCESSES:
            if access == STRIDED:
                _store(place, kernels, STRIDED, TAPS, DTYPE, INTERPRETED, LANES)
