"""Noise levels as times of the flow, which goes from noise at time 0 to images at time 1.

At time t a point of the flow is ``(1 - t) noise + t image``, with images as :func:`standardized`. By t it is the image
with noise of std (1 - t) / t, so a noise level names a time and the velocity there is a denoiser.
"""

import torch

CENTER, SPREAD = 0.5, 0.25
"""Of pixels in [0, 1]: what makes them about as large as noise of std 1."""


def standardized(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] in the units of the flow."""
    return (images - CENTER) / SPREAD


def as_pixels(points: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`standardized`; may leave [0, 1]."""
    return points * SPREAD + CENTER


def time_of(std: torch.Tensor) -> torch.Tensor:
    """The time at which images in [0, 1] have noise of that std."""
    return 1 / (1 + std / SPREAD)


def std_at(time: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`time_of`."""
    return SPREAD * (1 - time) / time


def by_image(values: torch.Tensor) -> torch.Tensor:
    """[N] -> [N, 1, 1, 1], to multiply images with."""
    return values.view(-1, 1, 1, 1)
