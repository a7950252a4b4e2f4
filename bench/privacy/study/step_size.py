"""The step size that serves a defense best, found alike for all."""

from collections.abc import Callable

FIRST_LR, LR_FACTOR = 0.1, 3.0
"""Where the search for a step size begins, and how far it goes at a time."""


def best_lr(validated: Callable[[float], float]) -> float:
    """The step size with the best accuracy on validation images, if accuracy has one peak over step sizes.

    Every defense is searched for alike: from the best of ``FIRST_LR`` and its two neighbors by ``LR_FACTOR`` on, until
    the next is no better. Both neighbors count, since under loud noise two of the three may be at chance alike.
    """
    known: dict[int, float] = {}

    def at(power: int) -> float:
        if power not in known:
            known[power] = validated(_lr(power))
        return known[power]

    best = way = max((0, -1, 1), key=at)
    while way and at(best + way) > at(best):
        best += way
    return _lr(best)


def _lr(power: int) -> float:
    return float(f"{FIRST_LR * LR_FACTOR**power:.3g}")
