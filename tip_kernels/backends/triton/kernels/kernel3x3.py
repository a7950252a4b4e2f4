"""Noise of 3x3 kernels whose high band is all but DC, TIP's common case, without a basis: csrc/core/basis3x3.h."""

import triton
import triton.language as tl

from .normals import box_muller, to_normals
from .shape import shaped
from .words import generate

_SINE = tl.constexpr(0.8660254037844386)  # of 2 pi / 3; the cosine is -1/2
_GAIN = tl.constexpr(0.47140452079103173)  # sqrt(2/9), of every column but DC's
_DC_GAIN = tl.constexpr(0.3333333333333333)


@triton.jit
def _synthesize(z, FIRST: tl.constexpr, constant):
    """The kernel of the eight coefficients from z[FIRST] on, in units of sqrt(2/9), and of a constant.

    With the columns (cos, sin) of the bins (0,1), (1,0), (1,1), (1,2) and cos(a + b) and sin(a + b) expanded, tap
    (s, t) is p(t) + cos(2 pi s/3) q(t) + sin(2 pi s/3) r(t): 27 operations, where the basis takes 72.
    """
    q_cos = z[FIRST + 4] + z[FIRST + 6]
    q_sin = z[FIRST + 5] - z[FIRST + 7]
    r_cos = z[FIRST + 5] + z[FIRST + 7]
    r_sin = z[FIRST + 6] - z[FIRST + 4]
    p_half = constant - z[FIRST] * 0.5
    q_half = z[FIRST + 2] - q_cos * 0.5
    r_half = z[FIRST + 3] - r_cos * 0.5
    p = (constant + z[FIRST], p_half + z[FIRST + 1] * _SINE, p_half - z[FIRST + 1] * _SINE)
    q = (z[FIRST + 2] + q_cos, q_half + q_sin * _SINE, q_half - q_sin * _SINE)
    r = (z[FIRST + 3] + r_cos, r_half + r_sin * _SINE, r_half - r_sin * _SINE)
    upper = ()
    middle = ()
    lower = ()
    for t in tl.static_range(3):
        half = p[t] - q[t] * 0.5
        upper = upper + (p[t] + q[t],)
        middle = middle + (half + r[t] * _SINE,)
        lower = lower + (half - r[t] * _SINE,)
    return upper + middle + lower


@triton.jit
def band_noise_3x3(stream, tensor_id, quad, amounts, shape, is_selected, GENERATOR: tl.constexpr, SHAPED: tl.constexpr):
    """Noise of the kernels 4 quad .. 4 quad + 3: 36 tensors [LANES], zeros where not selected."""
    amplitude = tl.where(is_selected, amounts.std * _GAIN, 0.0)
    noise = ()
    for group in tl.static_range(2):
        z = to_normals(generate(stream, tensor_id, quad * 2 + group, GENERATOR), amplitude, 8, 8)
        if SHAPED:
            z = shaped(z, shape, is_selected, 0, 8) + shaped(z, shape, is_selected, 8, 8)
        noise = noise + _synthesize(z, 0, -0.0) + _synthesize(z, 8, -0.0)  # -0 + x is x
    return noise


@triton.jit
def full_noise_3x3(
    stream, tensor_id, quad, amounts, shape, is_selected, is_in_basis, some_in_basis,
    GENERATOR: tl.constexpr, SHAPED: tl.constexpr,
):  # fmt: skip
    """The same with a floor: of what is not selected white noise, which asks for no synthesis, if it has no shape."""
    white = amounts.floor
    if SHAPED:
        white = tl.where(is_in_basis, amounts.floor * _GAIN, amounts.floor)
    amplitude = tl.where(is_selected, amounts.std * _GAIN, white)
    rest = tl.where(is_in_basis, amounts.floor * _DC_GAIN, amounts.floor)
    noise = ()
    for group in tl.static_range(4):
        words = generate(stream, tensor_id, quad * 4 + group, GENERATOR)
        z = to_normals(words, amplitude, 8, 16)
        last, _ = box_muller(words[8], words[9], rest)
        noise = noise + (z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7], last)
    if some_in_basis:
        chosen = ()
        for kernel in tl.static_range(4):
            if SHAPED:
                coefficients = shaped(noise, shape, is_selected, 9 * kernel, 9)
                full = _synthesize(coefficients, 0, coefficients[8])
            else:
                full = _synthesize(noise, 9 * kernel, noise[9 * kernel + 8])
            for tap in tl.static_range(9):
                chosen = chosen + (tl.where(is_in_basis, full[tap], noise[9 * kernel + tap]),)
        noise = chosen
    return noise


@triton.jit
def keep_3x3(x, keep, scale, is_selected):
    """Four kernels times the scale, and of selected ones the high band times ``keep``, too: all but the mean."""
    factor = tl.where(is_selected, keep * scale, scale)
    kept = ()
    for kernel in tl.static_range(4):
        total = x[9 * kernel]
        for tap in tl.static_range(1, 9):
            total += x[9 * kernel + tap]
        constant = tl.where(is_selected, total * ((1.0 - keep) * scale * _DC_GAIN * _DC_GAIN), 0.0)
        for tap in tl.static_range(9):
            kept = kept + (x[9 * kernel + tap] * factor + constant,)
    return kept
