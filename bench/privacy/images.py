"""The images that everything here is measured on: photos and digits that come with scikit-learn, and CIFAR-10."""

import io
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

PHOTO_CROPS = {"flower": (1, 60, 150, 10), "pagoda": (0, 60, 200, 6), "courtyard": (0, 200, 300, 4)}
"""Natural images: number of the sample photo, top and left of a square, and by how much it is shrunk to 32x32."""

MORE_CROPS = {"tree": (0, 130, 500, 4), "bush": (0, 270, 330, 4), "leaves": (0, 290, 0, 4), "leaf": (1, 60, 0, 4),
              "bud": (1, 360, 320, 2)}  # fmt: skip
"""Others, to fill batches with."""


def is_attacked(number: int, top: int, left: int, side: int) -> bool:
    """Whether a square of a sample photo has a pixel in common with one of the crops above."""
    return any(
        number == photo and top < y + 32 * shrink and y < top + side and left < x + 32 * shrink and x < left + side
        for photo, y, x, shrink in (PHOTO_CROPS | MORE_CROPS).values()
    )


def photo_crop(name: str, size: int = 32) -> torch.Tensor:
    """One of the crops above, shrunk by averaging: float32 [3, size, size] in [0, 1], for a size of 32 or 64."""
    number, top, left, shrink = (PHOTO_CROPS | MORE_CROPS)[name]
    photo = torch.from_numpy(load_sample_images().images[number].astype(np.float32) / 255).permute(2, 0, 1)
    square = photo[:, top : top + 32 * shrink, left : left + 32 * shrink]
    return nn.functional.avg_pool2d(square, 32 * shrink // size)


TEST_DIGITS = 360
"""Of scikit-learn's handwritten digits those that accuracy is measured on."""


def digits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Handwritten digits: training images [1437, 1, 8, 8] in [0, 1] and labels, then 360 for testing."""
    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32) / 16)[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[TEST_DIGITS:], order[:TEST_DIGITS]
    return images[train], labels[train], images[test], labels[test]


class Labeled(NamedTuple):
    """Images uint8 [N, channels, height, width] and classes int64 [N], on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __getitem__(self, chosen) -> "Labeled":  # type: ignore[override]
        return Labeled(self.images[chosen], self.labels[chosen])


def load(folder: pathlib.Path | None, device: torch.device) -> tuple[Labeled, Labeled]:
    """Training and test images: those of the folder, or scikit-learn's digits for None.

    Args:
        folder: parquet files ``train*.parquet`` and ``test*.parquet`` somewhere below it, with the columns of
            ``uoft-cs/cifar10``: ``img`` (``bytes`` of a picture file) and ``label``.
        device: where they shall lie.

    Raises:
        FileNotFoundError: no such files.
    """
    if folder is None:
        images, labels, test_images, test_labels = digits()
        pairs = (images, labels), (test_images, test_labels)
        return tuple(Labeled((255 * x).byte().to(device), y.to(device)) for x, y in pairs)  # type: ignore[return-value]
    return read(folder, "train", device), read(folder, "test", device)


def read(folder: pathlib.Path, split: str, device: torch.device) -> Labeled:
    """The ``"train"`` or ``"test"`` images of a folder; see :func:`load`."""
    import pyarrow.parquet as pq  # not needed for the digits

    files = sorted(folder.rglob(f"{split}*.parquet"))
    if not files:
        raise FileNotFoundError(f"expected {split}*.parquet below {folder}, got none")
    images, labels = [], []
    for file in files:
        table = pq.read_table(file, columns=["img", "label"])
        images += [np.asarray(Image.open(io.BytesIO(img["bytes"])).convert("RGB")) for img in table["img"].to_pylist()]
        labels += table["label"].to_pylist()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Labeled(pixels.to(device), torch.tensor(labels, device=device))
