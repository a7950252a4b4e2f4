"""From what a client sends to what an attacker has to invert."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from bench.privacy.attacker.knowledge import Attacker
from bench.privacy.attacker.labels import recover_labels
from bench.privacy.client.gradients import Gradient
from bench.privacy.client.release import Release

SMOOTHING = 1e-3
"""Of an attacker who has not tried which serves it best."""


class Problem(NamedTuple):
    """One gradient in an attacker's hands.

    Args:
        gradient: what the client sent, in the order of ``model.parameters()``.
        labels: the images' classes, int64 [B].
        weights: for each parameter of shape ``[C, M, *kernel_size]`` the trust in its coefficients, of a shape
            that broadcasts to ``[C, M, K]`` (M and K are 1 for a bias, K is 1 for a linear layer), or None for
            1. Zero leaves a coefficient out. None for the whole list is the naive attacker.
        smoothing: weight of the total variation beside the matching loss.
    """

    gradient: Gradient
    labels: torch.Tensor
    weights: Sequence[torch.Tensor | None] | None = None
    smoothing: float = SMOOTHING

    def to(self, device: str) -> "Problem":
        """The same on a device."""
        weights = self.weights and [None if weight is None else weight.to(device) for weight in self.weights]
        gradient = [g.to(device) for g in self.gradient]
        return self._replace(gradient=gradient, labels=self.labels.to(device), weights=weights)


def posed_by(
    release: Release,
    attacker: Attacker,
    smoothing: float = SMOOTHING,
    batch_size: int = 1,
    labels: torch.Tensor | None = None,
) -> Problem:
    """What a release asks of an attacker, who reads the labels off it unless they are given.

    Args:
        release: what the client sent.
        attacker: what it knows of the defense.
        smoothing: see :class:`Problem`.
        batch_size: images behind the release.
        labels: int64 [batch_size], where they are known or ``labels.read_labels`` found them.
    """
    seen = attacker(release)
    if labels is None:
        labels = recover_labels(*seen.gradient[-2:], batch_size=batch_size)
    return Problem(seen.gradient, labels, seen.weights, smoothing)
