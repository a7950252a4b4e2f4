"""The velocity of a flow from noise to images, by class: a small U-Net that corrects a Gaussian's velocity.

U-Net as of Ronneberger et al. 2015, of residual blocks without norms, on squares of 2x2 pixels. It predicts what the
Gaussian leaves unexplained, in units of its std there (as Karras et al. 2022, section 5, do for their denoiser), so an
untrained net is the Gaussian's own denoiser, and training can only improve on that.
"""

import math

import torch
from torch import nn

from bench.privacy.prior.spectral import SpectralGaussian
from bench.privacy.prior.time import by_image

PATCH = 2  # pixels a side that are channels of one place: a quarter of the places, at little cost in detail
EMBEDDING = 128
FREQUENCIES = 16


class Velocity(nn.Module):
    """The mean of image minus noise, given a point of the flow.

    Args:
        channels: of the images.
        size: their side, a multiple of 8.
        classes: of the images; the label of that number means no class.
        width: channels where the U-Net is finest; up to twice as many further in.
    """

    def __init__(self, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.gaussian = SpectralGaussian(channels, size)
        self.unet = UNet(channels, classes, width)

    def forward(self, points: torch.Tensor, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """At points [N, channels, size, size] and times [N] strictly between 0 and 1, for classes int64 [N]."""
        known, unit = self.gaussian.velocity(points, time), by_image(self.gaussian.uncertainty(time))
        return known + unit * self.correction(points, time, labels, known)

    def correction(
        self, points: torch.Tensor, time: torch.Tensor, labels: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        """What to add to the Gaussian's velocity ``known``, in units of its uncertainty."""
        t = by_image(time)
        scaled = points / (t.square() + (1 - t).square()).sqrt()
        return self.unet(torch.cat([scaled, points + (1 - t) * known], 1), time, labels)


class UNet(nn.Module):
    """Three resolutions, each half as fine as the one before."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        fine, middle, coarse = width, width * 3 // 2, width * 2
        self.times = nn.Sequential(nn.Linear(2 * FREQUENCIES, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.classes = nn.Embedding(classes + 1, EMBEDDING)
        self.enter = nn.Conv2d(2 * channels * PATCH**2, fine, 3, padding=1)
        self.down = nn.ModuleList([Block(fine), Block(middle)])
        self.coarsen = nn.ModuleList([nn.Conv2d(fine, middle, 2, stride=2), nn.Conv2d(middle, coarse, 2, stride=2)])
        self.inner = nn.ModuleList([Block(coarse), Block(coarse)])
        self.refine = nn.ModuleList(
            [nn.ConvTranspose2d(coarse, middle, 2, stride=2), nn.ConvTranspose2d(middle, fine, 2, stride=2)]
        )
        self.up = nn.ModuleList([Block(middle), Block(fine)])
        self.leave = zeroed(nn.Conv2d(fine, channels * PATCH**2, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # twice as fast on CPUs

    def forward(self, images: torch.Tensor, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        context = nn.functional.silu(self.times(waves(time)) + self.classes(labels))
        places = nn.functional.pixel_unshuffle(images, PATCH).contiguous(memory_format=torch.channels_last)
        x, kept = self.enter(places), []
        for block, coarsen in zip(self.down, self.coarsen, strict=True):
            x = block(x, context)
            kept.append(x)
            x = coarsen(x)
        for block in self.inner:
            x = block(x, context)
        for refine, block in zip(self.refine, self.up, strict=True):
            x = block(refine(x) + kept.pop(), context)
        return nn.functional.pixel_shuffle(self.leave(nn.functional.silu(x)), PATCH)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; time and class scale and shift the channels between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.modulate = zeroed(nn.Linear(EMBEDDING, 2 * width))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulate(context)[:, :, None, None].chunk(2, 1)
        inner = self.conv1(nn.functional.silu(x)) * (1 + scale) + shift
        return x + self.conv2(nn.functional.silu(inner))


def waves(time: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of the logarithm of noise by signal: [N] -> [N, 2 * FREQUENCIES]."""
    level = torch.log1p(-time) - torch.log(time)
    rates = torch.exp(torch.linspace(math.log(0.25), math.log(8.0), FREQUENCIES, device=time.device))
    angles = level[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def zeroed(layer: nn.Module) -> nn.Module:
    """With parameters of zero, so that it adds nothing before it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
