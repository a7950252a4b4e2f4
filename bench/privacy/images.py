"""Labelled images for training, as bytes in one tensor, and their division among clients."""

import io
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from bench.privacy import tasks


class Labelled(NamedTuple):
    """Images uint8 [N, channels, height, width] and classes int64 [N], on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __getitem__(self, chosen) -> "Labelled":  # type: ignore[override]
        return Labelled(self.images[chosen], self.labels[chosen])


def load(folder: pathlib.Path | None, device: torch.device) -> tuple[Labelled, Labelled]:
    """Training and test images: those of the folder, or scikit-learn's digits for None.

    Args:
        folder: parquet files ``train*.parquet`` and ``test*.parquet`` somewhere below it, with the columns of
            ``uoft-cs/cifar10``: ``img`` (``bytes`` of a picture file) and ``label``.
        device: where they shall lie.

    Raises:
        FileNotFoundError: no such files.
    """
    if folder is None:
        images, labels, test_images, test_labels = tasks.digits()
        pairs = (images, labels), (test_images, test_labels)
        return tuple(Labelled((255 * x).byte().to(device), y.to(device)) for x, y in pairs)  # type: ignore[return-value]
    return read(folder, "train", device), read(folder, "test", device)


def read(folder: pathlib.Path, split: str, device: torch.device) -> Labelled:
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
    return Labelled(pixels.to(device), torch.tensor(labels, device=device))


def divide(labels: torch.Tensor, clients: int, partition: str, seed: int) -> list[torch.Tensor]:
    """Indices of the images of each client, in random order, so that the first few stand for all.

    Args:
        labels: int64 [N].
        clients: how many; each gets about N / clients images.
        partition: ``"iid"``: at random. ``"dirichlet"``: the clients' shares of each class are drawn from
            Dirichlet(0.5) (Hsu et al. 2019), so sizes differ too, and a client may get nothing.
        seed: of the division.
    """
    draw = np.random.default_rng(seed)
    if partition == "iid":
        parts = np.array_split(draw.permutation(len(labels)), clients)
    else:
        by_class = [_deal(draw, np.flatnonzero(labels.cpu() == label), clients) for label in labels.unique().cpu()]
        parts = [draw.permutation(np.concatenate(pieces)) for pieces in zip(*by_class, strict=True)]
    return [torch.from_numpy(part) for part in parts]


def _deal(draw: np.random.Generator, indices: np.ndarray, clients: int) -> list[np.ndarray]:
    shares = draw.dirichlet(np.full(clients, 0.5))
    ends = (shares.cumsum()[:-1] * len(indices)).astype(int)
    return np.split(draw.permutation(indices), ends)
