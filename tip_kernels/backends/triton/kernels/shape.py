"""The shape of the noise: what multiplies each coefficient of a kernel (docs/design.md, section 2, "Amplitudes")."""

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Shape(NamedTuple):
    """The amplitudes of a tensor. In a launch that has none, nothing of it is read."""

    selected: Any  # pointer to float32 [K]; all 1 for a tensor without amplitudes
    others: Any  # the same, of channels that are not selected
    colored: Any  # whether these have noise in the basis too, and not white noise


@triton.jit
def in_basis(shape, is_selected, SHAPED: tl.constexpr):
    """Which lanes have noise in the basis, and not on taps."""
    lanes = is_selected
    if SHAPED:
        lanes = is_selected | shape.colored
    return lanes


@triton.jit
def amplitudes_of(shape, column, is_selected):
    """Of one coefficient, by lane."""
    return tl.where(is_selected, tl.load(shape.selected + column), tl.load(shape.others + column))


@triton.jit
def shaped(z, shape, is_selected, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """The COUNT values from z[FIRST] on, of coefficients 0 .. COUNT - 1, each times its amplitude."""
    values = ()
    for column in tl.static_range(COUNT):
        values = values + (z[FIRST + column] * amplitudes_of(shape, column, is_selected),)
    return values


@triton.jit
def least_amounts(std, floor, shape, taps, high_dim):
    """``std`` and ``floor_std`` where amplitudes leave the least of them: see csrc/core/grid.h."""
    high = tl.full([], float("inf"), tl.float32)
    low = tl.full([], float("inf"), tl.float32)
    for i in range(0, tl.where(shape.colored, 2 * taps, 0)):  # those of others follow
        amplitude = tl.load(shape.selected + i)
        high = tl.where(i < high_dim, tl.minimum(high, amplitude), high)
        low = tl.where(i < high_dim, low, tl.minimum(low, amplitude))
    return std * tl.where(shape.colored, high, 1.0), floor * tl.where(shape.colored, low, 1.0)
