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


def limits(model: nn.Module, release: Release, prior: Gaussian, images: torch.Tensor, chunk: int = 16) -> Limits:
    """By the posterior covariance L (I + L'FL)^-1 L' of the linearized problem, x = mean + L z.

    Args:
        model: the global model.
        release: what a client sent.
        prior: of each image; the images of a batch are independent.
        images: [B, channels, height, width], the client's.
        chunk: derivatives that are computed at once.
    """
    fisher = _gram(_sensitivity(model, release, prior, images, chunk))  # L'FL, [B latents, B latents]
    precision = fisher.clone()
    precision.diagonal().add_(1.0)
    root = torch.linalg.cholesky(precision)
    covariance = torch.cholesky_inverse(root)
    factor = prior.factor.double()  # L, [pixels, latents]
    pixels, inner = len(factor), factor.T @ factor
    left = _squares(inner, covariance)
    spread = _squares(inner, covariance @ fisher @ covariance)  # of the guess around its expectation
    expected = _expected_guess(root, factor, inner, images.flatten(1) - prior.average)
    missed = (expected + prior.average - images.flatten(1)).square().mean(1)
    return Limits(_decibels(left / pixels), _decibels(spread / pixels + missed))


def limits_of(scene: Scene, defense: Defense, prior: Gaussian, batches: Iterable[Batch]) -> Limits:
    """Of the images of several messages under a defense, one after the other."""
    found = [limits(scene.model, released(scene, defense, batch, 1), prior, batch.images) for batch in batches]
    return Limits(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _sensitivity(model: nn.Module, release: Release, prior: Gaussian, images: torch.Tensor, chunk: int) -> torch.Tensor:
    """The derivatives of the whitened message by all latents of all images."""
    rows = []
    for number in range(len(images)):
        for columns in prior.factor.T.split(chunk):
            many = Likelihood(model, [release], restarts=len(columns), batch_size=len(images))
            directions = torch.zeros(len(columns), *images.shape)
            directions[:, number] = columns.view(-1, *images.shape[1:])
            at, transposed = torch.func.vjp(many.residuals, images.expand_as(directions))
            _, forward = torch.func.vjp(lambda u, transposed=transposed: transposed(u)[0], torch.zeros_like(at))
            rows.append(forward(directions)[0])
    return torch.cat(rows)


def _gram(rows: torch.Tensor) -> torch.Tensor:
    """A A', float64; multiplied as float32 where that disturbs it by less than a hundredth of the prior's 1."""
    if rows.square().sum().item() * 2.0**-24 > 1e-2:
        rows = rows.double()
    return (rows @ rows.T).double()


def _expected_guess(
    root: torch.Tensor, factor: torch.Tensor, inner: torch.Tensor, centered: torch.Tensor
) -> torch.Tensor:
    """Of images minus the prior's mean, [B, pixels]: L P L'FL z, for z the images' own latents."""
    z = torch.cholesky_solve((centered.double() @ factor).T, torch.linalg.cholesky(inner)).T
    return (z - torch.cholesky_solve(z.reshape(-1, 1), root).view_as(z)) @ factor.T


def _squares(inner: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """trace(L C L') of every image's block C, [B]."""
    latents = len(inner)
    blocks = [slice(first, first + latents) for first in range(0, len(covariance), latents)]
    return torch.stack([(inner * covariance[block, block]).sum() for block in blocks])


def _decibels(mean_squares: torch.Tensor) -> torch.Tensor:
    return -10 * mean_squares.log10()
