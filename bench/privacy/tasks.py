"""The small model and the images that everything here is measured on; all of it comes with scikit-learn."""

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

PHOTO_CROPS = {"flower": (1, 60, 150, 10), "pagoda": (0, 60, 200, 6), "courtyard": (0, 200, 300, 4)}
"""Natural images: number of the sample photo, top and left of a square, and by how much it is shrunk to 32x32."""

MORE_CROPS = {"tree": (0, 130, 500, 4), "bush": (0, 270, 330, 4), "leaves": (0, 290, 0, 4), "leaf": (1, 60, 0, 4),
              "bud": (1, 360, 320, 2)}  # fmt: skip
"""Others, to fill batches with."""


def small_conv_net(channels: int, size: int, classes: int = 10, width: int = 16) -> nn.Sequential:
    """Two 5x5 convolutions with tanh and a linear head: small and smooth, so that attacks on it work well.

    Args:
        channels: of the image.
        size: its side, a multiple of 4.
        classes: outputs.
        width: channels of both convolutions.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, stride=2, padding=2), nn.Tanh(),
        nn.Conv2d(width, width, 5, stride=2, padding=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(width * (size // 4) ** 2, classes),
    )  # fmt: skip


def photo_crop(name: str) -> torch.Tensor:
    """One of the crops above, shrunk by averaging: float32 [3, 32, 32] in [0, 1]."""
    number, top, left, shrink = (PHOTO_CROPS | MORE_CROPS)[name]
    photo = torch.from_numpy(load_sample_images().images[number].astype(np.float32) / 255).permute(2, 0, 1)
    square = photo[:, top : top + 32 * shrink, left : left + 32 * shrink]
    return nn.functional.avg_pool2d(square, shrink)


def trained_conv_net(epochs: int = 5, batch_size: int = 64, lr: float = 0.1) -> nn.Sequential:
    """The net that is attacked, after some training on digits enlarged to its 32x32 pixels in three channels."""
    images, labels, _, _ = digits()
    torch.manual_seed(0)
    model = small_conv_net(channels=3, size=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
            optimizer.zero_grad()
            large = nn.functional.interpolate(images[batch], size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1)
            nn.functional.cross_entropy(model(large), labels[batch]).backward()
            optimizer.step()
    return model


def digits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Handwritten digits: training images [1437, 1, 8, 8] in [0, 1] and labels, then 360 for testing."""
    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32) / 16)[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[360:], order[:360]
    return images[train], labels[train], images[test], labels[test]
