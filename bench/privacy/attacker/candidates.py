"""What a client would have sent for candidate images: their clipped gradients, many batches at once."""

import math

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from bench.privacy.client.gradients import Gradient, LocalSteps


class Candidates:
    """The computation of a client, differentiable by its images and batched over candidates.

    Args:
        model: the global model with the parameters that the client used.
        local: the client's SGD steps, which are gone through with it, or None for one gradient.
    """

    def __init__(self, model: nn.Module, local: LocalSteps | None = None) -> None:
        self._parameters = {name: p.detach() for name, p in model.named_parameters()}
        buffers = {name: b.detach() for name, b in model.named_buffers()}

        def loss(parameters, images, labels):
            return nn.functional.cross_entropy(functional_call(model, (parameters, buffers), (images,)), labels)

        def mean_gradient(parameters, images, labels):
            if local is None:
                return grad(loss)(parameters, images, labels)
            total = {name: torch.zeros_like(p) for name, p in parameters.items()}
            for _ in range(local.steps):
                slope = grad(loss)(parameters, images, labels)
                parameters = {name: p - local.lr * slope[name] for name, p in parameters.items()}
                total = {name: total[name] + slope[name] / local.steps for name in total}
            return total

        self._gradients = vmap(mean_gradient, in_dims=(None, 0, 0))

    def gradients(self, images: torch.Tensor, labels: torch.Tensor, max_norm: float | torch.Tensor) -> Gradient:
        """Of P candidates [P, B, *image_shape] with labels [P, B]: for each parameter [P, *its shape].

        ``max_norm`` is what the client clips to, for all or [P] for each; infinite for a client that does not clip.
        """
        gradients = list(self._gradients(self._parameters, images, labels).values())
        if isinstance(max_norm, float) and max_norm == math.inf:
            return gradients
        norms = torch.cat([g.flatten(1) for g in gradients], 1).norm(dim=1)
        factors = (max_norm / norms).clamp(max=1)
        return [g * factors.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
