"""What a message leaves unknown of its images, in the form in which both ways of computing it say so."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

Progress = Callable[[float], None]


class Posterior(NamedTuple):
    """Of N images in one message; the covariance P is that of all of them together.

    Attributes:
        mean_squares: mean of P's diagonal over each image, float64 [N].
        errors: of these, float64 [N]: one standard error, and what iterations may have left; 0 if exact.
        uncertainty: root of P's diagonal, float64 [N, ...].
        guess: the posterior mean, float64 [N, ...].
        leak: trace of F by band, float64 [bands]; ``leak_errors`` are its standard errors.
        reveals: trace of P F P by band, by the number of values of an image, float64 [bands]; and its standard errors.
    """

    mean_squares: torch.Tensor
    errors: torch.Tensor
    uncertainty: torch.Tensor
    guess: torch.Tensor
    leak: torch.Tensor
    leak_errors: torch.Tensor
    reveals: torch.Tensor
    reveals_errors: torch.Tensor


def by_probes(squares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A sum over images [N, probes, bands] of what is the mean over the probes of each; and its standard errors."""
    by_probe = squares.sum(0)
    return by_probe.mean(0), by_probe.std(0) / math.sqrt(len(by_probe))


def random_signs(images: torch.Tensor, probes: int, generator: torch.Generator) -> torch.Tensor:
    """Random signs in one image and zeros in the others, float64 [N, probes, N, ...] (Hutchinson 1989)."""
    count = len(images)
    drawn = torch.randint(0, 2, (count, probes, *images.shape[1:]), generator=generator, device="cpu").to(images.device)
    signs = torch.zeros(count, probes, *images.shape, dtype=torch.float64, device=images.device)
    for index in range(count):
        signs[index, :, index] = 2 * drawn[index].double() - 1
    return signs


def decibels(mean_squares: torch.Tensor) -> torch.Tensor:
    """PSNR of mean squared errors of images in [0, 1]."""
    return -10 * mean_squares.log10()


def decibels_of_share(share: torch.Tensor) -> torch.Tensor:
    """By how many dB a PSNR changes whose mean squared error grows by this share of itself."""
    return 10 / math.log(10) * torch.log1p(share)
