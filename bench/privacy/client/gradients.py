"""The gradient that a client computes, and an update read as one.

Models keep the mode that they are given in: a batch norm in training mode normalizes by the batch. Clients work on
copies, so that the running statistics of the global model stay as they are.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

Gradient = list[torch.Tensor]
"""One tensor for each of the model's parameters, in their order."""


class LocalSteps(NamedTuple):
    """What a client trains before it sends: steps of SGD, each on its whole batch."""

    steps: int
    lr: float


def client_gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Gradient:
    """The gradient of the mean cross-entropy by every parameter: what a FedSGD client sends undefended.

    Args:
        model: the net.
        images: [B, *image_shape].
        labels: int64 [B].
    """
    model = copy.deepcopy(model)
    loss = nn.functional.cross_entropy(model(images), labels)
    return [g.detach() for g in torch.autograd.grad(loss, list(model.parameters()))]


def trained(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, local: LocalSteps) -> nn.Module:
    """A copy of the model after the client's steps of SGD."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=local.lr)
    for _ in range(local.steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def update_as_gradient(update: Gradient, lr: float, steps: int) -> Gradient:
    """A FedAvg update, new minus global parameters, as the gradient that it nearly is at the global model.

    Divided by ``-lr * steps`` it is the mean gradient along the client's way, whose first was taken at the parameters
    that the attacker has.

    Args:
        update: in the order of ``model.parameters()``.
        lr: of the client's SGD.
        steps: that the client took.
    """
    return [change / (-lr * steps) for change in update]


def norm(gradient: Gradient) -> torch.Tensor:
    """Of all its tensors together."""
    return torch.cat([g.flatten() for g in gradient]).norm()


def clipped(gradient: Gradient, to: float) -> Gradient:
    """The gradient scaled so that its norm is at most ``to``."""
    factor = (to / norm(gradient)).clamp(max=1.0)
    return [g * factor for g in gradient]


def kernel_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, M, K) of a parameter's shape: M and K are 1 for a bias, K is 1 for a linear layer."""
    channels, *rest = shape
    return channels, rest[0] if rest else 1, math.prod(rest[1:])


def as_kernels(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in the shape of a parameter as [C, M, K]."""
    return tensor.reshape(kernel_shape(tensor.shape))
