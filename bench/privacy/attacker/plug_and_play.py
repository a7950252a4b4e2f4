"""Posterior sampling through a denoiser: the search whose prior is a flow.

A run follows noise levels downward. At each the denoiser guesses the image behind its noisy point, and the message
corrects the guess: Gauss-Newton steps on the message's likelihood beside a Gaussian around the guess, whose covariance
is what the denoiser can not know at this noise level. Then noise is put back for the next level, some of it fresh. This
is half-quadratic splitting with annealed noise (DiffPIR, Zhu et al. 2023, algorithm 1), with the error of a Gaussian's
denoiser, by frequency, in place of one number for all. The mean of several runs is nearer to the image than any of
them, as far as they are samples of what the message leaves open.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from bench.privacy.prior.denoiser import Denoiser, levels
from bench.privacy.prior.spectral import SpectralGaussian
from bench.privacy.prior.time import SPREAD


class Message(Protocol):
    """What an attacker knows of P candidates' fit.

    Attributes:
        labels: int64 [P, B].
    """

    labels: torch.Tensor

    def residuals(self, images: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        """[P, D] of candidates [P, B, *image_shape], standard normal under the noise for the client's own images."""


class Plan(NamedTuple):
    """How a run goes.

    Args:
        first, last: noise levels of pixels.
        count: of noise levels.
        newton: Gauss-Newton steps at each.
        conjugate: iterations of conjugate gradients in each of those.
        fresh: share of the noise that is drawn anew at each level; 0 follows the flow, 1 forgets the way.
        trust: factor on the std of the Gaussian around the denoiser's guess.
        seed: of all noise.
    """

    first: float = 2.0
    last: float = 0.01
    count: int = 40
    newton: int = 1
    conjugate: int = 12
    fresh: float = 0.5
    trust: float = 1.0
    seed: int = 0


def invert(
    message: Message,
    denoiser: Denoiser,
    spread: SpectralGaussian,
    plan: Plan = Plan(),  # noqa: B008 - a NamedTuple is immutable
    progress: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """One run for each row of the message's labels.

    Args:
        message: of P candidates with B images each.
        denoiser: of images of that shape.
        spread: the Gaussian whose posterior covariance stands for that of the denoiser.
        plan: of the run.
        progress: called after each noise level with the guesses.

    Returns:
        [P, B, channels, height, width], cut to [0, 1].
    """
    labels = message.labels
    draw = torch.Generator().manual_seed(plan.seed)
    steps = levels(plan.first, plan.last, plan.count).tolist()
    shape = (*labels.shape, *denoiser.shape)
    noisy = 0.5 + steps[0] * torch.randn(shape, generator=draw)
    for std, following in zip(steps, [*steps[1:], 0.0], strict=True):
        with torch.no_grad():
            guess = denoiser.denoise(noisy.flatten(0, 1), std, labels.flatten()).view(shape)
        image = corrected(message, guess, spread_at(spread, std, plan.trust), plan)
        noise = (noisy - image) / std
        noise = (1 - plan.fresh) ** 0.5 * noise + plan.fresh**0.5 * torch.randn(shape, generator=draw)
        noisy = image + following * noise
        if progress is not None:
            progress(image)
    return image.clamp(0, 1)


Root = Callable[[torch.Tensor], torch.Tensor]
"""A square root of a covariance of images, as a function of [P, B, channels, height, width]."""


def spread_at(spread: SpectralGaussian, std: float, trust: float) -> Root:
    """Of images around the mean guess that the Gaussian makes of them, from noise of that std."""
    level = (std / SPREAD) ** 2
    scale = trust * SPREAD * (spread.variance * level / (spread.variance + level)).sqrt()
    return lambda white: spread.synthesize(white.flatten(0, 1) * scale).view_as(white)


def corrected(message: Message, guess: torch.Tensor, root: Root, plan: Plan) -> torch.Tensor:
    """The guess moved to the best compromise with the message: the minimum of half the squared residuals and latents.

    A latent is a step from the guess in units of ``root``. Steps that make it worse are halved.
    """

    def residuals(latent: torch.Tensor) -> torch.Tensor:
        return message.residuals(guess + root(latent))

    latent = torch.zeros_like(guess)
    for _ in range(plan.newton):
        step = gauss_newton(residuals, latent, plan.conjugate)
        latent = descended(residuals, latent, step)
    return guess + root(latent)


def gauss_newton(residuals: Root, latent: torch.Tensor, iterations: int) -> torch.Tensor:
    """The step to the minimum of half the squared linearized residuals and latents, by conjugate gradients."""
    latent = latent.detach().requires_grad_()
    with torch.enable_grad():
        found = residuals(latent)
        weight = torch.zeros_like(found, requires_grad=True)
        (pulled,) = torch.autograd.grad(found, latent, weight, create_graph=True)

    def curved(direction: torch.Tensor) -> torch.Tensor:
        (pushed,) = torch.autograd.grad(pulled, weight, direction, retain_graph=True)
        return torch.autograd.grad(found, latent, pushed, retain_graph=True)[0] + direction

    (slope,) = torch.autograd.grad(found, latent, found.detach(), retain_graph=True)
    return conjugate_gradients(curved, -(slope + latent.detach()), iterations)


def conjugate_gradients(matrix: Root, right: torch.Tensor, iterations: int) -> torch.Tensor:
    """Solves matrix x = right for each row by itself (Hestenes and Stiefel 1952)."""
    solution, remainder = torch.zeros_like(right), right
    direction, size = right, dot(right, right)
    for _ in range(iterations):
        product = matrix(direction)
        length = size / dot(direction, product).clamp(min=torch.finfo(right.dtype).tiny)
        solution = solution + length * direction
        remainder = remainder - length * product
        grown = dot(remainder, remainder)
        direction = remainder + grown / size.clamp(min=torch.finfo(right.dtype).tiny) * direction
        size = grown
    return solution


@torch.no_grad()
def descended(residuals: Root, latent: torch.Tensor, step: torch.Tensor, halvings: int = 4) -> torch.Tensor:
    """The best of the points at 1, 1/2, 1/4, ... of the step, or none of it."""

    def cost(at: torch.Tensor) -> torch.Tensor:
        return residuals(at).square().sum(1) + at.square().flatten(1).sum(1)

    best, lowest = latent, cost(latent)
    for power in range(halvings):
        tried = latent + step / 2**power
        value = cost(tried)
        better = value < lowest
        best = torch.where(better.view(-1, 1, 1, 1, 1), tried, best)
        lowest = torch.where(better, value, lowest)
    return best


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of rows, in a shape that multiplies them."""
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.dim() - 1))
