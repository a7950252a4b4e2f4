"""The flow as a denoiser of images in [0, 1], and as a source of them."""

import itertools
from collections.abc import Callable

import torch

from bench.privacy.prior.settings import Settings
from bench.privacy.prior.time import as_pixels, by_image, standardized, std_at, time_of
from bench.privacy.prior.weights import load

Field = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The mean of image minus noise given points [N, channels, size, size], times [N] and labels [N]."""

PURE_NOISE = 0.01  # the time at which sampling begins; velocities are not defined at 0


class Denoiser:
    """Best guesses of images from noisy ones, by a flow's velocity.

    Args:
        velocity: of the flow, in the units of :mod:`bench.privacy.prior.time`.
        shape: (channels, size, size) of the images.
        classes: the label that stands for no class.
    """

    def __init__(self, velocity: Field, shape: tuple[int, int, int], classes: int) -> None:
        self.velocity, self.shape, self.classes = velocity, shape, classes

    @classmethod
    def trained(cls, settings: Settings) -> "Denoiser":
        """From the weights of these settings; raises as :func:`bench.privacy.prior.weights.load`."""
        return cls(load(settings), (settings.channels, settings.size, settings.size), settings.classes)

    def denoise(
        self, images: torch.Tensor, std: torch.Tensor | float, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The mean of the images behind noisy ones.

        Args:
            images: [N, channels, size, size], of pixels in [0, 1] and noise, not cut.
            std: of the noise, above 0, for all or [N] for each.
            labels: classes int64 [N]; None for unknown ones.

        Returns:
            As many images, not cut to [0, 1] either.
        """
        times = time_of(torch.as_tensor(std, dtype=images.dtype, device=images.device)).expand(len(images))
        points = standardized(images) * by_image(times)
        return as_pixels(points + (1 - by_image(times)) * self._at(points, times, labels))

    @torch.no_grad()
    def sample(
        self, count: int, labels: torch.Tensor | None, generator: torch.Generator, steps: int = 40
    ) -> torch.Tensor:
        """Images [count, channels, size, size] of the classes [count], by Heun's rule along the flow; cut to [0, 1]."""
        points = torch.randn(count, *self.shape, generator=generator)
        # Even steps in the logarithm of the noise level, of which most of the way is spent where images take shape.
        times = schedule(std_at(torch.tensor(PURE_NOISE)).item(), 0.005, steps)
        points = points * (1 - times[0])
        for now, then in itertools.pairwise(times):
            slope = self._at(points, now.expand(count), labels)
            ahead = self._at(points + (then - now) * slope, then.expand(count), labels)
            points = points + (then - now) * (slope + ahead) / 2
        last = times[-1].expand(count)
        return as_pixels(points + (1 - times[-1]) * self._at(points, last, labels)).clamp(0, 1)

    def _at(self, points: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        if labels is None:
            labels = torch.full((len(points),), self.classes)
        return self.velocity(points, times, labels)


def levels(first: float, last: float, count: int) -> torch.Tensor:
    """Falling noise levels of pixels, evenly spaced in their logarithm."""
    return torch.logspace(torch.tensor(first).log10().item(), torch.tensor(last).log10().item(), count)


def schedule(first: float, last: float, steps: int) -> torch.Tensor:
    """The times of such noise levels: ``steps + 1`` of them."""
    return time_of(levels(first, last, steps + 1))
