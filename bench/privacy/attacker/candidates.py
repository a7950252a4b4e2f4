"""What a client would have sent for candidate images: their clipped gradients, many batches at once."""

import copy
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from bench.privacy.client.gradients import Gradient, LocalSteps
from bench.privacy.client.statistics import Statistics, batch_norms, recorded, step_weights


class Sent(NamedTuple):
    """Of P candidates: for each parameter [P, *its shape], and [P, S] for S channels of batch norms."""

    gradient: Gradient
    statistics: Statistics


class Candidates:
    """The computation of a client, differentiable by its images and batched over candidates.

    Batch norms in training mode normalize each candidate's batch by its own statistics; those in evaluation mode by the
    running ones.

    Args:
        model: the global model with the parameters that the client used; stays as it is.
        local: the client's SGD steps, which are gone through with it, or None for one gradient.
    """

    def __init__(self, model: nn.Module, local: LocalSteps | None = None) -> None:
        model = copy.deepcopy(model)
        norms = batch_norms(model)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:  # candidates would all move the same running statistics: there are none
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        self._parameters = {name: p.detach() for name, p in model.named_parameters()}
        buffers = {name: b.detach() for name, b in model.named_buffers()}
        steps, lr = local or LocalSteps(1, 0.0)

        def loss(parameters, images, labels):
            with recorded(norms) as seen:
                logits = functional_call(model, (parameters, buffers), (images,))
            return nn.functional.cross_entropy(logits, labels), seen

        def mean_gradient(parameters, images, labels):
            total = {name: torch.zeros_like(p) for name, p in parameters.items()}
            means = variances = [0.0] * len(norms)
            for step in range(steps):
                slope, seen = grad(loss, has_aux=True)(parameters, images, labels)
                parameters = {name: p - lr * slope[name] for name, p in parameters.items()}
                total = {name: total[name] + slope[name] / steps for name in total}
                weights = [step_weights(momentum, steps)[step] for momentum in momenta]
                means = [m + w * new.mean for m, w, new in zip(means, weights, seen, strict=True)]
                variances = [v + w * new.variance for v, w, new in zip(variances, weights, seen, strict=True)]
            return list(total.values()), means, variances

        self._sent = vmap(mean_gradient, in_dims=(None, 0, 0))

    def sent(self, images: torch.Tensor, labels: torch.Tensor, max_norm: float | torch.Tensor) -> Sent:
        """Of P candidates [P, B, *image_shape] with labels [P, B].

        ``max_norm`` is what the client clips to, for all or [P] for each; infinite for a client that does not clip.
        """
        gradients, means, variances = self._sent(self._parameters, images, labels)
        none = images.new_zeros(len(images), 0)
        statistics = Statistics(torch.cat([none, *means], 1), torch.cat([none, *variances], 1))
        if isinstance(max_norm, float) and max_norm == math.inf:
            return Sent(gradients, statistics)
        norms = torch.cat([g.flatten(1) for g in gradients], 1).norm(dim=1)
        factors = (max_norm / norms).clamp(max=1)
        return Sent([g * factors.view(-1, *[1] * (g.dim() - 1)) for g in gradients], statistics)

    def gradients(self, images: torch.Tensor, labels: torch.Tensor, max_norm: float | torch.Tensor) -> Gradient:
        """The gradients of :meth:`sent` alone."""
        return self.sent(images, labels, max_norm).gradient
