"""The grid of what is released with a noise floor: docs/design.md, section 3, "Grid"."""

import triton
import triton.language as tl

from .tile import any_lane


@triton.jit
def grid_limit(floor_std, std, REAL: tl.constexpr):
    """2^23 steps of the grid of released values, in double 2^52; 0 for no grid. See csrc/core/grid.h."""
    floor = floor_std.to(tl.int32, bitcast=True)
    high = std.to(tl.int32, bitcast=True)
    exponent = (tl.where((high > 0) & (high < floor), high, floor) >> 23) - 10
    is_normal = (floor > 0) & (exponent >= 1) & (exponent <= 254 - 23)
    step = tl.where(is_normal, exponent << 23, 0).to(tl.float32, bitcast=True)
    return step.to(REAL) * (4503599627370496.0 if REAL == tl.float64 else 8388608.0)


@triton.jit
def to_grid(x, limit):
    """Multiples of the step: from the limit to twice the limit numbers are a step apart, so the addition rounds."""
    shift = tl.where(x < 0.0, -limit, limit)
    return tl.where(tl.abs(x) < limit, (x + shift) - shift, x)


@triton.jit
def all_to_grid(x, limit, COUNT: tl.constexpr):
    """The same of COUNT tensors [LANES], in half of the operations.

    Where nothing is beyond half the limit, numbers are a step apart also around one and a half of it, for both signs.
    """
    largest = tl.abs(x[0])
    for i in tl.static_range(1, COUNT):
        largest = tl.maximum(largest, tl.abs(x[i]))
    rounded = x
    if any_lane(largest > limit * 0.5):
        each = ()
        for i in tl.static_range(COUNT):
            each = each + (to_grid(x[i], limit),)
        rounded = each
    else:
        together = ()
        for i in tl.static_range(COUNT):
            together = together + ((x[i] + limit * 1.5) - limit * 1.5,)
        rounded = together
    return rounded
