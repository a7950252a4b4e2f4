"""Rounds of FedAvg (McMahan et al. 2017)."""

import pathlib
from collections.abc import Iterator

import torch
from torch import nn
from tqdm import tqdm

from bench.privacy import nets
from bench.privacy.federated.checkpoint import keep, restore
from bench.privacy.federated.clients import divide
from bench.privacy.federated.curves import Curve
from bench.privacy.federated.local import normalized, train_locally
from bench.privacy.federated.protect import DEFENSES, Protect, noise
from bench.privacy.federated.settings import Settings
from bench.privacy.federated.state import assign, copied, state
from bench.privacy.images import Labeled


def training(
    defense: str, train: Labeled, test: Labeled, rounds: int, settings: Settings, checkpoint: pathlib.Path
) -> Iterator[Curve]:
    """Trains on from the checkpoint, if there is one; yields the curve whenever it has grown, a hundred times at most.

    Raises:
        ValueError: the checkpoint is of other settings.
    """
    model = build(settings, train).to(train.images.device)
    done, curve = restore(model, checkpoint, settings)
    parts = divide(train.labels, settings.clients, settings.partition, settings.seed)
    clients = [train[part[: settings.images_per_client or None]] for part in parts if len(part)]
    every = max(1, rounds // 100)
    if not curve:
        curve = [(0, accuracy(model, test))]
    yield curve
    with tqdm(total=rounds, initial=done, desc=f"{defense:>4}", unit="round") as bar:
        bar.set_postfix_str(f"accuracy {curve[-1][1]:.1f} %")
        for number in range(done + 1, rounds + 1):
            play_round(model, clients, number, DEFENSES[defense], settings)
            grown = number % every == 0 or number == rounds
            if grown:
                curve = [*curve, (number, accuracy(model, test))]
                bar.set_postfix_str(f"accuracy {curve[-1][1]:.1f} %", refresh=False)
            keep(model, checkpoint, settings, number, curve)
            bar.update()
            if grown:
                yield curve


def build(settings: Settings, data: Labeled) -> nn.Module:
    """The untrained model; the same for every defense."""
    torch.manual_seed(settings.seed)
    channels, size = data.images.shape[1:3]
    return nets.resnet18(channels) if settings.model == "resnet18" else nets.small_conv_net(channels, size)


def play_round(model: nn.Module, clients: list[Labeled], number: int, protect: Protect, settings: Settings) -> None:
    """One round of FedAvg: clients train, protect and send, and the model moves by the mean of their updates."""
    before = copied(state(model))
    drawn = torch.randperm(len(clients), generator=generator(settings, number, 0))[: settings.sampled].tolist()
    images = sum(len(clients[i].labels) for i in drawn)
    mean = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    for i in drawn:
        assign(model, before)
        shuffle = generator(settings, number, 1 + i)
        steps = train_locally(model, clients[i], shuffle, settings)
        update = {name: tensor - before[name] for name, tensor in copied(state(model)).items()}
        seed = shuffle.initial_seed()
        protect(model, update, clients[i][: settings.batch], noise(steps, settings), seed, settings)
        for name, tensor in update.items():
            mean[name] += tensor * (len(clients[i].labels) / images)
    assign(model, {name: before[name] + mean[name] for name in before})


@torch.no_grad()
def accuracy(model: nn.Module, data: Labeled) -> float:
    """In percent."""
    model.eval()
    batches = zip(data.images.split(500), data.labels.split(500), strict=True)
    right = sum((model(normalized(images)).argmax(1) == labels).sum().item() for images, labels in batches)
    return 100 * right / len(data.labels)


def generator(settings: Settings, number: int, who: int) -> torch.Generator:
    """Of a round and a client (from 1), or of the server (0)."""
    return torch.Generator().manual_seed((settings.seed * 10**6 + number) * 10**6 + who)
