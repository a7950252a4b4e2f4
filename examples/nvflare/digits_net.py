"""A small conv net for scikit-learn's digits or CIFAR-10, and who has which of the images."""

import functools
import io
import pathlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

Images = tuple[torch.Tensor, torch.Tensor]

PUBLIC, TEST = 64, 297  # the first are public, the last test; the rest belongs to the clients


class Net(nn.Module):
    """Logits [N, 10] of images [N, channels, height, width] of 8x8 pixels or more.

    A batch norm's running statistics are part of what clients send.
    """

    def __init__(self, batch_norm: bool = False, channels: int = 1) -> None:
        super().__init__()
        # From attributes NVFlare knows with what arguments to build the model again.
        self.batch_norm, self.channels = batch_norm, channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.BatchNorm2d(16) if batch_norm else nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def channels(data: str) -> int:
    return 1 if data == "digits" else 3


def public(data: str) -> Images:
    images, labels = _all(data)
    return images[:PUBLIC], labels[:PUBLIC]


def test(data: str) -> Images:
    images, labels = _all(data)
    return images[-TEST:], labels[-TEST:]


def private(data: str, client: int, clients: int) -> Images:
    """The share of one client, of 0 to clients - 1."""
    images, labels = _all(data)
    return images[PUBLIC + client : -TEST : clients], labels[PUBLIC + client : -TEST : clients]


@functools.cache
def _all(data: str) -> Images:
    """Scikit-learn's digits, or the training images of CIFAR-10 from a folder."""
    if data != "digits":
        return _cifar10(data)
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)


def _cifar10(folder: str) -> Images:
    """Of parquet files ``train*.parquet`` below a folder, with the columns of ``uoft-cs/cifar10``."""
    from PIL import Image
    from pyarrow import parquet

    files = sorted(pathlib.Path(folder).rglob("train*.parquet"))
    if not files:
        raise FileNotFoundError(f"expected data to be 'digits' or a folder with train*.parquet, got {folder!r}")
    rows = [row for file in files for row in parquet.read_table(file, columns=["img", "label"]).to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")) for row in rows])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, torch.tensor([row["label"] for row in rows])
