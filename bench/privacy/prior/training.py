"""Flow matching (Lipman et al. 2023, with straight paths): the net learns the velocity from noise to images.

The loss is the squared error of the velocity by what the Gaussian of the net leaves of it, so that every noise level
counts alike.
"""

import torch
from torch import nn

from bench.privacy.images import Labeled
from bench.privacy.prior.network import Velocity
from bench.privacy.prior.settings import Settings
from bench.privacy.prior.time import by_image, standardized
from bench.privacy.trained import training

TIME_LOGIT = (1.0, 1.4)
"""Mean and std of the logit of a training step's times: half of them have noise below 0.09, two thirds 0.02 to 0.37."""
FITTED = 10_000
"""Images that the net's own Gaussian is fitted to."""


class Training(training.Training):
    """Of a flow; arguments as of ``Training`` there, but for the net."""

    net: Velocity
    settings: Settings

    def __init__(self, data: Labeled, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        net = build(settings)
        net.gaussian.fit(standardized(data.images[:FITTED].float() / 255))
        super().__init__(net, data, settings)

    def loss(self, draw: torch.Generator) -> torch.Tensor:
        """It is 1 where the net is no better than its Gaussian."""
        points, times, labels, velocity = self._batch(draw)
        known, unit = self.net.gaussian.velocity(points, times), by_image(self.net.gaussian.uncertainty(times))
        return nn.functional.mse_loss(self.net.correction(points, times, labels, known), (velocity - known) / unit)

    def _batch(self, draw: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Points of the flow, their times, classes and velocities."""
        size, classes = self.settings.batch, self.settings.classes
        images, labels = self.drawn(draw)
        images = standardized(images)
        hidden = torch.rand(size, generator=draw) < self.settings.drop
        labels = labels.masked_fill(hidden, classes) if classes else torch.zeros(size, dtype=torch.int64)
        times = (TIME_LOGIT[0] + TIME_LOGIT[1] * torch.randn(size, generator=draw)).sigmoid()
        noise = torch.randn(images.shape, generator=draw)
        return (1 - by_image(times)) * noise + by_image(times) * images, times, labels, images - noise


def build(settings: Settings) -> Velocity:
    """The untrained net."""
    return Velocity(settings.channels, settings.size, settings.classes, settings.width)
