"""Box-Muller on full 32-bit words, as docs/design.md, section 3, has it; the polynomials of csrc/core/normals.h."""

import triton
import triton.language as tl

from .words import wrapping_add


@triton.jit
def _minus_two_log(u):
    """-2 ln(u) for u in [2^-33, 1]: u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), so that f is exact."""
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) & -0x800000  # e * 2^23
    f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    p = f * -0.17469682 + 0.28615043
    p = p * f - 0.29835948
    p = p * f + 0.33141017
    p = p * f - 0.39924145
    p = p * f + 0.50003511
    p = p * f - 0.66667902
    p = p * f + 0.99999982
    return exponent.to(tl.float32) * -1.6525916635146132e-07 + f * (p * f - 2.0)  # ln 4 / 2^23


@triton.jit
def _root(x):
    """The root, within a unit in the last place: a Newton step squares the approximation's error. Exact for 0."""
    inverse = tl.rsqrt(x + 1e-30)
    root = x * inverse
    return tl.fma(0.5 * inverse, tl.fma(-root, root, x), root)


@triton.jit
def box_muller(first, second, scale):
    """Two normals, times ``scale``, from two words.

    The angle is split at 0 and half a turn, where the sign is the word's own; what is left is a quarter turn too much.
    """
    u = first.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33
    radius = _root(_minus_two_log(u)) * scale
    signed = (radius.to(tl.uint32, bitcast=True) ^ (second & 0x80000000)).to(tl.float32, bitcast=True)
    turned = wrapping_add(second << 1, tl.full([], 0x80000000, tl.uint32))
    x = turned.to(tl.int32, bitcast=True).to(tl.float32) * 7.314590396335798e-10  # pi / 2^32
    z = x * x
    s = z * 2.6019031e-6 - 1.9807419e-4
    s = s * z + 0.008333026
    s = s * z - 0.16666657
    c = z * -2.6051495e-7 + 2.476016e-5
    c = c * z - 0.0013888362
    c = c * z + 0.041666638
    c = c * z - 0.5
    return -(signed * x) * (s * z + 1.0), signed * (c * z + 1.0)


@triton.jit
def to_normals(words, scale, USED: tl.constexpr, PITCH: tl.constexpr):
    """``scale`` times the normals of a group of words, the first USED of every PITCH; the others are zeros."""
    normals = ()
    for i in tl.static_range(0, 16, 2):
        if i % PITCH < USED:
            normals = normals + box_muller(words[i], words[i + 1], scale)
        else:
            zero = tl.full([], 0, tl.float32)
            normals = normals + (zero, zero)
    return normals
