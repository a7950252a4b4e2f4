"""The path SMALL_KERNELS: a lane owns a quad, four kernels of at most nine taps, all of them in registers."""

import triton
import triton.language as tl

from ..bases import basis_pitch
from ..paths import MAX_SMALL_TAPS
from .grid import to_grid
from .normals import to_normals
from .selection import selected_lanes
from .table import (
    CONTIGUOUS,
    INTERLEAVED,
    ROW_BASIS,
    ROW_KERNEL_STRIDE,
    ROW_KERNELS,
    ROW_TAP_OFFSETS,
    ROW_TENSOR_ID,
    STRIDED,
)
from .tile import any_lane, lane_channels, locate_kernel, portion_of
from .vectors import join4, narrow, split4, zeros
from .words import generate

_BASIS_PITCH = tl.constexpr(basis_pitch(MAX_SMALL_TAPS))


@triton.jit
def _noise(
    stream, tensor_id, quad, basis, amounts, is_selected,
    TAPS: tl.constexpr, HIGH_DIM: tl.constexpr, USED: tl.constexpr, PITCH: tl.constexpr,
    GENERATOR: tl.constexpr, FLOOR: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Noise of kernels 4 quad .. 4 quad + 3: 4 TAPS tensors [LANES], kernel by kernel."""
    matrix = ()
    for i in tl.static_range(TAPS * USED):
        matrix = matrix + (tl.load(basis + (i // USED * _BASIS_PITCH + i % USED)),)
    by_kernel = zeros(4 * TAPS, LANES)
    for group in range(PITCH // 4):  # each moves what it makes in at the end, and the oldest out
        words = generate(stream, tensor_id, quad * (PITCH // 4) + group, GENERATOR)
        normals = to_normals(words, USED, PITCH)
        later = ()
        for i in tl.static_range(16 // PITCH * TAPS, 4 * TAPS):
            later = later + (by_kernel[i],)
        for kernel in tl.static_range(16 // PITCH):
            for tap in tl.static_range(TAPS):
                noise = matrix[tap * USED] * normals[kernel * PITCH]
                for column in tl.static_range(1, HIGH_DIM):
                    noise += matrix[tap * USED + column] * normals[kernel * PITCH + column]
                noise *= amounts.std
                if FLOOR:
                    for column in tl.static_range(HIGH_DIM, TAPS):
                        noise += matrix[tap * USED + column] * amounts.floor * normals[kernel * PITCH + column]
                    noise = tl.where(is_selected, noise, normals[kernel * PITCH + tap] * amounts.floor)
                else:
                    noise = tl.where(is_selected, noise, 0.0)
                later = later + (noise,)
        by_kernel = later
    return by_kernel


@triton.jit
def _high_band(x, basis, factor, is_selected, TAPS: tl.constexpr, HIGH_DIM: tl.constexpr):
    """The high band of four kernels times a factor: 4 TAPS tensors, zeros where not selected."""
    parts = ()
    for kernel in tl.static_range(4):
        coefficients = ()
        for column in tl.static_range(HIGH_DIM):
            coefficient = tl.load(basis + column) * x[kernel * TAPS]
            for tap in tl.static_range(1, TAPS):
                coefficient += tl.load(basis + (tap * _BASIS_PITCH + column)) * x[kernel * TAPS + tap]
            coefficients = coefficients + (tl.where(is_selected, factor * coefficient, 0.0),)
        for tap in tl.static_range(TAPS):
            part = tl.load(basis + tap * _BASIS_PITCH) * coefficients[0]
            for column in tl.static_range(1, HIGH_DIM):
                part += tl.load(basis + (tap * _BASIS_PITCH + column)) * coefficients[column]
            parts = parts + (part,)
    return parts


@triton.jit
def _vector(grad, start, tap_offsets, stride, i: tl.constexpr, ACCESS: tl.constexpr):
    """Pointers [LANES, 4] to what a lane reads i-th: four elements in a row, or tap i of its four kernels."""
    four = tl.arange(0, 4)[None, :]
    if ACCESS == CONTIGUOUS:
        pointers = grad + start[:, None] + (4 * i + four)
    elif ACCESS == INTERLEAVED:
        pointers = grad + start[:, None] + tl.multiple_of(tl.load(tap_offsets + i), 4) + four
    else:
        pointers = grad + start[:, None] + (tl.load(tap_offsets + i) + four * stride)
    return pointers


@triton.jit
def _load(grad, start, tap_offsets, stride, mask, TAPS: tl.constexpr, ACCESS: tl.constexpr, LANES: tl.constexpr):
    """Four kernels as 4 TAPS tensors [LANES], kernel by kernel."""
    values = ()
    for i in tl.static_range(TAPS):
        pointers = _vector(grad, start, tap_offsets, stride, i, ACCESS)
        values = values + split4(tl.load(pointers, mask=mask[:, None]).to(tl.float32), LANES)
    if ACCESS == CONTIGUOUS:
        kernels = values
    else:  # tap by tap so far
        kernels = ()
        for i in tl.static_range(4 * TAPS):
            kernels = kernels + (values[i % TAPS * 4 + i // TAPS],)
    return kernels


@triton.jit
def _store(
    grad, start, tap_offsets, stride, mask, kernels,
    TAPS: tl.constexpr, ACCESS: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    for i in tl.static_range(TAPS):
        if ACCESS == CONTIGUOUS:
            values = join4(kernels[4 * i], kernels[4 * i + 1], kernels[4 * i + 2], kernels[4 * i + 3], LANES)
        else:
            values = join4(kernels[i], kernels[TAPS + i], kernels[2 * TAPS + i], kernels[3 * TAPS + i], LANES)
        pointers = _vector(grad, start, tap_offsets, stride, i, ACCESS)
        tl.store(pointers, narrow(values, DTYPE, INTERPRETED), mask=mask[:, None])


@triton.jit
def _perturb(
    grad, start, tap_offsets, stride, mask, noise, basis, amounts, is_selected,
    TAPS: tl.constexpr, HIGH_DIM: tl.constexpr, ACCESS: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr,
    KEEP: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    x = _load(grad, start, tap_offsets, stride, mask, TAPS, ACCESS, LANES)
    if KEEP:
        change = _high_band(x, basis, (amounts.keep - 1.0) * amounts.scale, is_selected, TAPS, HIGH_DIM)
    result = ()
    for i in tl.static_range(4 * TAPS):
        value = x[i]
        if SCALE:
            value = value * amounts.scale
        if KEEP:
            value += change[i]
        value += noise[i]
        if FLOOR:
            value = to_grid(value, amounts.limit)
        result = result + (value,)
    _store(grad, start, tap_offsets, stride, mask, result, TAPS, ACCESS, DTYPE, INTERPRETED, LANES)


@triton.jit
def perturb_small_kernels(
    row, program, addresses, offsets, bases, amounts, stream,
    ACCESSES: tl.constexpr, TAPS: tl.constexpr, HIGH_DIM: tl.constexpr, GENERATOR: tl.constexpr, FLOOR: tl.constexpr,
    SCALE: tl.constexpr, KEEP: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Perturbs the portion of a program. ACCESSES: the sum of those that the launch has on this path."""
    TILE: tl.constexpr = 4 * LANES
    USED: tl.constexpr = TAPS if FLOOR else HIGH_DIM
    PITCH: tl.constexpr = 4 if USED <= 4 else (8 if USED <= 8 else 16)
    run, first, last = portion_of(row, program)
    kernels = tl.load(row + ROW_KERNELS)
    channel = first // kernels
    lane = 4 * tl.arange(0, LANES)
    lane_channel = lane_channels(first - channel * kernels, lane, kernels, TILE)
    is_selected = selected_lanes(row, addresses.scores, channel, lane_channel, (last - 1) // kernels, LANES)
    touched = (lane >= 0) if (FLOOR or SCALE) else is_selected
    if any_lane(touched & (first + lane < last)):
        drawing = (lane >= 0) if FLOOR else is_selected
        tensor_id = tl.load(row + ROW_TENSOR_ID)
        tap_offsets = offsets + tl.load(row + ROW_TAP_OFFSETS)
        basis = bases + tl.load(row + ROW_BASIS)
        stride = tl.load(row + ROW_KERNEL_STRIDE)
        grad = addresses.grad.to(tl.pointer_type(DTYPE))
        for tile in range(first, last, TILE):
            lane_kernel = tile + lane  # in the tensor, a multiple of four
            mask = touched & (lane_kernel < last)
            its_channel = channel + lane_channel
            start, whole = locate_kernel(row, its_channel, lane_kernel - its_channel * kernels)
            noise = zeros(4 * TAPS, LANES)
            if any_lane(drawing & mask):
                noise = _noise(
                    stream, tensor_id, whole >> 2, basis, amounts, is_selected,
                    TAPS, HIGH_DIM, USED, PITCH, GENERATOR, FLOOR, LANES,
                )  # fmt: skip
            if CONTIGUOUS & ACCESSES:
                if addresses.access == CONTIGUOUS:
                    _perturb(
                        tl.multiple_of(grad, 16), tl.multiple_of(lane_kernel * TAPS, 4), tap_offsets, stride, mask,
                        noise, basis, amounts, is_selected,
                        TAPS, HIGH_DIM, CONTIGUOUS, FLOOR, SCALE, KEEP, DTYPE, INTERPRETED, LANES,
                    )  # fmt: skip
            if INTERLEAVED & ACCESSES:
                if addresses.access == INTERLEAVED:
                    _perturb(
                        tl.multiple_of(grad, 16), tl.multiple_of(start, 4), tap_offsets, stride, mask,
                        noise, basis, amounts, is_selected,
                        TAPS, HIGH_DIM, INTERLEAVED, FLOOR, SCALE, KEEP, DTYPE, INTERPRETED, LANES,
                    )  # fmt: skip
            if STRIDED & ACCESSES:
                if addresses.access == STRIDED:
                    _perturb(
                        grad, start, tap_offsets, stride, mask,
                        noise, basis, amounts, is_selected,
                        TAPS, HIGH_DIM, STRIDED, FLOOR, SCALE, KEEP, DTYPE, INTERPRETED, LANES,
                    )  # fmt: skip
