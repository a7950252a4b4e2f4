"""The nets that are trained and attacked."""

import torch
from torch import nn


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


class Block(nn.Module):
    """Two 3x3 convolutions with batch norms beside a shortcut (He et al. 2015, figure 2)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(inner)) + self.shortcut(x)).relu()


def resnet18(channels: int, classes: int = 10) -> nn.Sequential:
    """ResNet-18 (He et al. 2015, table 1) for images of 32x32 pixels: a 3x3 stem of stride 1, no pooling behind it.

    Args:
        channels: of the image.
        classes: outputs.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    width = 64
    for wider, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(width, wider, stride), Block(wider, wider, 1)]
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
