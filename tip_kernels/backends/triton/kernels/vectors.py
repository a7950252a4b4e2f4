"""Values of a lane side by side, for loads and stores of four elements at once, and as the gradient has them."""

import triton
import triton.language as tl

from .words import wrapping_add


@triton.jit
def narrow(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """Rounds to nearest even. Triton's interpreter would cut a bfloat16 off, so there its low half is rounded first."""
    if INTERPRETED and DTYPE == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = wrapping_add(bits, 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(DTYPE)


@triton.jit
def join4(a, b, c, d, LANES: tl.constexpr):
    """Tensor [LANES, 4] of four tensors [LANES]: registers of the same thread side by side."""
    return tl.join(tl.join(a, c), tl.join(b, d)).reshape(LANES, 4)


@triton.jit
def join16(v, LANES: tl.constexpr):
    """Tensor [LANES, 16] of 16 tensors [LANES]."""
    for half in tl.static_range(4):
        joined = ()
        for i in tl.static_range(8 >> half):
            joined = joined + (tl.join(v[i], v[i + (8 >> half)]),)
        v = joined
    return v[0].reshape(LANES, 16)


@triton.jit
def split4(x, LANES: tl.constexpr):
    """Four tensors [LANES] of a tensor [LANES, 4]."""
    even, odd = tl.split(x.reshape(LANES, 2, 2))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def zeros(COUNT: tl.constexpr, LANES: tl.constexpr):
    """COUNT tensors [LANES]."""
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.full([LANES], 0, tl.float32),)
    return values
