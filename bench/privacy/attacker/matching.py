"""How far the gradients of candidate images are from the one that was observed."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

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
        self._parameters = {name: p.detach() for name, p in model.named_parameters()}
        self._buffers = {name: b.detach() for name, b in model.named_buffers()}
        self._bases = bases or [None] * len(self._parameters)
        self._weights = [
            self._stack_weights([p.weights and p.weights[i] for p in problems], restarts)
            for i in range(len(self._parameters))
        ]
        self._observed = self._weighted(
            [
                torch.stack(tensors).repeat_interleave(restarts, 0)
                for tensors in zip(*[p.gradient for p in problems], strict=True)
            ]
        )

        def sample_loss(parameters, images, labels):
            logits = functional_call(model, (parameters, self._buffers), (images,))
            return nn.functional.cross_entropy(logits, labels)

        self._gradients = vmap(grad(sample_loss), in_dims=(None, 0, 0))

    def distance(self, objective: Objective, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The matching loss [P] of candidates [P, B, *image_shape]."""
        gradients = list(self._gradients(self._parameters, images, labels).values())
        if self._max_norm < math.inf:
            norms = torch.cat([g.flatten(1) for g in gradients], 1).norm(dim=1)
            factors = (self._max_norm / norms).clamp(max=1)
            gradients = [g * factors.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
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
