"""How many messages fit a privacy budget, by few calls of the accountant."""

from .accountant import Counts, Kind, composed_epsilon
from .state import Target


class Allowance:
    """Whether messages keep to a share of a target's epsilon.

    More messages are never worth less, so an answer for many serves for fewer: each asks for more of the same kind
    than are at hand, twice as many as the last that fit, and half as many where they do not.

    Args:
        target: what all messages may be worth.
        share: of its epsilon.
    """

    def __init__(self, target: Target, share: float) -> None:
        self._target = target
        self._epsilon = share * target.epsilon
        self._for: tuple[Kind, Counts] | None = None
        self._known = 0  # messages of the kind that fit, beside the others
        self._ahead = 1

    def holds(self, counts: Counts, kind: Kind) -> bool:
        """Whether these messages fit, of which the last was of this kind."""
        others = {other: count for other, count in counts.items() if other != kind}
        if self._for != (kind, others):
            self._for, self._known, self._ahead = (kind, others), 0, 1
        count = counts[kind]
        if count <= self._known:
            return True
        ahead = self._ahead
        while not self._fits({**counts, kind: count + ahead - 1}):
            if ahead == 1:
                return False
            ahead //= 2
        self._known = count + ahead - 1
        self._ahead = 2 * ahead if ahead == self._ahead else ahead
        return True

    def left(self, counts: Counts, kind: Kind) -> int:
        """How many more messages of this kind fit."""
        found, step = 0, 1

        def fits_with(more: int) -> bool:
            return self._fits({**counts, kind: counts.get(kind, 0) + more})

        while fits_with(found + step):
            found, step = found + step, 2 * step
        while step > 1:
            step //= 2
            if fits_with(found + step):
                found += step
        return found

    def _fits(self, counts: Counts) -> bool:
        return composed_epsilon(counts, self._target.delta, self._target.relation) <= self._epsilon
