"""What an attacker trusts of a release, by what it knows of the defense."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from bench.privacy.client.gradients import Gradient
from bench.privacy.client.release import Release


class Observation(NamedTuple):
    """What an attacker matches, and how far it trusts each coefficient of it: see ``problem.Problem``."""

    gradient: Gradient
    weights: list[torch.Tensor | None] | None = None


Attacker = Callable[[Release], Observation]


def naive(release: Release) -> Observation:
    """Trusts everything alike: knows of no defense."""
    return Observation(release.gradient)


def oracle_mask(release: Release) -> Observation:
    """Leaves out every channel that has more noise than the quietest, knowing which they are."""
    quietest = _quietest(release)
    return Observation(
        release.gradient, [(std.amax((1, 2), keepdim=True) <= quietest).float() for std in release.noise_std]
    )


def spectral(release: Release) -> Observation:
    """Leaves out every coefficient that has more noise than the quietest: keeps the noised channels' low band."""
    quietest = _quietest(release)
    return Observation(release.gradient, [(std <= quietest).float() for std in release.noise_std])


def whitened(release: Release) -> Observation:
    """Trusts each coefficient by its noise: one over the standard deviation, with a tenth of the signal beside it.

    The weighted match of the maximum a posteriori estimate under Gaussian noise. The signal's share keeps the
    weight of exact coefficients finite; it is read off the quietest coefficients.
    """
    scale = 0.1 * _root_mean_square(release)
    return Observation(release.gradient, [1 / torch.sqrt(std.square() + scale**2) for std in release.noise_std])


def unsmoothed(release: Release) -> Observation:
    """Undoes the smoothing, which loses nothing: what is left is the gradient with uniform noise."""
    assert release.unsmooth is not None
    return Observation(release.unsmooth(release.gradient))


def inferred_mask(release: Release, ratio: float) -> Observation:
    """Leaves out the channels that look perturbed, knowing only the settings: the loudest in the high band.

    Of each tensor that has a frequency basis, the ``ceil(ratio * C)`` channels with the largest mean square of the
    coefficients that carry more noise than the quietest anywhere; which channels carry it is not looked at.
    """
    quietest = _quietest(release)
    weights: list[torch.Tensor | None] = []
    for sent, std, basis in zip(release.gradient, release.noise_std, release.bases, strict=True):
        high = None if basis is None else (std > quietest).flatten(0, 1).any(0)
        if basis is None or not high.any():
            weights.append(None)
            continue
        loudness = (sent.flatten(2) @ basis)[..., high].square().mean((1, 2))
        weight = torch.ones(len(sent), 1, 1)
        weight[loudness.argsort(descending=True)[: math.ceil(round(ratio * len(sent), 9))]] = 0
        weights.append(weight)
    return Observation(release.gradient, weights)


def _quietest(release: Release) -> float:
    return min(float(std.min()) for std in release.noise_std)


def _root_mean_square(release: Release) -> float:
    return torch.cat([g.flatten() for g in release.gradient]).square().mean().sqrt().item()
