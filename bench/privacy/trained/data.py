"""What nets are trained on: CIFAR-10's training images, or crops of scikit-learn's photos that nobody attacks."""

import pathlib

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from bench.privacy.images import Labeled, is_attacked, read

SHRINKS = (1, 2, 3, 4)


def training_images(folder: pathlib.Path | None) -> Labeled:
    """Of the folder, or for None the photos'."""
    return read(folder, "train", torch.device("cpu")) if folder else photo_crops(20_000)


def photo_crops(count: int, size: int = 32, seed: int = 0) -> Labeled:
    """Random squares of the two photos, shrunk by averaging, that share no pixel with a crop that is attacked."""
    draw = np.random.default_rng(seed)
    photos = load_sample_images().images
    crops: list[torch.Tensor] = []
    while len(crops) < count:
        number, shrink = int(draw.integers(len(photos))), int(draw.choice(SHRINKS))
        side = size * shrink
        height, width = photos[number].shape[:2]
        top, left = int(draw.integers(height - side + 1)), int(draw.integers(width - side + 1))
        if not is_attacked(number, top, left, side):
            square = torch.from_numpy(photos[number][top : top + side, left : left + side].astype(np.float32))
            crops.append(nn.functional.avg_pool2d(square.permute(2, 0, 1), shrink).round().byte())
    return Labeled(torch.stack(crops), torch.zeros(count, dtype=torch.int64))
