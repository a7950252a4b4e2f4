"""What the grid of released values leaves of the ideal Gaussian mechanism's assumptions.

Noise here is Box-Muller's on 32-bit words (docs/design.md, section 3): two normals share a radius, one of 2^32. Where
radii lie further apart than the grid's steps, that is far out, the pair that is sent may be impossible under another
gradient; next to zero, where they do too, it may be more or less likely than under real Gaussian noise. Both are for an
attacker who knows both gradients: x, and x' at distance 2 C from it in all coordinates alike.
"""

import math

import numpy as np
import scipy.stats

TAIL = math.sqrt(2 * 33 * math.log(2))  # the largest radius
STEPS = {"2^-10": 2.0**-10, "2^-11": 2.0**-11}  # of the grid by the std: between these
RINGS = 4096  # of the largest radii; further in they lie closer than the steps
TRIALS = 400  # for each of them


def radius(word: np.ndarray) -> np.ndarray:
    """Of the pair whose first word is below 2^24, where u is not rounded."""
    return np.sqrt(-2 * np.log((word + 0.5) * 2.0**-32))


def some_ring_crosses(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether cells, low and high corner [2, n], contain a point of the rings; up to two float32 roundings."""
    low, high = low - 2e-6, high + 2e-6
    across = (low < 0) & (high > 0)
    nearest = np.hypot(*np.where(across, 0, np.minimum(abs(low), abs(high))))
    farthest = np.hypot(*np.maximum(abs(low), abs(high)))
    first, last = (np.exp(-(r**2) / 2) * 2.0**32 - 0.5 for r in (farthest, nearest))
    return np.floor(last) >= np.maximum(np.ceil(first), 0)


def excluded_pairs(step: float, shift: float, coordinates: int) -> float:
    """Pairs of a message, on average, that x could send and x' could not; in units of the std."""
    draw = np.random.default_rng(0)
    words = np.repeat(np.arange(RINGS), TRIALS)
    angle = 2 * np.pi * draw.random(len(words))
    normals = (radius(words) * np.stack([np.cos(angle), np.sin(angle)])).astype(np.float32)
    x = draw.random(normals.shape) * step
    cell = np.rint((x + normals) / step) * step - x  # where the noise was, if x was sent
    assert some_ring_crosses(cell - step / 2, cell + step / 2).all()
    cell -= shift * draw.choice([-1, 1], normals.shape)
    share = 1 - some_ring_crosses(cell - step / 2, cell + step / 2).reshape(RINGS, TRIALS).mean(1)
    return share.sum() * 2.0**-32 * coordinates / 2


def chi_square_at_zero(step: float, offset: float) -> float:
    """Of a released pair against real Gaussian noise, from the cells around zero; of a gradient so far off the grid."""
    cells = 24  # on each side
    rings = int((1.5 * cells * step) ** 2 / 2 * 2**24) + 2  # u is a multiple of 2^-24 above 1/2
    radii = np.sqrt(-2 * np.log1p(-np.arange(rings) * 2.0**-24))
    mass = np.where(np.arange(rings) == 0, 2.0**-25, 2.0**-24)
    angle = (np.arange(4096) + 0.5) * 2 * np.pi / 4096
    found = np.zeros((2 * cells, 2 * cells))
    for first in range(0, rings, 512):
        r = radii[first : first + 512, None]
        index = [(np.floor(r * f(angle) / step + offset).astype(int) + cells).ravel() for f in (np.cos, np.sin)]
        inside = np.logical_and(*((p >= 0) & (p < 2 * cells) for p in index))
        weights = np.repeat(mass[first : first + 512], 4096) / 4096
        np.add.at(found, (index[0][inside], index[1][inside]), weights[inside])
    side = np.diff(scipy.stats.norm.cdf((np.arange(2 * cells + 1) - cells - offset) * step))
    ideal = np.outer(side, side)
    return float(((found - ideal) ** 2 / ideal).sum())
