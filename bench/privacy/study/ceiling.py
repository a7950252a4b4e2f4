"""What a Gaussian prior and the message tell at most where the gradient is linear in the images.

At the true images, which no attacker has. ``tip_kernels.audit`` computes the same from a TIP's settings; this is from
what a client sent, so that it holds for every defense of the study, and with the attackers' own prior and likelihood.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.priors import Gaussian
from bench.privacy.client.release import Defense, Release
from bench.privacy.study.evaluate import released
from bench.privacy.study.scenes import Batch, Scene


class Limits(NamedTuple):
    """Of the B images behind a message, [B] each, in dB.

    Args:
        ceiling: of the mean squared error that the best estimate leaves on average over images of the prior.
        guess: of what the same estimate leaves of these very images, which may be easier or harder than the average.
    """

    ceiling: torch.Tensor
    guess: torch.Tensor


def limits(model: nn.Module, release: Release, prior: Gaussian, images: torch.Tensor, chunk: int = 256) -> Limits:
    """By the posterior covariance L (I + L'FL)^-1 L' of the linearized problem, x = mean + L z.

    Args:
        model: the global model.
        release: what a client sent.
        prior: of each image; the images of a batch are independent.
        images: [B, channels, height, width], the client's.
        chunk: derivatives that are computed at once.
    """
    precision = _gram(_sensitivity(model, release, prior, images, chunk))  # L'FL
    precision.diagonal().add_(1.0)
    root = torch.linalg.cholesky(precision)
    left, squared = _by_image(prior.root, torch.cholesky_inverse(root))
    spread = left - squared  # of the guess around its expectation: with the inverse C of I + L'FL, C L'FL C = C - C C
    pixels = len(prior.factor)
    missed = (_expected_guess(root, prior, images) - images.flatten(1)).square().mean(1)
    return Limits(_decibels(left / pixels), _decibels(spread / pixels + missed))


def limits_of(scene: Scene, defense: Defense, prior: Gaussian, batches: Iterable[Batch]) -> Limits:
    """Of the images of several messages under a defense, one after the other."""
    found = [limits(scene.model, released(scene, defense, batch, 1), prior, batch.images) for batch in batches]
    return Limits(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _sensitivity(model: nn.Module, release: Release, prior: Gaussian, images: torch.Tensor, chunk: int) -> torch.Tensor:
    """The derivatives of the whitened message by all latents of all images."""
    likelihood = Likelihood(model, [release], batch_size=len(images))

    def message(images: torch.Tensor) -> torch.Tensor:
        return likelihood.residuals(images[None])[0]

    def derivative(direction: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(message, (images,), (direction,))[1]

    directions = prior.factor.T.view(-1, *images.shape[1:])
    rows = []
    for number in range(len(images)):
        of_one = torch.zeros(len(directions), *images.shape)
        of_one[:, number] = directions
        rows.append(torch.vmap(derivative, chunk_size=chunk)(of_one))
    return torch.cat(rows)


def _gram(rows: torch.Tensor, size: int = 256) -> torch.Tensor:
    """The lower triangle of A A', float64; multiplied as float32 where that disturbs it by less than a hundredth of 1.

    By blocks of so many rows, with what they have above the diagonal.
    """
    if rows.square().sum().item() * 2.0**-24 > 1e-2:
        rows = rows.double()
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for first in range(0, len(rows), size):
        last = first + size
        products[first:last, :last] = rows[first:last] @ rows[:last].T
    return products


def _expected_guess(root: torch.Tensor, prior: Gaussian, images: torch.Tensor) -> torch.Tensor:
    """Of images, [B, pixels]: the mean + L P L'FL z, for z the images' own latents."""
    factor = prior.factor.double()
    z = torch.cholesky_solve(((images.flatten(1) - prior.average).double() @ factor).T, prior.root).T
    return prior.average + (z - torch.cholesky_solve(z.reshape(-1, 1), root).view_as(z)) @ factor.T


def _by_image(inner_root: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """trace(L C L') and trace(L C C L') of every image's rows of C, [B] each; R R' = L'L for the root."""
    latents = len(inner_root)
    halves = [inner_root.T @ rows for rows in covariance.split(latents)]  # R'C, [latents, B latents]
    own = [half[:, latents * image : latents * (image + 1)] for image, half in enumerate(halves)]
    traces = [(half * inner_root.T).sum() for half in own]
    return torch.stack(traces), torch.stack([half.square().sum() for half in halves])


def _decibels(mean_squares: torch.Tensor) -> torch.Tensor:
    return -10 * mean_squares.log10()
