"""The net, the images and the training, without a word of Flower or TIP."""

import functools
import io
import pathlib

import numpy as np
import torch
from torch import nn

PUBLIC, TEST = 100, 400
"""How many images serve as public ones, for the scores, and how many for the server's test. Clients share the rest."""

Images = tuple[torch.Tensor, torch.Tensor]


class Net(nn.Sequential):
    """For images ``[N, channels, H, W]`` of ten classes, of 8x8 pixels or more."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )


def channels(data: str) -> int:
    return 1 if data == "digits" else 3


def public(data: str) -> Images:
    """Images that are nobody's secret."""
    images, labels = _all(data)
    return images[:PUBLIC], labels[:PUBLIC]


def test_set(data: str) -> Images:
    images, labels = _all(data)
    return images[PUBLIC : PUBLIC + TEST], labels[PUBLIC : PUBLIC + TEST]


def of_client(data: str, partition: int, partitions: int) -> Images:
    """The images of one of several clients."""
    images, labels = _all(data)
    return images[PUBLIC + TEST + partition :: partitions], labels[PUBLIC + TEST + partition :: partitions]


def train(model: nn.Module, data: Images, epochs: int, lr: float) -> float:
    """Trains the model in place and returns the mean loss of the last epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        losses = []
        for chosen in torch.randperm(len(data[0])).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data[0][chosen]), data[1][chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(model: nn.Module, data: Images) -> float:
    return (model(data[0]).argmax(1) == data[1]).float().mean().item()


@functools.cache
def _all(data: str) -> Images:
    """All images, shuffled once and for all: scikit-learn's digits, or CIFAR-10's training images from a folder."""
    if data == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = torch.tensor(digits.images).unsqueeze(1) / 16, torch.tensor(digits.target)
    else:
        images, labels = _cifar10(data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return (images.float() - 0.5)[order], labels[order]


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
