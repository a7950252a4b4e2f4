"""A small conv net for scikit-learn's digits, and who has which of them."""

import torch
from sklearn.datasets import load_digits
from torch import nn

PUBLIC, TEST = 64, 297  # the first are public, the last test; the rest belongs to the clients


class Net(nn.Module):
    """Logits [N, 10] of images [N, 1, 8, 8]; a batch norm's running statistics are part of what clients send."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.batch_norm = batch_norm  # from attributes NVFlare knows with what arguments to build the model again
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16) if batch_norm else nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)


def public() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = digits()
    return images[:PUBLIC], labels[:PUBLIC]


def test() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = digits()
    return images[-TEST:], labels[-TEST:]


def private(client: int, clients: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of one client, of 0 to clients - 1."""
    images, labels = digits()
    return images[PUBLIC + client : -TEST : clients], labels[PUBLIC + client : -TEST : clients]
