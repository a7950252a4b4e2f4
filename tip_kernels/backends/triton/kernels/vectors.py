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
def join(values, COUNT: tl.constexpr, LANES: tl.constexpr):
    """Tensor [LANES, COUNT] of COUNT tensors [LANES], a power of two: registers of the same thread side by side."""
    LEVELS: tl.constexpr = COUNT.bit_length() - 1
    for level in tl.static_range(LEVELS):
        joined = ()
        for i in tl.static_range(COUNT >> (level + 1)):
            joined = joined + (tl.join(values[i], values[i + (COUNT >> (level + 1))]),)
        values = joined
    return values[0].reshape(LANES, COUNT)


@triton.jit
def split(x, COUNT: tl.constexpr, LANES: tl.constexpr):
    """COUNT tensors [LANES] of a tensor [LANES, COUNT]."""
    values = (x,)
    LEVELS: tl.constexpr = COUNT.bit_length() - 1
    for level in tl.static_range(LEVELS):
        evens = ()
        odds = ()
        for i in tl.static_range(1 << level):
            pairs = values[i]
            if COUNT >> level > 2:
                pairs = pairs.reshape(LANES, COUNT >> (level + 1), 2)
            even, odd = tl.split(pairs)
            evens = evens + (even,)
            odds = odds + (odd,)
        values = evens + odds
    return values


@triton.jit
def zeros(COUNT: tl.constexpr, LANES: tl.constexpr):
    """COUNT tensors [LANES]."""
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.full([LANES], 0, tl.float32),)
    return values
