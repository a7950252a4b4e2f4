"""Images that attackers may learn from, since they are public: none that a client has."""

import hashlib
import json
import os
import pathlib

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from bench.privacy.attacker.priors import Contrasts, Gaussian
from bench.privacy.attacker.spectral import Spectral
from bench.privacy.images import MORE_CROPS, PHOTO_CROPS, is_attacked, read
from bench.privacy.trained.settings import cache

SIZE = 32
COUNT = 20_000
"""Of CIFAR-10's training images, as many as a covariance of 32x32 pixels in three channels needs."""
LATENTS = 1024
"""Of the prior: what CIFAR-10's images have in the other directions is an error of 45 dB, and costs much time."""
VERSION = 2
"""To be raised whenever the same images would give another prior."""


def public(data: pathlib.Path | None) -> torch.Tensor:
    """Images [N, 3, 32, 32] in [0, 1]: training images of CIFAR-10, or without its folder crops of photos."""
    if data is None:
        return photo_crops()
    return read(data, "train", torch.device("cpu")).images[:COUNT].float() / 255


def photo_crops(stride: int = 6, size: int = SIZE) -> torch.Tensor:
    """Crops of scikit-learn's photos that share no pixel with those that are attacked, mirrored and transposed too."""
    crops = []
    for number, photo in enumerate(load_sample_images().images):
        pixels = torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)
        for shrink in (1, 2, 3, 4):
            crops += _free_crops(number, pixels, size, shrink, stride)
    all_crops = torch.stack(crops)
    all_crops = torch.cat([all_crops, all_crops.flip(3)])
    return torch.cat([all_crops, all_crops.transpose(2, 3)])


def _free_crops(number: int, pixels: torch.Tensor, size: int, shrink: int, stride: int) -> list[torch.Tensor]:
    side = size * shrink
    height, width = pixels.shape[1:]
    return [
        nn.functional.avg_pool2d(pixels[:, top : top + side, left : left + side], shrink)
        for top in range(0, height - side + 1, stride)
        for left in range(0, width - side + 1, stride)
        if not is_attacked(number, top, left, side)
    ]


def gaussian(data: pathlib.Path | None) -> Contrasts:
    """The Gaussian fitted to them with its contrasts, which is kept in the cache's folder under their fingerprint."""
    path = cache() / f"gaussian-{'photos' if data is None else 'cifar10'}-{fingerprint(data)}.pt"
    if not path.exists():
        images = public(data)
        fitted = Contrasts.of(Gaussian.fitted(images, latents=LATENTS), images)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")  # several processes may find that it is missing
        torch.save({"mean": fitted.average, "factor": fitted.factor, "spread": fitted.spread}, draft)
        draft.replace(path)
    kept = torch.load(path)
    return Contrasts(kept["mean"], kept["factor"], (3, SIZE, SIZE), kept["spread"])


def fingerprint(data: pathlib.Path | None) -> str:
    """Of the files that the public images are from, and of how they are chosen: 12 hexadecimal digits.

    Raises:
        FileNotFoundError: the folder has no training images.
    """
    digest = hashlib.sha256(json.dumps([VERSION, COUNT, PHOTO_CROPS | MORE_CROPS]).encode())
    if data is None:
        for photo in load_sample_images().images:
            digest.update(photo.tobytes())
        return digest.hexdigest()[:12]
    files = sorted(data.rglob("train*.parquet"))
    if not files:
        raise FileNotFoundError(f"expected train*.parquet below {data}, got none")
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def spectral(size: int) -> Spectral:
    """A Gaussian for images too large for a covariance, fitted to crops of photos of that size."""
    return Spectral.fitted(photo_crops(stride=16, size=size))
