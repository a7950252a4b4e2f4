"""The path SMALL_KERNELS: a lane owns a quad, four kernels of at most nine taps, all of them in registers."""

import triton
import triton.language as tl

from ..bases import basis_pitch
from ..paths import MAX_SMALL_TAPS
from .grid import all_to_grid
from .kernel3x3 import band_noise_3x3, full_noise_3x3, keep_3x3
from .normals import to_normals
from .quads import Place, load_quad, store_quad
from .selection import selected_lanes
from .shape import in_basis, shaped
from .table import ROW_BASIS, ROW_KERNEL_STRIDE, ROW_KERNELS, ROW_TAP_OFFSETS, ROW_TENSOR_ID
from .tile import any_lane, lane_channels, locate_kernel, portion_of
from .vectors import zeros
from .words import generate

_BASIS_PITCH = tl.constexpr(basis_pitch(MAX_SMALL_TAPS))


@triton.jit
def _group_noise(
    normals, matrix, amounts, shape, is_selected, is_in_basis,
    TAPS: tl.constexpr, HIGH_DIM: tl.constexpr, USED: tl.constexpr, PITCH: tl.constexpr, FLOOR: tl.constexpr,
    SHAPED: tl.constexpr,
):  # fmt: skip
    """Noise of the 16 / PITCH kernels of a group: TAPS tensors [LANES] a kernel, zeros where there is none."""
    noises = ()
    high = amounts.std
    if SHAPED and FLOOR:
        high = tl.where(is_selected, amounts.std, amounts.floor)
    for kernel in tl.static_range(16 // PITCH):
        z = ()
        for column in tl.static_range(USED):
            z = z + (normals[kernel * PITCH + column],)
        white = z
        if SHAPED:
            z = shaped(z, shape, is_selected, 0, USED)
        for tap in tl.static_range(TAPS):
            noise = matrix[tap * USED] * z[0]
            for column in tl.static_range(1, HIGH_DIM):
                noise += matrix[tap * USED + column] * z[column]
            noise *= high
            if FLOOR:
                for column in tl.static_range(HIGH_DIM, TAPS):
                    noise += matrix[tap * USED + column] * amounts.floor * z[column]
                noise = tl.where(is_in_basis, noise, white[tap] * amounts.floor)
            else:
                noise = tl.where(is_selected, noise, 0.0)
            noises = noises + (noise,)
    return noises


@triton.jit
def _noise(
    stream, tensor_id, quad, basis, amounts, shape, is_selected, is_in_basis, some_in_basis,
    TAPS: tl.constexpr, HIGH_DIM: tl.constexpr, ALL_BUT_DC: tl.constexpr, GENERATOR: tl.constexpr, FLOOR: tl.constexpr,
    SHAPED: tl.constexpr,
):  # fmt: skip
    """Noise of kernels 4 quad .. 4 quad + 3: 4 TAPS tensors [LANES], kernel by kernel."""
    USED: tl.constexpr = TAPS if FLOOR else HIGH_DIM
    PITCH: tl.constexpr = 4 if USED <= 4 else (8 if USED <= 8 else 16)
    if ALL_BUT_DC and FLOOR:
        noise = full_noise_3x3(
            stream, tensor_id, quad, amounts, shape, is_selected, is_in_basis, some_in_basis, GENERATOR, SHAPED
        )
    elif ALL_BUT_DC:
        noise = band_noise_3x3(stream, tensor_id, quad, amounts, shape, is_selected, GENERATOR, SHAPED)
    else:
        matrix = ()
        for i in tl.static_range(TAPS * USED):
            matrix = matrix + (tl.load(basis + (i // USED * _BASIS_PITCH + i % USED)),)
        noise = ()
        for group in tl.static_range(PITCH // 4):
            words = generate(stream, tensor_id, quad * (PITCH // 4) + group, GENERATOR)
            normals = to_normals(words, 1.0, USED, PITCH)
            noise = noise + _group_noise(
                normals, matrix, amounts, shape, is_selected, is_in_basis, TAPS, HIGH_DIM, USED, PITCH, FLOOR, SHAPED,
            )  # fmt: skip
    return noise


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
def _scaled(
    x, basis, amounts, is_selected,
    TAPS: tl.constexpr, HIGH_DIM: tl.constexpr, ALL_BUT_DC: tl.constexpr, SCALE: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Four kernels times the scale, less what ``keep`` takes away."""
    if KEEP and ALL_BUT_DC:
        result = keep_3x3(x, amounts.keep, amounts.scale, is_selected)
    else:
        if KEEP:
            change = _high_band(x, basis, (amounts.keep - 1.0) * amounts.scale, is_selected, TAPS, HIGH_DIM)
        result = ()
        for i in tl.static_range(4 * TAPS):
            value = x[i]
            if SCALE:
                value = value * amounts.scale
            if KEEP:
                value += change[i]
            result = result + (value,)
    return result


@triton.jit
def _sum(x, y, COUNT: tl.constexpr):
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (x[i] + y[i],)
    return result


@triton.jit
def perturb_small_kernels(
    row, program, addresses, offsets, bases, amounts, shape, stream,
    ACCESSES: tl.constexpr, TAPS: tl.constexpr, HIGH_DIM: tl.constexpr, ALL_BUT_DC: tl.constexpr,
    GENERATOR: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, KEEP: tl.constexpr, SHAPED: tl.constexpr,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Perturbs the portion of a program. ACCESSES: the sum of those that the launch has on this path."""
    TILE: tl.constexpr = 4 * LANES
    run, first, last = portion_of(row, program)
    kernels = tl.load(row + ROW_KERNELS)
    channel = first // kernels
    lane = 4 * tl.arange(0, LANES)
    lane_channel = lane_channels(first - channel * kernels, lane, kernels, TILE)
    is_selected = selected_lanes(row, addresses.scores, channel, lane_channel, (last - 1) // kernels, LANES)
    some_selected = any_lane(is_selected & (first + lane < last))  # in all tiles, since several have one channel
    is_in_basis = in_basis(shape, is_selected, SHAPED)
    some_in_basis = some_selected
    if SHAPED:
        some_in_basis = some_selected | shape.colored
    touched = (lane >= 0) if (FLOOR or SCALE) else is_selected
    if (FLOOR or SCALE) | some_selected:
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
            place = Place(grad, lane_kernel * TAPS, start, tap_offsets, stride, mask)
            noise = zeros(4 * TAPS, LANES)
            if FLOOR or not SCALE:
                noise = _noise(
                    stream, tensor_id, whole >> 2, basis, amounts, shape, is_selected, is_in_basis, some_in_basis,
                    TAPS, HIGH_DIM, ALL_BUT_DC, GENERATOR, FLOOR, SHAPED,
                )  # fmt: skip
            else:
                if some_selected:
                    noise = _noise(
                        stream, tensor_id, whole >> 2, basis, amounts, shape, is_selected, is_in_basis, some_in_basis,
                        TAPS, HIGH_DIM, ALL_BUT_DC, GENERATOR, FLOOR, SHAPED,
                    )  # fmt: skip
            x = load_quad(place, addresses.access, ACCESSES, TAPS, LANES)
            x = _scaled(x, basis, amounts, is_selected, TAPS, HIGH_DIM, ALL_BUT_DC, SCALE, KEEP)
            x = _sum(x, noise, 4 * TAPS)
            if FLOOR:
                x = all_to_grid(x, amounts.limit, 4 * TAPS)
            store_quad(place, x, addresses.access, ACCESSES, TAPS, DTYPE, INTERPRETED, LANES)
