"""A Gaussian prior by frequency, for images whose covariance is too large: 12,288 squared at 64x64."""

import torch

from bench.privacy.attacker.priors import Prior
from bench.privacy.prior.spectral import SpectralGaussian


class Spectral(Prior):
    """x = mean + C' (std * z) with standard normal z: independent cosine coefficients of three decorrelated colors.

    Latents have the shape of images, a coefficient each.

    Args:
        gaussian: fitted to images in [0, 1], on the device of the search.
    """

    name = "Gaussian by frequency"

    def __init__(self, gaussian: SpectralGaussian) -> None:
        self._gaussian, self._std = gaussian, gaussian.variance.sqrt()

    @classmethod
    def fitted(cls, images: torch.Tensor, ridge: float = 1e-6) -> "Spectral":
        """To public images [N, channels, size, size] in [0, 1]; ``ridge`` is added to all variances."""
        gaussian = SpectralGaussian(*images.shape[1:3])
        gaussian.fit(images)
        gaussian.variance += ridge
        return cls(gaussian)

    def to(self, device: str) -> "Spectral":
        """The same on a device."""
        return Spectral(self._gaussian.to(device))

    def images(self, z: torch.Tensor) -> torch.Tensor:
        flat = self._gaussian.synthesize(self._gaussian.mean + self._std * z.flatten(0, 1))
        return flat.view(z.shape)

    def cost(self, z: torch.Tensor) -> torch.Tensor:
        return z.square().flatten(1).sum(1) / 2

    def mean(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, *self._std.shape, device=self._std.device)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, *self._std.shape, generator=generator).to(self._std.device)

    def denoised(self, images: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        """The mean of the images behind noisy ones [N, channels, size, size], of white noise with stds [N] (Wiener)."""
        gain = self._gaussian.variance / (self._gaussian.variance + std.view(-1, 1, 1, 1).square())
        left = self._gaussian.analyze(images) - self._gaussian.mean
        return self._gaussian.synthesize(self._gaussian.mean + gain * left)
