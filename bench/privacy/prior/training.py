"""Flow matching (Lipman et al. 2023, with straight paths): the net learns the velocity from noise to images.

The loss is the squared error of the velocity by what the Gaussian of the net leaves of it, so that every noise level
counts alike. What a step draws follows from the seed and its number, and the file holds all that changes: a resumed
training is the training that was not interrupted.
"""

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
from bench.privacy.prior.network import Velocity
from bench.privacy.prior.settings import Settings
from bench.privacy.prior.time import by_image, standardized

WARM_UP = 200  # steps
FULL_RATE = 4000  # steps, after which the step size falls
MEMORY = 9  # the averaged weights remember about the last tenth of the steps
TIME_LOGIT = (1.0, 1.4)
"""Mean and std of the logit of a training step's times: half of them have noise below 0.09, two thirds 0.02 to 0.37."""


class Training:
    """A net, its averaged weights and how far they are.

    Args:
        data: what it learns from.
        settings: see there.
        digest: of the data, so that no training goes on with other images.
    """

    def __init__(self, data: Labeled, settings: Settings) -> None:
        self.data, self.settings, self.digest = data, settings, digest(data)
        torch.manual_seed(settings.seed)
        self.net = build(settings)
        self.net.gaussian.fit(standardized(data.images[:FITTED].float() / 255))
        self.averaged = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=settings.lr)
        self.steps, self.seconds, self.losses = 0, 0.0, []

    def step(self) -> float:
        """One step; returns its loss, which is 1 where the net is no better than its Gaussian."""
        draw = torch.Generator().manual_seed(self.settings.seed * 10**9 + self.steps)
        points, times, labels, velocity = self._batch(draw)
        known, unit = self.net.gaussian.velocity(points, times), by_image(self.net.gaussian.uncertainty(times))
        loss = nn.functional.mse_loss(self.net.correction(points, times, labels, known), (velocity - known) / unit)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * min(self.steps / WARM_UP, 1, (FULL_RATE / self.steps) ** 0.5)
        self.optimizer.step()
        self._average()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, and :func:`load` of the weights."""
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

    def _batch(self, draw: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Points of the flow, their times, classes and velocities."""
        size, classes = self.settings.batch, self.settings.classes
        chosen = self.data[torch.randint(len(self.data.labels), (size,), generator=draw)]
        images = standardized(chosen.images.float() / 255)
        mirrored = torch.rand(size, generator=draw) < 0.5
        images[mirrored] = images[mirrored].flip(-1)
        hidden = torch.rand(size, generator=draw) < self.settings.drop
        labels = chosen.labels.masked_fill(hidden, classes) if classes else torch.zeros(size, dtype=torch.int64)
        times = (TIME_LOGIT[0] + TIME_LOGIT[1] * torch.randn(size, generator=draw)).sigmoid()
        noise = torch.randn(images.shape, generator=draw)
        return (1 - by_image(times)) * noise + by_image(times) * images, times, labels, images - noise

    @torch.no_grad()
    def _average(self) -> None:
        """With weights that grow as a power of the step (Karras et al. 2024, section 3.1)."""
        new = 1 - (1 - 1 / self.steps) ** (MEMORY + 1)
        for name, tensor in self.net.state_dict().items():
            self.averaged[name].lerp_(tensor, new)


FITTED = 10_000
"""Images that the net's own Gaussian is fitted to."""


def build(settings: Settings) -> Velocity:
    """The untrained net."""
    return Velocity(settings.channels, settings.size, settings.classes, settings.width)


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
    with tqdm(total=round(60 * minutes), initial=round(before), desc="prior", unit="s") as bar:
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
