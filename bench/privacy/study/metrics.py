"""How close rebuilt images come to the originals."""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

SAFE = 13.0
"""PSNR in dB that docs/privacy.md calls safe: about what the mean of public images has, without any message."""


class Score(NamedTuple):
    """Of one image: PSNR in dB and SSIM, both higher the closer it is to its original."""

    psnr: float
    ssim: float


def compare(images: torch.Tensor, originals: torch.Tensor) -> list[Score]:
    """Scores of the rebuilt images [B, channels, height, width] in [0, 1], in the order of the originals.

    A gradient of a batch says nothing of its order, so each original is compared with the image that is its own in the
    pairing with the least squared error over the batch. What is not a number, of a search that went astray, is gray.
    """
    images = torch.where(images.isfinite(), images, 0.5)
    _, pairing = linear_sum_assignment(torch.cdist(originals.flatten(1), images.flatten(1)).square().numpy())
    paired = images[torch.from_numpy(pairing)]
    psnr = peak_signal_noise_ratio(paired, originals, data_range=1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(paired, originals, data_range=1.0, reduction="none")
    return [Score(*pair) for pair in zip(psnr.view(-1).tolist(), ssim.view(-1).tolist(), strict=True)]
