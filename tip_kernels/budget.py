"""PrivacyBudget: counts what a client sends before it is sent, keeps count over restarts, and says when to stop."""

import logging
import os
from typing import Any

from ._budget.accountant import Counts, Kind, check_relation, check_sampling_probability, composed_epsilon, require
from ._budget.allowance import Allowance
from ._budget.state import Target, counts_of, merged, to_state, total
from ._budget.store import FileStore, MemoryStore
from ._op.numbers import check_number

logger = logging.getLogger("tip_kernels")

_NEARLY = 0.9


class BudgetExceeded(RuntimeError):  # noqa: N818, what a user reads says enough
    """The message would make more of the budget than there is. It was not counted, nothing of it has changed."""


class PrivacyBudget:
    """How much all messages of a client may tell together, as :func:`tip_kernels.calibration.accounted_epsilon` has it.

    ``TIP(model, budget=PrivacyBudget(8.0, 1e-5, path="budget.json"), ...)`` counts a message in each perturb call,
    after all checks and before anything changes or a step of the noise is used. A call that fails afterwards stays
    counted, and so does a message that the process did not live to send: what has been sent is never more than what is
    counted. A message that would exceed epsilon raises :class:`BudgetExceeded` instead. Messages of different settings
    compose.

    With a ``path`` the count is in a file, for as many processes, threads and restarts as share it, on one machine: a
    process that finds the file locked waits, for a minute at most. It is replaced as a whole, and is on the disk before
    the message is made. A file that is damaged, of another target, behind what this process has seen or missing after
    it was there is refused. A missing one starts at no messages, in a folder that exists, so whoever deletes the file
    spends the budget twice. ``path + ".lock"`` and ``path + ".new"`` belong to it. Without a path the count ends with
    the process, unless :meth:`state_dict` is kept.

    Copies in one process are the same object. Pickles find the same file; a budget in memory cannot be pickled and does
    not serve a forked process, since each copy could be spent in full.

    A message costs two waits for the disk with a path, and now and then a call of the accountant (tens of milliseconds,
    with sampling hundreds): of n messages with the same settings about 5 log2(n) do. Each does where settings take
    turns, or where the logger "tip_kernels" shows INFO, which has the epsilon spent after each message. There is one
    WARNING when 90 % of epsilon are spent. A compiled graph breaks where messages are counted, and with
    ``fullgraph=True`` that is an error; so is the capture of a CUDA graph, whose replays nobody would count. Dry runs
    count nothing.

    Args:
        epsilon: of all messages, positive.
        delta: in (0, 1).
        path: the file.
        sampling_probability, relation: see :func:`tip_kernels.calibration.accounted_epsilon`. The probability is of
            the messages that this object counts, the relation of the whole budget.

    Raises:
        ValueError: an argument out of range, or a file that is refused.
        OSError: no such folder, no permission, or a file that stays locked.
        ImportError: ``dp-accounting`` is not installed, or older than 0.5.
        RuntimeError: a path, on an operating system without ``fcntl``.
    """

    def __init__(
        self,
        epsilon: float,
        delta: float,
        *,
        path: str | os.PathLike[str] | None = None,
        sampling_probability: float = 1.0,
        relation: str = "add_or_remove",
    ) -> None:
        self._target = _checked_target(epsilon, delta, relation)
        check_number("sampling_probability", sampling_probability)
        check_sampling_probability(sampling_probability)
        self._sampling_probability = float(sampling_probability)
        require()
        self._prepare(MemoryStore() if path is None else FileStore(path, self._target))

    def _prepare(self, store: MemoryStore | FileStore) -> None:
        self._store = store
        self._all = Allowance(self._target, 1.0)
        self._most = Allowance(self._target, _NEARLY)
        self._has_warned = False

    @property
    def epsilon(self) -> float:
        """The target."""
        return self._target.epsilon

    @property
    def delta(self) -> float:
        """The target's."""
        return self._target.delta

    @property
    def terms(self) -> tuple[float, float, float, str]:
        """What two budgets of one client must have in common (epsilon, delta, sampling probability and relation)."""
        return self.epsilon, self.delta, self._sampling_probability, self._target.relation

    @property
    def path(self) -> str | None:
        """Of the file, with all links resolved."""
        return self._store.path if isinstance(self._store, FileStore) else None

    @property
    def messages(self) -> int:
        """How many are counted, by all who share the file."""
        return total(self._store.read())

    def spent(self) -> float:
        """The epsilon of the messages counted; 0 of none. Calls the accountant."""
        return self._epsilon_of(self._store.read())

    def remaining(self) -> float:
        """What is left of epsilon. Of messages it says little, which do not add up: see :meth:`messages_left`."""
        return max(0.0, self.epsilon - self.spent())

    def messages_left(self, noise_multiplier: float) -> int:
        """How many more messages with this noise fit; see :meth:`tip_kernels.TIP.noise_multiplier`."""
        return self._all.left(self._store.read(), self._kind(noise_multiplier))

    def spend(self, noise_multiplier: float) -> int:
        """Counts one message, for who makes it without a TIP; send none before this returns.

        Returns:
            How many are counted now.

        Raises:
            BudgetExceeded: it would exceed epsilon; it is not counted then.
            ValueError: the noise is not positive and finite, or the file is refused.
            OSError: the file cannot be read, locked or written; the message may be counted then.
            RuntimeError: a budget in memory, in a forked process.
        """
        kind = self._kind(noise_multiplier)
        counts: dict[Kind, int] = {}
        is_nearly_spent = False

        def count_one(before: dict[Kind, int]) -> dict[Kind, int]:
            nonlocal counts, is_nearly_spent
            counts = {**before, kind: before.get(kind, 0) + 1}
            if not self._all.holds(counts, kind):
                raise BudgetExceeded(self._refusal(before, counts))
            is_nearly_spent = not self._has_warned and not self._most.holds(counts, kind)
            return counts

        self._store.change(count_one)
        self._report(counts, is_nearly_spent)
        return total(counts)

    def state_dict(self) -> dict[str, Any]:
        """Target and counts, for a checkpoint: numbers, strings, lists and mappings, as JSON has them.

        Save it after a perturb call and before its message is sent, as the state of the noise.
        """
        return to_state(self._target, self._store.read())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts what a saved state has counted; never less than now, of no kind of messages.

        Raises:
            ValueError: a state of another target, or something else.
        """
        saved = counts_of(state_dict, self._target, "the state")
        self._store.change(lambda counts: merged(counts, saved))

    def __copy__(self) -> "PrivacyBudget":
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> "PrivacyBudget":
        return self

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._store, MemoryStore):
            raise TypeError(
                "expected a PrivacyBudget with a path to pickle, got one in memory: each copy could be spent in full"
            )
        seen = to_state(self._target, self._store.read())
        return {"path": self._store.path, "sampling_probability": self._sampling_probability, "seen": seen}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        seen = saved["seen"]
        self._target = Target(*(seen[name] for name in Target._fields))
        self._sampling_probability = saved["sampling_probability"]
        self._prepare(FileStore(saved["path"], self._target, counts_of(seen, self._target, "the pickle")))

    def __repr__(self) -> str:
        return f"PrivacyBudget(epsilon={self.epsilon:g}, delta={self.delta:g}, path={self.path!r})"

    def _count_unasked(self, noise_multiplier: float) -> None:
        """Counts a message that another rank of this client has been allowed."""
        kind = self._kind(noise_multiplier)
        self._store.change(lambda counts: {**counts, kind: counts.get(kind, 0) + 1})

    def _kind(self, noise_multiplier: float) -> Kind:
        check_number("noise_multiplier", noise_multiplier)
        if not 0 < noise_multiplier < float("inf"):
            raise ValueError(f"expected noise_multiplier to be positive and finite, got {noise_multiplier}")
        return Kind(float(noise_multiplier), self._sampling_probability)

    def _epsilon_of(self, counts: Counts) -> float:
        return composed_epsilon(counts, self.delta, self._target.relation)

    def _refusal(self, before: Counts, counts: Counts) -> str:
        return (
            f"expected a message within epsilon {self.epsilon:g} at delta {self.delta:g}, got one that would make it "
            f"{self._epsilon_of(counts):.4g}, after {total(before)} messages that make {self._epsilon_of(before):.4g}: "
            "nothing has changed and nothing of it may be sent; stop, or agree on a larger budget"
        )

    def _report(self, counts: Counts, is_nearly_spent: bool) -> None:
        level = logging.WARNING if is_nearly_spent else logging.INFO
        self._has_warned = self._has_warned or is_nearly_spent
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "privacy budget: epsilon %.4g of %g (delta %g) spent by %d messages",
                self._epsilon_of(counts), self.epsilon, self.delta, total(counts),
            )  # fmt: skip


def _checked_target(epsilon: float, delta: float, relation: str) -> Target:
    check_number("epsilon", epsilon)
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"expected epsilon to be positive and finite, got {epsilon}")
    check_number("delta", delta)
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}")
    check_relation(relation)
    return Target(float(epsilon), float(delta), relation)
