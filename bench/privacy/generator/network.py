"""A decoder of images by four stages of features, each twice as fine as the one before.

The features of every stage hold the image so far, as squares of pixels in channels (the sketch), beside hidden ones.
The latent's sketch is that of principal components, and blocks add to it (He et al. 2015), so an untrained decoder is
that of principal components, and training can only improve on that.
"""

from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.prior.network import zeroed
from bench.privacy.prior.time import as_pixels

CHANNELS = 3
SPARE = 16  # components beyond those asked for, which makes these precise
SIZE_OF_MOVES = 0.1  # at first, of features; images have a std of about 1 in their units


class Stage(NamedTuple):
    """What a stage looks like.

    Args:
        side: of its features, in places.
        patch: side of the square of pixels that its sketch holds for a place.
        hidden: channels beside the sketch.
        inner: channels within its block.
    """

    side: int
    patch: int
    hidden: int
    inner: int

    @property
    def sketch(self) -> int:
        """Its channels."""
        return CHANNELS * self.patch**2

    @property
    def channels(self) -> int:
        return self.sketch + self.hidden


def stages(size: int, width: int) -> list[Stage]:
    """Coarse to fine."""
    kinds = ((8, 4, 6), (4, 4, 6), (2, 2, 3), (1, 1, 1))
    return [Stage(size // patch, patch, width * hidden, width * inner) for patch, hidden, inner in kinds]


class Decoder(nn.Module):
    """From latents to the features of stages 0 to 3, to images.

    Args:
        latent: numbers in a latent, standard normal.
        size: of the images.
        width: see ``Settings``.
    """

    def __init__(self, latent: int, size: int, width: int) -> None:
        super().__init__()
        self.stages = stages(size, width)
        first = self.stages[0]
        self.register_buffer("average", torch.zeros(CHANNELS, size, size))
        self.register_buffer("components", torch.zeros(latent, CHANNELS * size**2))
        self.hidden = nn.Linear(latent, first.hidden * first.side**2)
        self.blocks = nn.ModuleList([Block(stage) for stage in self.stages])
        self.widen = nn.ModuleList(
            [nn.Conv2d(self.stages[k].channels, 4 * self.stages[k + 1].hidden, 1) for k in range(len(self.stages) - 1)]
        )
        self.log_sizes = nn.ParameterList([torch.full((s.channels, 1, 1), SIZE_OF_MOVES).log() for s in self.stages])
        self.to(memory_format=torch.channels_last)  # faster on CPUs

    @torch.no_grad()
    def fit(self, points: torch.Tensor) -> None:
        """Its principal components, to images [N, 3, size, size] in the units of the flow."""
        flat, count = points.flatten(1), len(self.components)
        # By random projections: exact eigenvectors of 3072 numbers take longer than some of the training.
        _, sizes, vectors = torch.pca_lowrank(flat, q=min(count + SPARE, *flat.shape), niter=4)
        found = vectors.T * sizes[:, None] / (len(flat) - 1) ** 0.5
        self.average.copy_(points.mean(0))
        self.components.zero_()[: len(found[:count])] = found[:count]

    def start(self, latents: torch.Tensor) -> torch.Tensor:
        """The features of stage 0 [N, channels, side, side] of latents [N, latent]."""
        first = self.stages[0]
        images = (latents @ self.components).view(-1, *self.average.shape) + self.average
        hidden = self.hidden(latents).view(-1, first.hidden, first.side, first.side)
        return torch.cat([sketched(images, first.patch), hidden], 1)

    def advance(self, features: torch.Tensor, stage: int) -> torch.Tensor:
        """From the features of a stage but the last to those of the next."""
        features = self.blocks[stage](features)
        sketch = nn.functional.pixel_shuffle(features[:, : self.stages[stage].sketch], 2)
        return torch.cat([sketch, nn.functional.pixel_shuffle(self.widen[stage](features), 2)], 1)

    def finish(self, features: torch.Tensor, stage: int) -> torch.Tensor:
        """From the features of a stage to images [N, 3, size, size] of pixels in [0, 1], not cut."""
        for number in range(stage, len(self.stages) - 1):
            features = self.advance(features, number)
        return as_pixels(self.blocks[-1](features)[:, :CHANNELS])

    def moved(self, features: torch.Tensor, stage: int, move: torch.Tensor) -> torch.Tensor:
        """Features of a stage after a move in units of what the training moved them by."""
        return features + self.log_sizes[stage].exp() * move


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(stage.channels, stage.inner, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(stage.inner, stage.channels, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(nn.functional.silu(self.conv1(x)))


def sketched(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Squares of pixels as channels; each ``pixel_shuffle`` by 2 gives the sketch of squares half the side."""
    while patch > 1:
        images, patch = nn.functional.pixel_unshuffle(images, 2), patch // 2
    return images
