"""A training that can go on: what a step draws follows from the seed and its number, and the file holds the rest.

So a resumed training is the training that was not interrupted.
"""

import abc
import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bench.privacy.images import Labeled
from bench.privacy.trained.settings import Settings

WARM_UP = 200  # steps
FULL_RATE = 4000  # steps, after which the step size falls
MEMORY = 9  # the averaged weights remember about the last tenth of the steps


class Training(abc.ABC):
    """A net, its averaged weights and how far they are.

    Args:
        net: untrained.
        data: what it learns from.
        settings: see there.
    """

    def __init__(self, net: nn.Module, data: Labeled, settings: Settings) -> None:
        self.net, self.data, self.settings = net, data, settings
        self.digest = digest(data)  # no training goes on with other images
        self.averaged = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        self.optimizer = torch.optim.Adam(net.parameters(), lr=settings.lr)
        self.steps, self.seconds, self.losses = 0, 0.0, []

    @abc.abstractmethod
    def loss(self, draw: torch.Generator) -> torch.Tensor:
        """Of a batch of the data; all that is random comes from ``draw``."""

    def step(self) -> float:
        """One step; returns its loss.

        Raises:
            FloatingPointError: the loss is not finite: nothing good can come of such a net any more.
        """
        loss = self.loss(torch.Generator().manual_seed(self.settings.seed * 10**9 + self.steps))
        if not loss.isfinite():
            raise FloatingPointError(
                f"expected a finite loss, got {loss.item()} in step {self.steps + 1}; its file has what was before: "
                "train anew with a smaller --lr"
            )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * min(self.steps / WARM_UP, 1, (FULL_RATE / self.steps) ** 0.5)
        self.optimizer.step()
        self._average()
        return loss.item()

    def drawn(self, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of images float32 [N, channels, size, size] in [0, 1], half of them mirrored, and their labels."""
        size = self.settings.batch
        chosen = self.data[torch.randint(len(self.data.labels), (size,), generator=draw)]
        images = chosen.images.float() / 255
        mirrored = torch.rand(size, generator=draw) < 0.5
        images[mirrored] = images[mirrored].flip(-1)
        return images, chosen.labels

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, and :func:`bench.privacy.trained.weights.averaged` of the weights."""
        return {
            "settings": dataclasses.asdict(self.settings),
            "digest": self.digest,
            "net": self.net.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
            "losses": self.losses,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from there.

        Raises:
            ValueError: it was trained on other images.
        """
        if state["digest"] != self.digest:
            raise ValueError(f"expected a training on these images ({self.digest}), got one on others")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]
        self.steps, self.seconds, self.losses = state["steps"], state["seconds"], state["losses"]

    @torch.no_grad()
    def _average(self) -> None:
        """With weights that grow as a power of the step (Karras et al. 2024, section 3.1)."""
        new = 1 - (1 - 1 / self.steps) ** (MEMORY + 1)
        for name, tensor in self.net.state_dict().items():
            self.averaged[name].lerp_(tensor, new)


def digest(data: Labeled) -> str:
    """Of images and labels: 12 hexadecimal digits."""
    both = hashlib.sha256(data.images.numpy().tobytes())
    both.update(data.labels.numpy().tobytes())
    return both.hexdigest()[:12]


def keep(training: Training, file: pathlib.Path) -> None:
    """Saves it; an interruption leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    torch.save(training.state(), new)
    new.replace(file)


def train(training: Training, minutes: float, every: float = 60.0) -> Iterator[float]:
    """Trains until it has had that many minutes in all; yields the mean loss about once in ``every`` seconds."""
    start, before = time.monotonic(), training.seconds
    with tqdm(total=round(60 * minutes), initial=round(before), desc=training.settings.KIND, unit="s") as bar:
        recent, told = [], start
        while training.seconds < 60 * minutes:
            recent.append(training.step())
            now = time.monotonic()
            training.seconds = before + now - start
            if now - told >= every or training.seconds >= 60 * minutes:
                bar.n = min(round(training.seconds), bar.total)
                bar.set_postfix_str(f"step {training.steps}, loss {sum(recent) / len(recent):.4f}")
                training.losses.append((training.steps, sum(recent) / len(recent)))
                yield training.losses[-1][1]
                recent, told = [], now
