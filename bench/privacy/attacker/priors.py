"""What an attacker knows of images before it has seen a message.

A prior writes images as functions of latents z, in which the searches of ``posterior`` move, and says what a latent
costs. Another one is one more subclass of :class:`Prior`.
"""

import abc
import functools
from collections.abc import Callable, Sequence

import torch

Operator = Callable[[torch.Tensor], torch.Tensor]


class Density(abc.ABC):
    """Images as functions of latents z, and what latents cost.

    All methods take P problems with B images each at once, and are differentiable by z.
    """

    @abc.abstractmethod
    def images(self, z: torch.Tensor) -> torch.Tensor:
        """Latents [P, B, *latent_shape] -> images [P, B, channels, height, width], not cut to [0, 1]."""

    @abc.abstractmethod
    def cost(self, z: torch.Tensor) -> torch.Tensor:
        """The negative logarithm of the latents' density, up to a constant: [P]."""

    def curvature(self, z: torch.Tensor) -> Operator:
        """The cost's Hessian at z, or a positive semidefinite stand-in for it, as a function of directions like z.

        The identity here, which is that of every prior whose latents are standard normal.
        """
        return lambda direction: direction

    def refine(self, z: torch.Tensor, level: float) -> torch.Tensor:
        """Called after every step, for priors that act by a projection or by denoising instead of by their cost.

        Args:
            z: the latents.
            level: what is left of the annealing: 1 at first, 0 at the true noise.
        """
        return z


class Prior(Density):
    """Images of one shape and how likely they are, with latents to start from."""

    name: str

    @abc.abstractmethod
    def mean(self, batch: int) -> torch.Tensor:
        """The latents [batch, *latent_shape] of the images that are most ordinary."""

    @abc.abstractmethod
    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Random latents [batch, *latent_shape]."""


class Gaussian(Prior):
    """x = mean + L z with standard normal z, and L L' the covariance of images.

    Args:
        mean: [pixels], of images [channels, height, width] laid out flat.
        factor: L, [pixels, latents]; columns by the covariance's eigenvectors suit searches that scale each latent by
            itself.
        image_shape: (channels, height, width).
    """

    name = "Gaussian"

    def __init__(self, mean: torch.Tensor, factor: torch.Tensor, image_shape: Sequence[int]) -> None:
        self.average, self.factor, self.image_shape = mean, factor, tuple(image_shape)

    @functools.cached_property
    def root(self) -> torch.Tensor:
        """R with R R' = L'L, float64 [latents, latents]: the squares of L z are those of R'z."""
        factor = self.factor.double()
        return torch.linalg.cholesky(factor.T @ factor)

    @classmethod
    def fitted(cls, images: torch.Tensor, ridge: float = 1e-6, latents: int | None = None) -> "Gaussian":
        """The mean and covariance of images [N, channels, height, width] in [0, 1].

        Args:
            images: public ones.
            ridge: is added to all variances, for directions that the images do not have.
            latents: for the directions of most variance only; None for all.
        """
        flat = images.flatten(1)
        mean = flat.mean(0)
        covariance = torch.zeros(flat.shape[1], flat.shape[1])
        for part in flat.split(1000):
            centered = part - mean
            covariance += centered.T @ centered / len(flat)
        variances, vectors = torch.linalg.eigh(covariance)
        order = variances.argsort(descending=True)[:latents]
        factor = vectors[:, order] * (variances[order].clamp(min=0) + ridge).sqrt()
        return cls(mean, factor, images.shape[1:])

    def to(self, device: str) -> "Gaussian":
        """The same on a device."""
        return Gaussian(self.average.to(device), self.factor.to(device), self.image_shape)

    def images(self, z: torch.Tensor) -> torch.Tensor:
        return (self.average + z @ self.factor.T).unflatten(-1, self.image_shape)

    def cost(self, z: torch.Tensor) -> torch.Tensor:
        return z.square().flatten(1).sum(1) / 2

    def mean(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, self.factor.shape[1], device=self.factor.device)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, self.factor.shape[1], generator=generator).to(self.factor.device)


class Contrasts(Gaussian):
    """The same with a contrast of its own for each image: x = mean + L (contrast * z), a mixture of Gaussians.

    Photos differ in contrast by more than a Gaussian allows. The last latent, standard normal too, is the logarithm of
    the contrast; the first ones, of brightness and broad shades, are left alone by it. This density is for averages
    over it: its highest point is no likely image, as contrasts of any size then explain the same image.

    Args:
        spread: standard deviation of the logarithm of the contrast.
    """

    name = "Gaussian with contrasts"
    broad = 10

    def __init__(self, mean: torch.Tensor, factor: torch.Tensor, image_shape: Sequence[int], spread: float) -> None:
        super().__init__(mean, factor, image_shape)
        self.spread = spread

    @classmethod
    def of(cls, gaussian: Gaussian, images: torch.Tensor) -> "Contrasts":
        """With the spread that public images [N, channels, height, width] have in a Gaussian fitted to such."""
        scales = gaussian.factor.square().sum(0)  # the columns are orthogonal
        z = (images.flatten(1) - gaussian.average) @ gaussian.factor[:, cls.broad : 30 * cls.broad]
        z = z / scales[cls.broad : 30 * cls.broad]
        contrasts = z.square().mean(1).clamp(min=1e-6).sqrt()
        return cls(gaussian.average, gaussian.factor, gaussian.image_shape, contrasts.log().std().item())

    def to(self, device: str) -> "Contrasts":
        return Contrasts(self.average.to(device), self.factor.to(device), self.image_shape, self.spread)

    def images(self, z: torch.Tensor) -> torch.Tensor:
        z, logarithm = z[..., :-1], z[..., -1:]
        contrast = torch.exp(self.spread * logarithm - self.spread**2)  # its mean square is 1
        return super().images(torch.cat([z[..., : self.broad], contrast * z[..., self.broad :]], -1))

    def mean(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, self.factor.shape[1] + 1, device=self.factor.device)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, self.factor.shape[1] + 1, generator=generator).to(self.factor.device)


class TotalVariation(Prior):
    """Differences of neighbors, down and across, have Laplace's density, each on its own; latents are the pixels.

    Args:
        weight: one over the scale of the differences.
        image_shape: (channels, height, width).
        rounding: differences well below it are taken for Gaussian, which makes the cost smooth.
    """

    name = "TV"

    def __init__(self, weight: float, image_shape: Sequence[int], rounding: float = 0.01, device: str = "cpu") -> None:
        self.weight, self.image_shape, self.rounding, self.device = weight, tuple(image_shape), rounding, device

    def images(self, z: torch.Tensor) -> torch.Tensor:
        return z

    def cost(self, z: torch.Tensor) -> torch.Tensor:
        return self.weight * (self._rounded(differences(z)) - self.rounding).sum(1)

    def mean(self, batch: int) -> torch.Tensor:
        return torch.full((batch, *self.image_shape), 0.5, device=self.device)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(batch, *self.image_shape, generator=generator).to(self.device)

    def curvature(self, z: torch.Tensor) -> Operator:
        """That of the quadratic that touches the cost at z and lies above it elsewhere (lagged diffusivity)."""
        stiffness = self.weight / self._rounded(differences(z))
        _, transposed = torch.func.vjp(differences, z)
        return lambda direction: transposed(stiffness * differences(direction))[0]

    def refine(self, z: torch.Tensor, level: float) -> torch.Tensor:
        return z.clamp(0, 1)

    def _rounded(self, steps: torch.Tensor) -> torch.Tensor:
        return (steps.square() + self.rounding**2).sqrt()


def differences(images: torch.Tensor) -> torch.Tensor:
    """Of neighbors down and across: [P, B, channels, height, width] -> [P, all of them]."""
    down = images[..., 1:, :] - images[..., :-1, :]
    across = images[..., :, 1:] - images[..., :, :-1]
    return torch.cat([down.flatten(1), across.flatten(1)], 1)
