"""The path ELEMENTS, for tensors without a high band: a lane owns a group of words, one for each element."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .grid import all_to_grid
from .normals import to_normals
from .table import CONTIGUOUS, ROW_KERNELS, ROW_RUN_ELEMENTS, ROW_RUN_LENGTH, ROW_TAP_OFFSETS, ROW_TAPS, ROW_TENSOR_ID
from .tile import locate_kernel, portion_of
from .vectors import join, narrow, split, zeros
from .words import generate


class _Group(NamedTuple):
    """The elements of each lane: 16 that follow one another in a run, a part of the tensor in logical order."""

    first: Any  # int64 [LANES]: the first one in the tensor
    low: Any  # int32 [LANES]: of the 16 the first that is in the run, and the one after the last
    high: Any


@triton.jit
def _noise(stream, tensor_id, group, floor, GENERATOR: tl.constexpr, REAL: tl.constexpr, LANES: tl.constexpr):
    """16 tensors [LANES]; nothing is drawn for a tensor whose floor is zero."""
    noise = zeros(16, LANES)
    if floor != 0.0:
        words = generate(stream, tensor_id, group, GENERATOR)
        if REAL == tl.float32:
            noise = to_normals(words, floor, 16, 16)
        else:
            noise = to_normals(words, 1.0, 16, 16)
    return noise


@triton.jit
def _changed(x, noise, amounts, FLOOR: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr):
    result = ()
    for i in tl.static_range(16):
        value = x[i]
        if SCALE:
            value = value * amounts.scale
        if FLOOR and REAL == tl.float32:
            value += noise[i]
        elif FLOOR:
            value += noise[i].to(REAL) * amounts.floor
        result = result + (value,)
    if FLOOR:
        result = all_to_grid(result, amounts.limit, 16)
    return result


@triton.jit
def _vector(grad, group, i: tl.constexpr, VECTOR: tl.constexpr):
    """Pointers [LANES, VECTOR] from each group's i-th element on, at an aligned address."""
    pointers = (grad + group.first)[:, None] + (i + tl.arange(0, VECTOR))[None, :]
    return tl.max_contiguous(tl.multiple_of(pointers, (1, 16)), (1, VECTOR))


@triton.jit
def _perturb_vectors(
    grad, group, noise, amounts,
    VECTOR: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, DTYPE: tl.constexpr, REAL: tl.constexpr,
    INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Of a contiguous run that consists of whole vectors of 16 bytes."""
    x = ()
    for i in tl.static_range(0, 16, VECTOR):
        inside = ((i >= group.low) & (i < group.high))[:, None]
        vector = tl.load(_vector(grad, group, i, VECTOR), mask=inside, other=0.0)
        x = x + split(vector.to(REAL), VECTOR, LANES)
    x = _changed(x, noise, amounts, FLOOR, SCALE, REAL)
    for i in tl.static_range(0, 16, VECTOR):
        inside = ((i >= group.low) & (i < group.high))[:, None]
        values = ()
        for v in tl.static_range(VECTOR):
            values = values + (x[i + v],)
        vector = narrow(join(values, VECTOR, LANES), DTYPE, INTERPRETED)
        tl.store(_vector(grad, group, i, VECTOR), vector, mask=inside)


@triton.jit
def _perturb_singly(
    row, grad, tap_offsets, group, noise, amounts,
    FLOOR: tl.constexpr, SCALE: tl.constexpr, DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Wherever the elements lie."""
    taps = tl.load(row + ROW_TAPS)
    kernels = tl.load(row + ROW_KERNELS)
    element = group.first + group.low
    kernel = element // taps
    tap = element - kernel * taps
    channel = kernel // kernels
    kernel -= channel * kernels
    pointers = ()
    x = ()
    for i in tl.static_range(16):
        start, _ = locate_kernel(row, channel, kernel)
        pointers = pointers + (grad + (start + tl.load(tap_offsets + tap)),)
        x = x + (tl.load(pointers[i], mask=(i >= group.low) & (i < group.high), other=0.0).to(REAL),)
        tap += (i >= group.low).to(tl.int64)  # on to the next one, first the tap, then the kernel, then the channel
        kernel += (tap == taps).to(tl.int64)
        channel += (kernel == kernels).to(tl.int64)
        tap = tl.where(tap == taps, 0, tap)
        kernel = tl.where(kernel == kernels, 0, kernel)
    x = _changed(x, noise, amounts, FLOOR, SCALE, REAL)
    for i in tl.static_range(16):
        tl.store(pointers[i], narrow(x[i], DTYPE, INTERPRETED), mask=(i >= group.low) & (i < group.high))


@triton.jit
def _scale_vectors(
    grad, first, last, scale, DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr
):
    """Multiplies elements ``first`` .. ``last - 1``, both multiples of four, lanes side by side: memory bounds it."""
    for tile in range(first, last, 8 * LANES):
        for half in tl.static_range(2):
            begin = tile + half * 4 * LANES + 4 * tl.arange(0, LANES)
            pointers = (grad + begin)[:, None] + tl.arange(0, 4)[None, :]
            pointers = tl.max_contiguous(tl.multiple_of(pointers, (1, 8 if DTYPE.itemsize == 2 else 16)), (1, 4))
            mask = (begin < last)[:, None]
            x = tl.load(pointers, mask=mask, other=0.0).to(REAL) * scale
            tl.store(pointers, narrow(x, DTYPE, INTERPRETED), mask=mask)


@triton.jit
def perturb_elements(
    row, program, addresses, offsets, amounts, stream,
    GENERATOR: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr,
    DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Perturbs the portion of a program. Words that precede the run or follow it are drawn for nothing."""
    VECTOR: tl.constexpr = 8 if DTYPE.itemsize == 2 else 4
    run, first, last = portion_of(row, program)
    run_elements = tl.load(row + ROW_RUN_ELEMENTS)
    _, whole = locate_kernel(row, run, 0)
    first_word = whole * tl.load(row + ROW_TAPS)
    skew = first_word & 15
    aligned = ((addresses.grad & 15) == 0) & (((skew | run_elements) & (VECTOR - 1)) == 0)
    in_vectors = (addresses.access == CONTIGUOUS) & aligned
    tensor_id = tl.load(row + ROW_TENSOR_ID)
    tap_offsets = offsets + tl.load(row + ROW_TAP_OFFSETS)
    grad = addresses.grad.to(tl.pointer_type(DTYPE))
    before = run * tl.load(row + ROW_RUN_LENGTH)
    first -= before
    last -= before
    if (not FLOOR) & in_vectors:
        first_scaled = run * run_elements + tl.maximum(first * 16 - skew, 0)
        last_scaled = run * run_elements + tl.minimum(last * 16 - skew, run_elements)
        _scale_vectors(grad, first_scaled, last_scaled, amounts.scale, DTYPE, REAL, INTERPRETED, LANES)
    else:
        for tile in range(first, last, LANES):
            index = tile + tl.arange(0, LANES)
            begin = index * 16 - skew  # in the run; the first group may begin before it
            low = tl.maximum(-begin, 0).to(tl.int32)
            high = tl.minimum(run_elements - begin, 16).to(tl.int32)
            group = _Group(run * run_elements + begin, low, high)
            noise = zeros(16, LANES)
            if FLOOR:
                noise = _noise(stream, tensor_id, (first_word >> 4) + index, amounts.floor, GENERATOR, REAL, LANES)
            if in_vectors:
                _perturb_vectors(grad, group, noise, amounts, VECTOR, FLOOR, SCALE, DTYPE, REAL, INTERPRETED, LANES)
            else:
                _perturb_singly(
                    row, grad, tap_offsets, group, noise, amounts, FLOOR, SCALE, DTYPE, REAL, INTERPRETED,
                )  # fmt: skip
