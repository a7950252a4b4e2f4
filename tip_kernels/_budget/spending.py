"""The tie between a TIP and its privacy budget: one message before each perturb call, one state for both."""

from typing import Any

import torch

from .._runtime.tracing import call_untraced, is_capturing, is_dry_run, untraced
from ..budget import PrivacyBudget
from ..rng import NoiseRNG
from .accountant import warn_of_missing_tails


class Spending:
    """What one message of a TIP costs.

    Args:
        budget: counts it.
        noise_multiplier: of a message.
        elements: of a message of the whole model.
    """

    def __init__(self, budget: PrivacyBudget, noise_multiplier: float, elements: int) -> None:
        if not isinstance(budget, PrivacyBudget):
            raise TypeError(f"expected budget to be a PrivacyBudget, got {type(budget).__name__}")
        self._budget = budget
        self._noise_multiplier = noise_multiplier
        self._elements = elements
        self._has_warned = False

    @untraced  # a graph would count once, when it is traced
    def spend(self, device: torch.device) -> None:
        """Counts a message that is about to be made on ``device``.

        Raises:
            BudgetExceeded: it would exceed the budget.
            RuntimeError: a CUDA graph is being captured, which would make messages that nobody counts.
        """
        if is_dry_run():
            return
        if is_capturing(device):
            raise RuntimeError(
                "expected no capture of a CUDA graph around a TIP with a budget: its replays would not be counted"
            )
        call_untraced(self._count)

    def follow(self) -> None:
        """Counts a message that another rank has counted, in memory."""
        self._budget._count_unasked(self._noise_multiplier)

    def _count(self) -> None:
        messages = self._budget.spend(self._noise_multiplier)
        if not self._has_warned:
            self._has_warned = warn_of_missing_tails(messages * self._elements, self._budget.delta, 9)


def state_of(rng: NoiseRNG, budget: PrivacyBudget | None) -> dict[str, object]:
    """See :meth:`tip_kernels.TIP.state_dict`."""
    if budget is None:
        return {"rng": rng.state_dict()}
    return {"rng": rng.state_dict(), "budget": budget.state_dict()}


def load_state(rng: NoiseRNG, budget: PrivacyBudget | None, state: dict[str, Any]) -> None:
    """See :meth:`tip_kernels.TIP.load_state_dict`. The count goes first: with a step refused after it, none is lost."""
    if (budget is not None) != ("budget" in state):
        expected, got = ("with", "without") if budget is not None else ("without", "with")
        raise ValueError(
            f"expected the state of a TIP {expected} a budget, got one {got}: messages would be counted nowhere; "
            "rng.load_state_dict(state['rng']) alone goes on with the noise"
        )
    if budget is not None:
        budget.load_state_dict(state["budget"])
    rng.load_state_dict(state["rng"])
