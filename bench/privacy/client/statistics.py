"""What batch norms in training mode tell of a batch: the mean and variance, by channel, of what they had as input.

FedAvg averages the whole state of a model, so a client sends the running statistics of its batch norms too. As the
server knows them from before, the batch's own follow (Yin et al., arXiv 2104.07586, take them for known).
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.client.gradients import LocalSteps, trained


class Statistics(NamedTuple):
    """Of all batch norms in training mode, one layer behind the other.

    Args:
        mean: [..., S], for S channels altogether.
        variance: [..., S], with one less than the number of values as divisor, as running variances have it.
    """

    mean: torch.Tensor
    variance: torch.Tensor


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Those in training mode that have running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]


def sent_statistics(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, local: LocalSteps | None = None
) -> Statistics:
    """What follows from the running statistics that a client sends.

    A step moves them by ``momentum`` toward those of its batch. So of one step these are known, and of several their
    mean with the weights of :func:`step_weights`.

    Args:
        model: the global model; stays as it is.
        images: [B, *image_shape].
        labels: int64 [B].
        local: the client's steps, or None for one gradient.

    Raises:
        ValueError: no batch norm is in training mode, or one has no momentum.
    """
    after = trained(model, images, labels, local or LocalSteps(1, 0.0))
    means, variances = [], []
    for old, new in zip(batch_norms(model), batch_norms(after), strict=True):
        if old.momentum is None:
            raise ValueError("expected batch norms with a momentum, got one with a cumulative average")
        left = (1 - old.momentum) ** (local.steps if local else 1)
        means.append((new.running_mean - left * old.running_mean) / (1 - left))
        variances.append((new.running_var - left * old.running_var) / (1 - left))
    if not means:
        raise ValueError("expected a batch norm in training mode, got none")
    return Statistics(torch.cat(means), torch.cat(variances))


def step_weights(momentum: float, steps: int) -> list[float]:
    """How much the batches of so many steps count in what running statistics tell, the first one first; of sum 1."""
    left = 1 - momentum
    return [momentum * left ** (steps - 1 - step) / (1 - left**steps) for step in range(steps)]


@contextlib.contextmanager
def recorded(norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[list[Statistics]]:
    """A list that every forward pass appends to, a layer at a time; differentiable.

    Args:
        norms: whose input [N, channels, ...] is looked at.
    """
    seen: list[Statistics] = []

    def look(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        seen.append(Statistics(values.mean(1), values.var(1)))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
