"""The path ELEMENTS, for tensors without a high band: a lane owns a group of words, one for each element."""

import triton
import triton.language as tl

from .grid import to_grid
from .normals import to_normals
from .table import (
    CONTIGUOUS,
    ROW_KERNELS,
    ROW_RUN_ELEMENTS,
    ROW_RUN_LENGTH,
    ROW_TAP_OFFSETS,
    ROW_TAPS,
    ROW_TENSOR_ID,
    STRIDED,
)
from .tile import locate_kernel, portion_of
from .vectors import join4, join16, narrow, zeros
from .words import generate


@triton.jit
def _offset(row, offsets, element, ACCESS: tl.constexpr):
    """Where elements lie, which count along the tensor in logical order."""
    if ACCESS == CONTIGUOUS:
        offset = element
    else:
        taps = tl.load(row + ROW_TAPS)
        kernels = tl.load(row + ROW_KERNELS)
        kernel = element // taps
        channel = kernel // kernels
        start, _ = locate_kernel(row, channel, kernel - channel * kernels)
        offset = start + tl.load(offsets + tl.load(row + ROW_TAP_OFFSETS) + (element - kernel * taps))
    return offset


@triton.jit
def _perturb(
    row, grad, offsets, element, mask, noise, limit, scale,
    ACCESS: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    pointers = grad + _offset(row, offsets, element, ACCESS)
    x = tl.load(pointers, mask=mask, other=0.0).to(REAL)
    if SCALE:
        x *= scale
    if FLOOR:
        x = to_grid(x + noise, limit)
    tl.store(pointers, narrow(x, DTYPE, INTERPRETED), mask=mask)


@triton.jit
def _scale(
    row, addresses, offsets, first, last, scale,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Multiplies elements ``first`` .. ``last - 1`` of the tensor."""
    REAL: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    contiguous = addresses.access == CONTIGUOUS
    aligned = ((addresses.grad & 15) == 0) & ((first & 3) == 0) & ((last & 3) == 0)
    if contiguous & aligned:
        grad = tl.multiple_of(addresses.grad.to(tl.pointer_type(DTYPE)), 16)
        for tile in range(first, last, 8 * LANES):
            for half in tl.static_range(2):
                begin = tl.multiple_of(tile + half * 4 * LANES + 4 * tl.arange(0, LANES), 4)
                element = begin[:, None] + tl.arange(0, 4)[None, :]
                _perturb(
                    row, grad, offsets, element, (begin < last)[:, None], 0.0, 0.0, scale,
                    CONTIGUOUS, False, True, REAL, DTYPE, INTERPRETED,
                )  # fmt: skip
    else:
        grad = addresses.grad.to(tl.pointer_type(DTYPE))
        for tile in range(first, last, 4 * LANES):
            element = tile + tl.arange(0, 4 * LANES)
            if contiguous:
                _perturb(
                    row, grad, offsets, element, element < last, 0.0, 0.0, scale,
                    CONTIGUOUS, False, True, REAL, DTYPE, INTERPRETED,
                )  # fmt: skip
            else:
                _perturb(
                    row, grad, offsets, element, element < last, 0.0, 0.0, scale,
                    STRIDED, False, True, REAL, DTYPE, INTERPRETED,
                )  # fmt: skip


@triton.jit
def perturb_elements(
    row, program, addresses, offsets, amounts, stream,
    GENERATOR: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr,
    DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Perturbs the portion of a program. Words that precede the run or follow it are drawn for nothing."""
    run, first, last = portion_of(row, program)
    run_elements = tl.load(row + ROW_RUN_ELEMENTS)
    first_element = run * run_elements
    _, whole = locate_kernel(row, run, 0)
    first_word = whole * tl.load(row + ROW_TAPS)
    skew = first_word & 15
    first -= run * tl.load(row + ROW_RUN_LENGTH)
    last -= run * tl.load(row + ROW_RUN_LENGTH)
    if FLOOR:
        tensor_id = tl.load(row + ROW_TENSOR_ID)
        contiguous = addresses.access == CONTIGUOUS
        whole_vectors = ((addresses.grad & 15) == 0) & ((skew & 3) == 0) & ((run_elements & 3) == 0)
        unaligned = addresses.grad.to(tl.pointer_type(DTYPE))
        grad = tl.multiple_of(addresses.grad.to(tl.pointer_type(DTYPE)), 16)
        for tile in range(first, last, LANES):
            group = tile + tl.arange(0, LANES)
            normals = zeros(16, LANES)
            if amounts.floor != 0.0:
                normals = to_normals(generate(stream, tensor_id, (first_word >> 4) + group, GENERATOR), 16, 16)
            begin = group * 16 - skew
            if contiguous & whole_vectors:
                for i in tl.static_range(0, 16, 4):
                    four = join4(normals[i], normals[i + 1], normals[i + 2], normals[i + 3], LANES).to(REAL)
                    start = tl.multiple_of(begin + i, 4)
                    all_inside = ((start >= 0) & (start < run_elements))[:, None]
                    element = tl.multiple_of(first_element, 4) + start[:, None] + tl.arange(0, 4)[None, :]
                    _perturb(
                        row, grad, offsets, element, all_inside, four * amounts.floor, amounts.limit, amounts.scale,
                        CONTIGUOUS, FLOOR, SCALE, REAL, DTYPE, INTERPRETED,
                    )  # fmt: skip
            else:
                noise = join16(normals, LANES).to(REAL) * amounts.floor
                index = begin[:, None] + tl.arange(0, 16)[None, :]  # in the run
                inside = (index >= 0) & (index < run_elements)
                if contiguous:
                    _perturb(
                        row, unaligned, offsets, first_element + index, inside, noise, amounts.limit, amounts.scale,
                        CONTIGUOUS, FLOOR, SCALE, REAL, DTYPE, INTERPRETED,
                    )  # fmt: skip
                else:
                    _perturb(
                        row, unaligned, offsets, first_element + index, inside, noise, amounts.limit, amounts.scale,
                        STRIDED, FLOOR, SCALE, REAL, DTYPE, INTERPRETED,
                    )  # fmt: skip
    else:
        _scale(
            row, addresses, offsets,
            first_element + tl.maximum(first * 16 - skew, 0),
            first_element + tl.minimum(last * 16 - skew, run_elements),
            amounts.scale, DTYPE, INTERPRETED, LANES,
        )  # fmt: skip
