"""The path ANY_KERNEL: a lane owns a kernel of any size, taken CHUNK normals at a time."""

import triton
import triton.language as tl

from .grid import to_grid
from .normals import to_normals
from .selection import selected_lanes
from .shape import amplitudes_of, in_basis
from .table import (
    ROW_BASIS,
    ROW_BASIS_PITCH,
    ROW_HIGH_DIM,
    ROW_KERNELS,
    ROW_PITCH,
    ROW_TAP_OFFSETS,
    ROW_TAPS,
    ROW_TENSOR_ID,
)
from .tile import any_lane, lane_channels, locate_kernel, portion_of
from .vectors import narrow, zeros
from .words import generate


@triton.jit
def _from(normals, shift):
    """The normals from the ``shift``-th of the 16 on, by lane."""
    for half in tl.static_range(4):
        moved = ()
        for i in tl.static_range(16):
            if i + (8 >> half) < 16:
                moved = moved + (tl.where((shift & (8 >> half)) != 0, normals[i + (8 >> half)], normals[i]),)
            else:
                moved = moved + (normals[i],)
        normals = moved
    return normals


@triton.jit
def _draw_chunk(
    stream, tensor_id, first_word, count, CHUNK: tl.constexpr, GENERATOR: tl.constexpr, LANES: tl.constexpr
):
    """The ``count`` or CHUNK normals from ``first_word`` on, and anything after them: CHUNK tensors [LANES]."""
    chunk = zeros(CHUNK, LANES)
    for group in range(CHUNK // 16):  # each moves what it makes in at the end, and the oldest out
        fresh = zeros(16, LANES)
        if group * 16 < count:
            words = generate(stream, tensor_id, (first_word >> 4) + group, GENERATOR)
            fresh = _from(to_normals(words, 1.0, 16, 16), (first_word & 15).to(tl.int32))
        later = ()
        for i in tl.static_range(16, CHUNK):
            later = later + (chunk[i],)
        chunk = later + fresh
    return chunk


@triton.jit
def _coefficients(
    normals, first, used, high_dim, amounts, shape, is_selected,
    FLOOR: tl.constexpr, SHAPED: tl.constexpr, REAL: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """What the columns ``first`` .. of the basis are multiplied with; of the identity, where not selected."""
    coefficients = ()
    for i in tl.static_range(CHUNK):
        normal = normals[i].to(REAL)
        if FLOOR:
            value = normal * tl.where(is_selected & (first + i < high_dim), amounts.std, amounts.floor)
        else:
            value = normal * tl.where(first + i < high_dim, amounts.std, 0.0)
        if SHAPED:
            column = tl.minimum(first + i, used - 1)  # the others are nobody's
            value *= amplitudes_of(shape, column, is_selected).to(REAL)
        coefficients = coefficients + (value,)
    return coefficients


@triton.jit
def _load(grad, sums, offset, mask, first, DTYPE: tl.constexpr, REAL: tl.constexpr):
    if DTYPE == REAL:
        value = tl.load(grad + offset, mask=mask, other=0.0)
    else:
        if first == 0:
            value = tl.load(grad + offset, mask=mask, other=0.0).to(REAL)
        else:
            value = tl.load(sums + offset, mask=mask, other=0.0)
    return value


@triton.jit
def _replace(
    grad, sums, start, tap_offsets, taps, mask, coefficients, basis, pitch, high_dim, first, amounts,
    SCALE: tl.constexpr, CHUNK: tl.constexpr, DTYPE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The coefficients of selected kernels less what ``keep`` takes away of the high band."""
    factor = amounts.keep - 1.0
    if SCALE:
        factor = tl.where(first == 0, factor * amounts.scale, factor)
    for tap in range(0, taps):
        offset = start + tl.load(tap_offsets + tap)
        x = _load(grad, sums, offset, mask, first, DTYPE, REAL) * factor
        entries = basis + tap * pitch + first
        changed = ()
        for i in tl.static_range(CHUNK):
            entry = tl.load(entries + i, mask=first + i < high_dim, other=0.0)
            changed = changed + (coefficients[i] + entry * x,)
        coefficients = changed
    return coefficients


@triton.jit
def _add(
    grad, sums, start, tap_offsets, taps, mask, is_in_basis, coefficients, basis, pitch, first, is_last, amounts,
    FLOOR: tl.constexpr, SCALE: tl.constexpr, CHUNK: tl.constexpr,
    DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Adds the columns ``first`` .. of the basis to a kernel a lane, which until the last chunk is held in ``sums``."""
    for tap in range(0, taps):
        offset = start + tl.load(tap_offsets + tap)
        value = _load(grad, sums, offset, mask, first, DTYPE, REAL)
        if SCALE:
            value *= tl.where(first == 0, amounts.scale, 1.0)
        entries = basis + tap * pitch + first
        noise = value * 0.0
        for i in tl.static_range(CHUNK):
            entry = tl.load(entries + i)
            if FLOOR:
                entry = tl.where(is_in_basis, entry, tl.where(first + i == tap, 1.0, 0.0))
            noise += entry * coefficients[i]
        if not FLOOR:
            noise = tl.where(is_in_basis, noise, 0.0)
        value += noise
        if is_last:
            if FLOOR:
                value = to_grid(value, amounts.limit)
            tl.store(grad + offset, narrow(value, DTYPE, INTERPRETED), mask=mask)
        else:
            tl.store(sums + offset, value, mask=mask)


@triton.jit
def perturb_any_kernel(
    row, program, addresses, offsets, bases, amounts, shape, stream,
    CHUNK: tl.constexpr, GENERATOR: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, KEEP: tl.constexpr,
    SHAPED: tl.constexpr, DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Perturbs the portion of a program, chunk by chunk.

    Columns of a basis are orthogonal: what one chunk adds, the next does not see when it looks at its own part of the
    high band.
    """
    run, first, last = portion_of(row, program)
    kernels = tl.load(row + ROW_KERNELS)
    channel = first // kernels
    lane = tl.arange(0, LANES)
    lane_channel = lane_channels(first - channel * kernels, lane, kernels, LANES)
    is_selected = selected_lanes(row, addresses.scores, channel, lane_channel, (last - 1) // kernels, LANES)
    is_in_basis = in_basis(shape, is_selected, SHAPED and FLOOR)
    touched = (lane >= 0) if (FLOOR or SCALE) else is_selected
    if any_lane(touched & (first + lane < last)):
        taps = tl.load(row + ROW_TAPS)
        high_dim = tl.load(row + ROW_HIGH_DIM)
        used = taps if FLOOR else high_dim
        drawing = (lane >= 0) if FLOOR else is_selected
        draws = any_lane(drawing & (first + lane < last))
        tensor_id = tl.load(row + ROW_TENSOR_ID)
        tap_offsets = offsets + tl.load(row + ROW_TAP_OFFSETS)
        basis = bases + tl.load(row + ROW_BASIS)
        pitch = tl.load(row + ROW_BASIS_PITCH)
        grad = addresses.grad.to(tl.pointer_type(DTYPE))
        sums = addresses.sums.to(tl.pointer_type(REAL))
        for tile in range(first, last, LANES):
            lane_kernel = tile + lane  # in the tensor
            mask = touched & (lane_kernel < last)
            its_channel = channel + lane_channel
            start, whole = locate_kernel(row, its_channel, lane_kernel - its_channel * kernels)
            first_word = whole * tl.load(row + ROW_PITCH)
            for column in range(0, used, CHUNK):
                count = tl.where(draws, used - column, 0)
                normals = _draw_chunk(stream, tensor_id, first_word + column, count, CHUNK, GENERATOR, LANES)
                coefficients = _coefficients(
                    normals, column, used, high_dim, amounts, shape, is_selected, FLOOR, SHAPED, REAL, CHUNK,
                )  # fmt: skip
                if KEEP:
                    coefficients = _replace(
                        grad, sums, start, tap_offsets, taps, mask & is_selected, coefficients, basis, pitch,
                        high_dim, column, amounts, SCALE, CHUNK, DTYPE, REAL,
                    )  # fmt: skip
                _add(
                    grad, sums, start, tap_offsets, taps, mask, is_in_basis, coefficients, basis, pitch,
                    column, column + CHUNK >= used, amounts, FLOOR, SCALE, CHUNK, DTYPE, REAL, INTERPRETED,
                )  # fmt: skip
