"""The launch of ``perturb_``: what a program is told, and which path it takes."""

import triton
import triton.language as tl

from .any_kernel import perturb_any_kernel
from .elements import perturb_elements
from .grid import grid_limit
from .inputs import Addresses, Amounts
from .shape import Shape, least_amounts
from .small_kernels import perturb_small_kernels
from .table import (
    PATH_ANY_KERNEL,
    PATH_ELEMENTS,
    PATH_IDLE,
    PATH_SMALL_KERNELS,
    ROW_AMPLITUDES,
    ROW_COLUMNS,
    ROW_HIGH_DIM,
    ROW_PATH,
    ROW_TAPS,
    ROW_TENSOR_ID,
)
from .ticket import take_ticket
from .words import stream_of

_NOT_CONSTANT = (
    "header", "rows", "programs", "offsets", "bases", "amplitudes", "stds", "floor_stds", "grad_scale", "state",
    "advance",
)  # fmt: skip
"""Arguments for whose values or alignment no second kernel is compiled."""


@triton.jit(do_not_specialize=_NOT_CONSTANT)
def perturb_portions(
    header, rows, programs, offsets, bases, amplitudes, stds, floor_stds, grad_scale, state, advance,
    SMALL_TAPS: tl.constexpr, SMALL_HIGH_DIM: tl.constexpr, ALL_BUT_DC_3X3: tl.constexpr,
    SMALL_ACCESSES: tl.constexpr,
    CHUNK: tl.constexpr, ELEMENTS: tl.constexpr,
    GENERATOR: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, KEEP: tl.constexpr,
    SHAPED: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The op ``perturb_`` for the tensors of one dtype.

    ``header`` holds the bits of ``keep`` and, for each row, the addresses of the gradient, its scores and its sums, and
    how its memory is accessed. ``bases`` are in the type of the arithmetic; ``amplitudes`` are read if SHAPED.
    """
    REAL: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    program = tl.program_id(0)
    tensor = tl.load(programs + program).to(tl.int64)
    row = rows + tensor * ROW_COLUMNS
    path = tl.load(row + ROW_PATH)
    entry = header + (1 + 4 * tensor)
    addresses = Addresses(
        tl.load(entry), tl.load(entry + 1).to(tl.pointer_type(tl.float32)), tl.load(entry + 2), tl.load(entry + 3)
    )
    tensor_id = tl.load(row + ROW_TENSOR_ID)
    step = tl.load(state + 4) - (1 - advance)  # an earlier launch of this call has advanced it
    stream = stream_of(state, step)
    keep = tl.load(header).to(tl.float64, bitcast=True).to(REAL)
    busy = path != PATH_IDLE  # there may be no std at all
    std32 = tl.load(stds + tensor_id, mask=busy, other=0.0)
    floor32 = tl.load(floor_stds + tensor_id, mask=busy, other=0.0) if FLOOR else std32
    std = std32.to(REAL)
    floor = floor32.to(REAL)
    shape = Shape(amplitudes, amplitudes, busy)
    if SHAPED:
        start = tl.load(row + ROW_AMPLITUDES)
        taps = tl.load(row + ROW_TAPS)
        shape = Shape(amplitudes + start, amplitudes + start + taps, start > 0)
        if FLOOR:
            std32, floor32 = least_amounts(std32, floor32, shape, taps, tl.load(row + ROW_HIGH_DIM))
    limit = grid_limit(floor32, tl.where(path == PATH_ELEMENTS, 0.0, std32), REAL) if FLOOR else floor
    scale = tl.load(grad_scale).to(REAL) if SCALE else tl.full([], 1.0, REAL)
    amounts = Amounts(std, floor, limit, scale, keep)
    index = program.to(tl.int64)
    if SMALL_TAPS:
        if path == PATH_SMALL_KERNELS:
            perturb_small_kernels(
                row, index, addresses, offsets, bases, amounts, shape, stream,
                SMALL_ACCESSES, SMALL_TAPS, SMALL_HIGH_DIM, ALL_BUT_DC_3X3, GENERATOR, FLOOR, SCALE, KEEP, SHAPED,
                DTYPE, INTERPRETED, LANES,
            )  # fmt: skip
    if CHUNK:
        if path == PATH_ANY_KERNEL:
            perturb_any_kernel(
                row, index, addresses, offsets, bases, amounts, shape, stream,
                CHUNK, GENERATOR, FLOOR, SCALE, KEEP, SHAPED, DTYPE, REAL, INTERPRETED, LANES,
            )  # fmt: skip
    if ELEMENTS:
        if path == PATH_ELEMENTS:
            perturb_elements(
                row, index, addresses, offsets, amounts, stream,
                GENERATOR, FLOOR, SCALE, DTYPE, REAL, INTERPRETED, LANES,
            )  # fmt: skip
    if advance != 0:
        take_ticket(state, step)
