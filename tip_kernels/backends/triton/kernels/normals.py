"""Box-Muller on full 32-bit words, as docs/design.md, section 3, has it."""

import triton
import triton.language as tl

from .words import wrapping_add


@triton.jit
def _minus_two_log(u):
    """-2 ln(u) for u in [2^-33, 1], to about one unit in the last place, also next to 1.

    u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); -2 ln(1 + f) = -2 f + f^2 + f^3 times a minimax polynomial
    (degree 7, relative error 6e-9).
    """
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = f * 0.15268592536449432 - 0.2552318871021271
    p = p * f + 0.26320523023605347
    p = p * f - 0.28403520584106445
    p = p * f + 0.3324669897556305
    p = p * f - 0.40002453327178955
    p = p * f + 0.500016450881958
    p = p * f - 0.6666666269302368
    square = f * f
    tail = p * (square * f) + square
    return exponent.to(tl.float32) * -1.3862943611198906 + (tail - 2.0 * f)


@triton.jit
def _cos_sin(word):
    """Cosine and sine of 2 pi word / 2^32, to about one unit in the last place.

    The nearest quarter turn is taken off in integers, exactly; the rest, within an eighth of a turn, goes into
    minimax polynomials (relative errors below 4e-9).
    """
    turned = wrapping_add(word, tl.full([], 0x20000000, tl.uint32))  # its top two bits count the quarter turns
    angle = (word << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.657295198167899e-10  # pi / 2^33
    z = angle * angle
    s = z * -0.00019517267355695367 + 0.008332177996635437
    s = s * z - 0.16666655242443085
    sine = s * (z * angle) + angle
    c = z * 2.443312041577883e-05 - 0.0013887316454201937
    c = c * z + 0.04166664555668831
    c = c * z - 0.5
    cosine = c * z + 1.0
    odd = (turned & 0x40000000) != 0
    cos_sign = wrapping_add(turned, tl.full([], 0x40000000, tl.uint32)) & 0x80000000
    sin_sign = turned & 0x80000000
    cos_bits = tl.where(odd, sine, cosine).to(tl.uint32, bitcast=True) ^ cos_sign
    sin_bits = tl.where(odd, cosine, sine).to(tl.uint32, bitcast=True) ^ sin_sign
    return cos_bits.to(tl.float32, bitcast=True), sin_bits.to(tl.float32, bitcast=True)


@triton.jit
def _box_muller(word0, word1):
    u = word0.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33
    radius = tl.sqrt(_minus_two_log(u))
    cosine, sine = _cos_sin(word1)
    return radius * cosine, radius * sine


@triton.jit
def to_normals(words, USED: tl.constexpr, PITCH: tl.constexpr):
    """The normals of a group of words, of which the first USED of every PITCH matter; the others are zeros."""
    normals = ()
    for i in tl.static_range(0, 16, 2):
        if i % PITCH < USED:
            normals = normals + _box_muller(words[i], words[i + 1])
        else:
            zero = tl.full([], 0, tl.float32)
            normals = normals + (zero, zero)
    return normals
