"""A Gaussian with independent cosine coefficients: what is known of images in closed form, and where a net begins."""

import math

import torch
from torch import nn

from bench.privacy.prior.time import by_image


def cosines(size: int) -> torch.Tensor:
    """The orthonormal discrete cosine transform (type II): float32 [size, size], a frequency a row."""
    frequency, place = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    table = torch.cos(math.pi * frequency * (place + 0.5) / size) * math.sqrt(2 / size)
    table[0] /= math.sqrt(2)
    return table.float()


class SpectralGaussian(nn.Module):
    """Images as Gaussian cosine coefficients of three decorrelated colors, all independent.

    Args:
        channels: of the images.
        size: their side.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, size, size))
        self.register_buffer("variance", torch.ones(channels, size, size))
        self.register_buffer("colors", torch.eye(channels))
        self.register_buffer("table", cosines(size))

    @torch.no_grad()
    def fit(self, points: torch.Tensor) -> None:
        """To images [N, channels, size, size] in the units of the flow."""
        pixels = points.transpose(0, 1).flatten(1)
        self.colors.copy_(torch.linalg.eigh(torch.cov(pixels))[1].T)
        coefficients = self.analyze(points)
        self.mean.copy_(coefficients.mean(0))
        self.variance.copy_(coefficients.var(0))

    def velocity(self, points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The mean of image minus noise, given points [N, channels, size, size] of the flow at times [N]."""
        t = by_image(time)
        coefficients = self.analyze(points) - t * self.mean
        gain = (t * self.variance - (1 - t)) / (t.square() * self.variance + (1 - t).square())
        return self.synthesize(gain * coefficients + self.mean)

    def uncertainty(self, time: torch.Tensor) -> torch.Tensor:
        """Root mean square of image minus noise around that mean, at times [N]: [N]."""
        t = by_image(time)
        return (self.variance / (t.square() * self.variance + (1 - t).square())).flatten(1).mean(1).sqrt()

    def analyze(self, points: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("dc,nchw->ndhw", self.colors, points)
        return self.table @ mixed @ self.table.T

    def synthesize(self, coefficients: torch.Tensor) -> torch.Tensor:
        mixed = self.table.T @ coefficients @ self.table
        return torch.einsum("dc,ndhw->nchw", self.colors, mixed)
