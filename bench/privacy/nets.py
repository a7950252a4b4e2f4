"""The nets that are trained and attacked."""

from collections.abc import Callable

import torch
from torch import nn

Norm = Callable[[int], nn.Module]
"""A layer behind a convolution, by its channels; ``nn.Identity`` for none."""


def small_conv_net(
    channels: int,
    size: int,
    classes: int = 10,
    width: int = 16,
    activation: type[nn.Module] = nn.Tanh,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Two 5x5 convolutions and a linear head: small, and with tanh smooth, so that attacks on it work well.

    Args:
        channels: of the image.
        size: its side, a multiple of 4.
        classes: outputs.
        width: channels of both convolutions.
        activation: behind each convolution.
        batch_norm: whether there is one before each activation.
    """
    layers: list[nn.Module] = []
    for wide in (channels, width):
        layers.append(nn.Conv2d(wide, width, 5, stride=2, padding=2))
        layers += [nn.BatchNorm2d(width)] if batch_norm else []
        layers.append(activation())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (size // 4) ** 2, classes))


class Subsampled(nn.Module):
    """A shortcut without parameters (He et al. 2015, option A): every so many pixels, zeros as additional channels."""

    def __init__(self, more_channels: int, stride: int) -> None:
        super().__init__()
        self.more_channels, self.stride = more_channels, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more_channels))


class Block(nn.Module):
    """Two 3x3 convolutions with norms beside a shortcut (He et al. 2015, figure 2).

    Args:
        channels_in: of the input.
        channels: of the output.
        stride: of the first convolution.
        norm: by the number of channels.
        project: whether a shortcut between different shapes is a 1x1 convolution (option B) or has no parameters.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, norm: Norm = nn.BatchNorm2d, project: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = norm(channels)
        self.shortcut: nn.Module = nn.Sequential()
        if (stride != 1 or channels_in != channels) and project:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), norm(channels))
        elif stride != 1 or channels_in != channels:
            self.shortcut = Subsampled(channels - channels_in, stride)

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


def small_resnet(channels: int, classes: int = 10, norm: Norm = nn.BatchNorm2d) -> nn.Sequential:
    """A ResNet of three stages with one block each: 75,000 parameters, all kernels 3x3, for images of any size.

    The smallest of the family that He et al. 2015, section 4.2, have for images of 32x32 pixels.

    Args:
        channels: of the image.
        classes: outputs.
        norm: behind each convolution; ``nn.Identity`` makes it a net without norms.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), norm(16), nn.ReLU()]
    width = 16
    for wider, stride in ((16, 1), (32, 2), (64, 2)):
        layers.append(Block(width, wider, stride, norm, project=False))
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
