"""The step size that serves a defense best, found alike for all."""

from collections.abc import Callable

FIRST_LR, LR_FACTOR = 0.1, 3.0
"""Where the search for a step size begins, and how far it goes at a time."""


def best_lr(validated: Callable[[float], float]) -> float:
    """The step size with the best accuracy on validation images, if accuracy has one peak over step sizes.

    Every defense is searched for alike: from ``FIRST_LR`` up or down by ``LR_FACTOR``, until the next is no better.
    """
    known: dict[int, float] = {}

    def at(power: int) -> float:
        if power not in known:
            known[power] = validated(_lr(power))
        return known[power]

    best, way = (1, 1) if at(1) > at(0) else (0, -1)
    while at(best + way) > at(best):
        best += way
    return _lr(best)


def _lr(power: int) -> float:
    return float(f"{FIRST_LR * LR_FACTOR**power:.3g}")
