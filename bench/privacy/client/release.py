"""What a defense lets out of a client."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.client.gradients import Gradient, LocalSteps, as_kernels
from bench.privacy.client.statistics import Statistics

CLIP = 1.0
"""What all defenses clip the whole gradient to, unless their norm adapts."""


class Release(NamedTuple):
    """What a client sends, and what an attacker who knows the defense knows of it.

    Args:
        gradient: in the order of ``model.parameters()``.
        noise_std: for each parameter the standard deviation of the noise in its coefficients, of a shape that
            broadcasts to [C, M, K]; infinite where nothing of the gradient is left.
        bases: for each parameter the [K, K] basis of those coefficients, or None for the taps themselves.
        noise_energy: the expected squared norm of all the noise in ``gradient``.
        unsmooth: undoes a smoothing of gradient and noise together, where there was one.
        unsmoothed_std: of the noise in every coordinate before that smoothing.
        max_norm: what the gradient was clipped to, before everything else.
        local: the SGD steps whose mean gradient it is, or None for a gradient at the global model.
        statistics: what the client's batch norms had as input, see ``statistics.py`` beside, or None where they are not
            sent.
    """

    gradient: Gradient
    noise_std: list[torch.Tensor]
    bases: list[torch.Tensor | None]
    noise_energy: float = 0.0
    unsmooth: Callable[[Gradient], Gradient] | None = None
    unsmoothed_std: float = 0.0
    max_norm: float = CLIP
    local: LocalSteps | None = None
    statistics: Statistics | None = None


Defense = Callable[[nn.Module, torch.Tensor, torch.Tensor, int], Release]
"""Called as ``defense(model, images, labels, seed)``; leaves the model as it was."""


def evenly_noised(gradient: Gradient, std: float) -> Release:
    """The release of a gradient that has noise of the same std, or none, in all its coordinates."""
    noise = [torch.full((1, 1, 1), std) for _ in gradient]
    return Release(gradient, noise, [None] * len(gradient), std**2 * sum(g.numel() for g in gradient))


def unsmoothed(release: Release) -> Release:
    """The release with its smoothing undone, which loses nothing and leaves the noise alike in all coordinates."""
    if release.unsmooth is None:
        return release
    std = [torch.full((1, 1, 1), release.unsmoothed_std) for _ in release.gradient]
    return release._replace(gradient=release.unsmooth(release.gradient), noise_std=std, unsmooth=None)


def noise_energy(noise_std: torch.Tensor, tensor: torch.Tensor) -> float:
    """Expected squared norm of noise whose std by coefficient broadcasts to the tensor's [C, M, K]."""
    return noise_std.square().expand(as_kernels(tensor).shape).sum().item()
