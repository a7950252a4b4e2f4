"""What a prior is worth: how well it denoises, and what it gives away of an image without any message."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from bench.privacy.prior.denoiser import Denoiser
from bench.privacy.study import metrics

NOISE = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Std of the noise on pixels in [0, 1]."""

Method = Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor]
"""Noisy images [N, channels, height, width], the std of their noise and their classes -> images."""


def denoising(methods: dict[str, Method], images: torch.Tensor, labels: torch.Tensor) -> dict[str, list[float]]:
    """By method the mean PSNR in dB at each of :data:`NOISE`; all get the same noise, and what they make is cut."""
    found: dict[str, list[float]] = {name: [] for name in methods}
    for number, std in enumerate(NOISE):
        draw = torch.Generator().manual_seed(number)
        noisy = images + std * torch.randn(images.shape, generator=draw)
        for name, method in methods.items():
            parts = zip(noisy.split(100), labels.split(100), strict=True)
            cleaned = torch.cat([method(part, std, classes) for part, classes in parts]).clamp(0, 1)
            found[name].append(psnr(cleaned, images).mean().item())
    return found


class Alone(NamedTuple):
    """Medians over images of the PSNR in dB of what the prior makes of their class alone.

    ``mean`` is of the mean of the samples, which is the best single guess there is for a prior that is right;
    ``typical`` of one sample; ``closest`` of the sample nearest to the image, which only who has the image can choose.
    """

    mean: float
    typical: float
    closest: float
    ssim_closest: float


def alone(
    denoiser: Denoiser, images: torch.Tensor, labels: torch.Tensor, samples: int, seed: int = 0, steps: int = 40
) -> Alone:
    """The control that says how much of a picture is prior and not leak: samples by class, without any message.

    Args:
        denoiser: of images like these.
        images: clients' images [N, channels, size, size] in [0, 1].
        labels: their classes [N], which a message's last layer tells.
        samples: drawn for each class once, and compared with each image of it.
        seed: of the samples.
        steps: of the flow.
    """
    draw = torch.Generator().manual_seed(seed)
    drawn = {
        label: denoiser.sample(samples, torch.full((samples,), label), draw, steps)
        for label in labels.unique().tolist()
    }
    rows = []
    for image, label in zip(images, labels.tolist(), strict=True):
        pool = drawn[label]
        each = psnr(pool, image.expand_as(pool))
        nearest = pool[each.argmax()][None]
        mean = psnr(pool.mean(0)[None], image[None]).item()
        rows.append([mean, each[0].item(), each.max().item(), metrics.compare(nearest, image[None])[0].ssim])
    return Alone(*torch.tensor(rows).median(0).values.tolist())


def psnr(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """In dB, of each of [N, channels, height, width]: [N]."""
    return peak_signal_noise_ratio(images, originals, data_range=1.0, reduction="none", dim=(1, 2, 3)).view(-1)


def table(found: dict[str, list[float]]) -> str:
    """In Markdown, a method a line."""
    head = ["| denoiser | " + " | ".join(f"noise {std:g}" for std in NOISE) + " |", "|---" * (len(NOISE) + 1) + "|"]
    return "\n".join([*head, *(f"| {name} | " + " | ".join(_decibels(row)) + " |" for name, row in found.items())])


def _decibels(row: Sequence[float]) -> list[str]:
    return [f"{value:.2f} dB" for value in row]
