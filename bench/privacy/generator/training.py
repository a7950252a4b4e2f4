"""The decoder's training: a ladder of Gaussians (Sonderby et al. 2016) above principal components.

The features of each stage are moved by noise of a learned size, drawn near what the image asks for; the loss is the
bound on the images' likelihood. So whoever looks for an image in the features finds them trained for just that: moved
by as much as their size, they still decode to natural images, and the size is what a move costs. A discriminator would
make sharper images of latents, but it says nothing of features off the way that latents take, and needs longer.
"""

import torch
from torch import nn

from bench.privacy.generator.network import Decoder, Stage, sketched
from bench.privacy.generator.settings import Settings
from bench.privacy.images import Labeled
from bench.privacy.prior.network import zeroed
from bench.privacy.prior.time import SPREAD, standardized
from bench.privacy.trained import training

FITTED = 10_000
"""Images that the principal components are of."""


LOG_STD = (-6.0, 0.5)
"""Bounds of the logarithms of the moves' stds: those of the prior are 1, and a much larger one would overflow."""


class Guide(nn.Module):
    """The moves of a stage that an image asks for: their means and the logarithms of their stds."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.patch, self.sketch = stage.patch, stage.sketch
        self.conv1 = nn.Conv2d(stage.sketch + stage.channels, stage.inner, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(stage.inner, 2 * stage.channels, 1))

    def forward(self, points: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of images in the units of the flow, beside what the stage has so far."""
        seen = torch.cat([sketched(points, self.patch) - features[:, : self.sketch], features], 1)
        mean, log_std = self.conv2(nn.functional.silu(self.conv1(seen))).chunk(2, 1)
        return mean, log_std.clamp(*LOG_STD)


class Ladder(nn.Module):
    """The decoder, and what only its training needs.

    Args:
        settings: see there.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.detail = settings.detail / SPREAD
        self.decoder = Decoder(settings.latent, settings.size, settings.width)
        self.guides = nn.ModuleList([Guide(stage) for stage in self.decoder.stages])
        self.to(memory_format=torch.channels_last)

    def latents(self, points: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """Drawn as the images' components tell them (Tipping and Bishop 1999, section 3.2)."""
        decoder = self.decoder
        variances = decoder.components.square().sum(1)
        known = (points - decoder.average).flatten(1) @ decoder.components.T / (variances + self.detail**2)
        std = self.detail / (variances + self.detail**2).sqrt()
        return known + std * torch.randn(known.shape, generator=draw)

    def forward(self, points: torch.Tensor, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Images in the units of the flow -> rebuilt ones, and what all moves tell of each, in nats [N]."""
        decoder, told = self.decoder, torch.zeros(len(points))
        features = decoder.start(self.latents(points, draw))
        for number, guide in enumerate(self.guides):
            mean, log_std = guide(points, features)
            move = mean + log_std.exp() * torch.randn(mean.shape, generator=draw)
            told = told + (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).flatten(1).sum(1) / 2
            features = decoder.moved(features, number, move)
            if number < len(self.guides) - 1:
                features = decoder.advance(features, number)
        return standardized(decoder.finish(features, len(self.guides) - 1)), told


class Training(training.Training):
    """Of a generator; arguments as of ``Training`` there, but for the net."""

    net: Ladder
    settings: Settings

    def __init__(self, data: Labeled, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        net = Ladder(settings)
        net.decoder.fit(standardized(data.images[:FITTED].float() / 255))
        super().__init__(net, data, settings)

    def loss(self, draw: torch.Generator) -> torch.Tensor:
        """Nats a number of an image, without what does not depend on the net."""
        points = standardized(self.drawn(draw)[0])
        rebuilt, told = self.net(points, draw)
        error = (rebuilt - points).square().flatten(1).sum(1) / (2 * self.net.detail**2)
        return (error + told).mean() / points[0].numel()
