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
    """

    mean_squares: torch.Tensor
    errors: torch.Tensor
    uncertainty: torch.Tensor
    guess: torch.Tensor
    leak: torch.Tensor
    leak_errors: torch.Tensor


def decibels(mean_squares: torch.Tensor) -> torch.Tensor:
    """PSNR of mean squared errors of images in [0, 1]."""
    return -10 * mean_squares.log10()


def decibels_of_share(share: torch.Tensor) -> torch.Tensor:
    """By how many dB a PSNR changes whose mean squared error grows by this share of itself."""
    return 10 / math.log(10) * torch.log1p(share)
