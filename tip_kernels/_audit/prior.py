"""What an attacker knows of images before it sees a message, as a Gaussian: mean and covariance."""

import math
from collections.abc import Sequence

import torch

MOST_DENSE = 4096
"""Values of an image up to which :meth:`ImagePrior.fit` keeps a full covariance."""

BLOCK = 512
"""Columns of a triangular matrix that are multiplied at once."""


class ImagePrior:
    """A Gaussian over images [channels, height, width]: ``mean + L z`` with z ~ N(0, I), so covariance S = L L'.

    L is a matrix, or it scales independent cosine coefficients (those of the orthonormal DCT-II) and mixes colors, for
    images of any size: a stationary prior whose borders reflect, which need not wrap around as Fourier's would.

    Build one by :meth:`fit` or :meth:`natural`.

    Attributes:
        mean: float64 ``[channels, height, width]``.
        variance: of each value, the diagonal of S, in the same shape.
        latents: length of z.
    """

    def __init__(self, mean: torch.Tensor, spread: "Dense | Cosines") -> None:
        self.mean = mean
        self.shape = tuple(mean.shape)
        self.variance = spread.variance().reshape(mean.shape)
        self.latents = spread.latents
        self._spread = spread

    @classmethod
    def fit(cls, images: torch.Tensor, *, stationary: bool | None = None) -> "ImagePrior":
        """Mean and covariance of images that the attacker has.

        A full covariance is that of the images, drawn towards a stationary one as if d more images had shown that, for
        images of d values: what a few images do not show is not taken for impossible. (The mean of the inverse-Wishart
        posterior with d pseudo-observations.)

        Args:
            images: floating ``[N, channels, height, width]``, at least two, in the range of those that are audited.
            stationary: whether the cosine coefficients are taken for independent; None: for images of more than 4,096
                values, whose full covariance would be large.

        Raises:
            TypeError, ValueError: not such images, or all are alike.
        """
        _check_images(images)
        images = images.detach().double()
        mean = images.mean(0)
        cosines = Cosines.fit(images - mean)
        if images[0].numel() > MOST_DENSE if stationary is None else stationary:
            return cls(mean, cosines)
        return cls(mean, Dense.fit(images - mean, cosines))

    @classmethod
    def natural(
        cls, shape: Sequence[int], *, mean: float = 0.5, std: float = 0.25, color_correlation: float = 0.9
    ) -> "ImagePrior":
        """For images in [0, 1] of which nothing else is known: power falls with the square of the frequency.

        That holds on average over natural scenes (Field 1987, "Relations between the statistics of natural images and
        the response properties of cortical cells"). The average brightness counts as half the lowest frequency.

        Args:
            shape: ``(channels, height, width)``.
            mean: of every value.
            std: of a value around it, over all images and places.
            color_correlation: between any two channels at one place.

        Raises:
            ValueError: not such a shape, or a number out of range.
        """
        shape = tuple(shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"expected a shape (channels, height, width) of positive lengths, got {shape}")
        if not 0 < std < math.inf:
            raise ValueError(f"expected std to be positive and finite, got {std}")
        if not 0 <= color_correlation < 1:
            raise ValueError(f"expected color_correlation in [0, 1), got {color_correlation}")
        channels, height, width = shape
        colors = torch.full((channels, channels), color_correlation, dtype=torch.float64, device="cpu")
        colors.fill_diagonal_(1.0)
        down, across = (torch.arange(n, dtype=torch.float64, device="cpu") / (2 * n) for n in (height, width))
        squared = down[:, None] ** 2 + across**2  # of frequencies, in cycles per pixel
        squared[0, 0] = (1 / (4 * max(height, width))) ** 2
        power = 1 / squared
        power *= std**2 * height * width / power.sum()
        return cls(torch.full(shape, mean, dtype=torch.float64, device="cpu"), Cosines(power, colors))

    def spread(self, latents: torch.Tensor) -> torch.Tensor:
        """L z: from ``[..., latents]`` to ``[..., channels, height, width]``, in the dtype and on the device of z."""
        return self._spread.spread(latents).reshape(*latents.shape[:-1], *self.shape)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """L' v: from ``[..., channels, height, width]`` to ``[..., latents]``."""
        return self._spread.gather(values)

    def factor(self) -> torch.Tensor:
        """L, float64 ``[d, latents]``, by the values of an image in row-major order."""
        return self._spread.factor()

    def psnr(self) -> float:
        """What its mean gets on average, in dB: what an attacker has without a message."""
        return -10 * math.log10(self.variance.mean().item())

    def __repr__(self) -> str:
        return f"ImagePrior({self.shape}, {type(self._spread).__name__.lower()}, {self.psnr():.1f} dB)"


class Dense:
    """L is a lower triangular matrix [d, d], by the values of an image in row-major order."""

    def __init__(self, factor: torch.Tensor) -> None:
        if factor.triu(1).any():  # what gather() leaves out
            raise ValueError("expected a lower triangular factor, got one with numbers above its diagonal")
        self._factor = factor
        self.latents = len(factor)

    @classmethod
    def fit(cls, centered: torch.Tensor, cosines: "Cosines") -> "Dense":
        """The covariance of centered images [N, ...], drawn towards that of ``cosines``."""
        flat = centered.flatten(1)
        count, d = flat.shape
        other = cosines.spread(torch.eye(d, dtype=flat.dtype, device=flat.device)).flatten(1)  # L' of the cosines
        covariance = (flat.T @ flat + d * (other.T @ other)) / (count - 1 + d)
        return cls(torch.linalg.cholesky(covariance))

    def variance(self) -> torch.Tensor:
        """The diagonal of L L', [d]."""
        return self._factor.square().sum(1)

    def spread(self, latents: torch.Tensor) -> torch.Tensor:
        """L z, with its values in one axis."""
        return latents @ self._factor.T.to(latents)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """L' v, by blocks of columns of L, without the zeros above them: half of the products."""
        flat, factor = values.flatten(-3), self._factor.to(values)
        blocks = [flat[..., first:] @ factor[first:, first : first + BLOCK] for first in range(0, len(factor), BLOCK)]
        return torch.cat(blocks, -1)

    def factor(self) -> torch.Tensor:
        """L."""
        return self._factor


class Cosines:
    """Independent cosine coefficients with a variance each, times a covariance of colors that is the same for all.

    Args:
        power: variances of the coefficients, float64 [height, width].
        colors: covariance of the channels in one of them, [channels, channels], with a trace of as many as there are.
    """

    def __init__(self, power: torch.Tensor, colors: torch.Tensor) -> None:
        values, vectors = torch.linalg.eigh(colors)
        self._amplitude = power.sqrt()
        self._mix = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self._down, self._across = (_cosines(length).to(power) for length in power.shape)
        self.latents = len(colors) * power.numel()

    @classmethod
    def fit(cls, centered: torch.Tensor) -> "Cosines":
        """To centered images [N, channels, height, width]."""
        down, across = (_cosines(length).to(centered) for length in centered.shape[-2:])
        coefficients = down @ centered @ across.T
        degrees = len(centered) - 1
        power = coefficients.square().mean(1).sum(0) / degrees
        power.clamp_(min=1e-6 * power.mean())  # a frequency that these images lack may be in others
        colors = torch.einsum("nchw,nkhw->ck", centered, centered)
        return cls(power, colors * (len(colors) / colors.trace()))

    def variance(self) -> torch.Tensor:
        """The diagonal of L L', [channels, height, width]."""
        by_place = self._down.T.square() @ self._amplitude.square() @ self._across.square()
        variance: torch.Tensor = (self._mix @ self._mix).diagonal()[:, None, None] * by_place
        return variance

    def spread(self, latents: torch.Tensor) -> torch.Tensor:
        """L z, as images."""
        shape = (len(self._mix), *self._amplitude.shape)
        scaled = latents.reshape(*latents.shape[:-1], *shape) * self._amplitude.to(latents)
        images: torch.Tensor = self._down.T.to(latents) @ self._mixed(scaled) @ self._across.to(latents)
        return images

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """L' v."""
        coefficients: torch.Tensor = self._down.to(values) @ self._mixed(values) @ self._across.T.to(values)
        return (coefficients * self._amplitude.to(values)).flatten(-3)

    def factor(self) -> torch.Tensor:
        """L."""
        shape = (len(self._mix), *self._amplitude.shape)
        return self.gather(torch.eye(self.latents, dtype=torch.float64, device=self._mix.device).view(-1, *shape))

    def _mixed(self, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ck,...khw->...chw", self._mix.to(images), images)


def _cosines(length: int) -> torch.Tensor:
    """The orthonormal DCT-II as a float64 matrix, [frequencies, places]."""
    places = torch.arange(length, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / length * places[:, None] * (places + 0.5)) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix


def _check_images(images: torch.Tensor) -> None:
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(f"expected images to be a floating tensor, got {got}")
    if images.dim() != 4 or len(images) < 2 or images.numel() == 0:
        raise ValueError(f"expected at least two images [N, channels, height, width], got shape {tuple(images.shape)}")
    if not images.isfinite().all() or not images.var(0).sum() > 0:
        raise ValueError("expected finite images that differ, got NaN, infinite numbers or copies of one image")
