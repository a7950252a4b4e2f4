"""Federated training of the attacked net by FedSGD (McMahan et al. 2017) on what each client's defense lets out."""

import functools
import pathlib
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.client.garbage import old_objects_set_aside
from bench.privacy.client.gradients import Gradient
from bench.privacy.client.release import Defense
from bench.privacy.federated.clients import divide
from bench.privacy.images import Labeled, load
from bench.privacy.nets import small_conv_net

MOMENTUM = 0.9
"""Of the server's steps."""


class Plan(NamedTuple):
    """Who takes part.

    Args:
        rounds: steps of the server; its step size falls linearly to zero over them.
        sampled: clients in a round; they take turns, so each is in every (clients / sampled)-th round.
        batch: images of a client's gradient, drawn anew from its own, which are at least so many.
        clients: in all; they share the training images evenly.
    """

    rounds: int = 600
    sampled: int = 10
    batch: int = 16
    clients: int = 1000

    def messages(self) -> int:
        """What one client sends in all, at most."""
        return -(-self.rounds * self.sampled // self.clients)


class Images(NamedTuple):
    """What is trained on, what step sizes are chosen on, and what is scored."""

    train: Labeled
    validation: Labeled
    test: Labeled


@functools.cache
def images_of(folder: pathlib.Path) -> Images:
    """Those of :func:`bench.privacy.images.load`; a tenth of the training images is set aside for validation."""
    train, test = load(folder, torch.device("cpu"))
    kept = len(train.labels) - len(train.labels) // 10
    return Images(train[:kept], train[kept:], test)


def trained(defense: Defense, train: Labeled, lr: float, seed: int, plan: Plan) -> nn.Module:
    """The net after all rounds: in each the server moves by the mean of what the round's clients let out.

    Every client clips and noises its own gradient by itself, by calling ``defense`` as a client that is attacked does,
    on pixels in [0, 1] as there. The noise of no two messages is the same, and that of a seed repeats.

    Args:
        defense: every client's.
        train: the images of all clients.
        lr: step size of the first round.
        seed: of the net's first weights, the clients' images and turns, and the noise.
        plan: who takes part.
    """
    torch.manual_seed(seed)
    model = small_conv_net(*train.images.shape[1:3])
    draw = torch.Generator().manual_seed(seed)
    parts = divide(train.labels, plan.clients, "iid", seed)
    server = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)
    with old_objects_set_aside():
        for number in range(plan.rounds):
            sent = []
            for message in range(number * plan.sampled, (number + 1) * plan.sampled):
                part = parts[message % plan.clients]
                batch = train[part[torch.randperm(len(part), generator=draw)[: plan.batch]]]
                sent.append(defense(model, pixels(batch), batch.labels, seed * 10**9 + message).gradient)
            server.param_groups[0]["lr"] = lr * (1 - number / plan.rounds)
            step(server, model, sent)
    return model


def step(server: torch.optim.Optimizer, model: nn.Module, sent: list[Gradient]) -> None:
    """Moves the model by the mean of the gradients."""
    for parameter, *gradients in zip(model.parameters(), *sent, strict=True):
        parameter.grad = torch.stack(gradients).mean(0)
    server.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Labeled) -> float:
    """In percent."""
    right = sum((model(pixels(part)).argmax(1) == part.labels).sum().item() for part in _in_parts(data))
    return 100 * right / len(data.labels)


def pixels(data: Labeled) -> torch.Tensor:
    """As the attacked clients have them: float32 in [0, 1]."""
    return data.images.float() / 255


def _in_parts(data: Labeled, size: int = 500) -> list[Labeled]:
    return [data[start : start + size] for start in range(0, len(data.labels), size)]
