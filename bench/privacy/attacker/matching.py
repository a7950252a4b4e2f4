"""How far the gradients of candidate images are from the one that was observed."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from bench.privacy.attacker.candidates import Candidates
from bench.privacy.attacker.problem import Problem
from bench.privacy.client.gradients import Gradient, kernel_shape

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The matching loss [P] of candidates and what was observed, [P, D] each."""
Bases = Sequence[torch.Tensor | None] | None
"""For each parameter the orthonormal [K, K] matrix whose columns are its coefficients, or None for the taps."""


def cosine_distance(candidate: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """One minus the cosine similarity of the rows of two [P, D] tensors (Geiping et al. 2020, eq. 4)."""
    return 1 - nn.functional.cosine_similarity(candidate, observed, dim=1)


def squared_distance(candidate: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Squared distance of the rows of two [P, D] tensors, by the observed norm (DLG, Zhu et al. 2019, eq. 4)."""
    return (candidate - observed).square().sum(1) / observed.square().sum(1)


class Matcher:
    """The gradients of many candidate batches at once, beside the observed ones, as weighted coefficients."""

    def __init__(
        self, model: nn.Module, problems: Sequence[Problem], restarts: int, bases: Bases, max_norm: float = math.inf
    ) -> None:
        self._max_norm = max_norm
        self._candidates = Candidates(model)
        self._bases = bases or [None] * len(problems[0].gradient)
        self._weights = [
            self._stack_weights([p.weights and p.weights[i] for p in problems], restarts)
            for i in range(len(self._bases))
        ]
        self._observed = self._weighted(
            [
                torch.stack(tensors).repeat_interleave(restarts, 0)
                for tensors in zip(*[p.gradient for p in problems], strict=True)
            ]
        )

    def distance(self, objective: Objective, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The matching loss [P] of candidates [P, B, *image_shape]."""
        gradients = self._candidates.gradients(images, labels, self._max_norm)
        return objective(self._weighted(gradients), self._observed)

    def _weighted(self, gradients: Gradient) -> torch.Tensor:  # P gradients of each parameter -> [P, D]
        parts = []
        for gradient, basis, weight in zip(gradients, self._bases, self._weights, strict=True):
            part = gradient.reshape(len(gradient), *kernel_shape(gradient.shape[1:]))  # [P, C, M, K]
            part = part if basis is None or weight is None else part @ basis.to(part)
            parts.append((part if weight is None else part * weight).flatten(1))
        return torch.cat(parts, 1)

    @staticmethod
    def _stack_weights(weights: Sequence[torch.Tensor | None], restarts: int) -> torch.Tensor | None:
        if all(weight is None for weight in weights):
            return None
        shaped = [torch.ones(1, 1, 1) if weight is None else weight for weight in weights]
        shape = torch.broadcast_shapes(*[weight.shape for weight in shaped])
        return torch.stack([weight.expand(shape) for weight in shaped]).repeat_interleave(restarts, 0)
