"""Parameter shapes of known models, as plain tables: what the benchmarks perturb needs no weights and no data."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch


class Parameter(NamedTuple):
    """A parameter's name and shape; ``conv`` for the weights that TIP scores."""

    name: str
    shape: tuple[int, ...]
    conv: bool = False


def resnet18() -> list[Parameter]:
    """ResNet-18 for ImageNet (He et al. 2015, table 1): 11,689,512 parameters."""
    return _resnet([2, 2, 2, 2], bottleneck=False)


def resnet50() -> list[Parameter]:
    """ResNet-50 for ImageNet (He et al. 2015, table 1, stride in the 3x3 convolution): 25,557,032 parameters."""
    return _resnet([3, 4, 6, 3], bottleneck=True)


def unet(widths: tuple[int, ...] = (384, 768, 1536, 1536), blocks: int = 3) -> list[Parameter]:
    """A U-Net of residual 3x3 convolutions with a skip from every block; by default 1.07e9 parameters.

    Args:
        widths: channels at each resolution, from the finest on.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
    """
    parameters = [*_conv("stem", widths[0], 3, 3, bias=True)]
    skips = [widths[0]]
    channels = widths[0]
    for level, width in enumerate(widths):
        for block in range(blocks):
            parameters += _residual(f"down{level}.{block}", width, channels)
            channels = width
            skips.append(channels)
        if level + 1 < len(widths):
            parameters += _conv(f"down{level}.stride", channels, channels, 3, bias=True)
            skips.append(channels)
    parameters += [*_residual("middle.0", channels, channels), *_residual("middle.1", channels, channels)]
    for level, width in reversed(list(enumerate(widths))):
        for block in range(blocks + 1):
            parameters += _residual(f"up{level}.{block}", width, channels + skips.pop())
            channels = width
        if level:
            parameters += _conv(f"up{level}.resize", channels, channels, 3, bias=True)
    return [*parameters, *_norm("head.norm", channels), *_conv("head.conv", 3, channels, 3, bias=True)]


MODELS = {"resnet18": resnet18, "resnet50": resnet50, "unet": unet}


def count(parameters: list[Parameter]) -> int:
    """Elements in all."""
    return sum(torch.Size(parameter.shape).numel() for parameter in parameters)


def selected(parameters: list[Parameter], ratio: float) -> int:
    """Elements that TIP perturbs: the selected channels of kernels with more than one tap."""
    kernels = [p.shape for p in parameters if p.conv and torch.Size(p.shape[2:]).numel() > 1]
    return sum(math.ceil(ratio * shape[0]) * torch.Size(shape[1:]).numel() for shape in kernels)


def one_channel(parameters: list[Parameter]) -> list[Parameter]:
    """The same parameters with one channel in and out: what is left of a call is overhead."""
    return [Parameter(p.name, (1,) * len(p.shape[:2]) + p.shape[2:], p.conv) for p in parameters]


class Gradients(NamedTuple):
    """Gradients and scores (None for what is no convolution), as ``perturb_`` takes them."""

    tensors: list[torch.Tensor]
    scores: list[torch.Tensor | None]


def gradients(
    parameters: list[Parameter], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Gradients:
    """Small normal values for every parameter; the same ones each time."""
    draw = torch.Generator(device).manual_seed(0)
    tensors = [torch.randn(p.shape, generator=draw, device=device).mul_(1e-2).to(dtype) for p in parameters]
    scores = [torch.rand(p.shape[0], generator=draw, device=device) if p.conv else None for p in parameters]
    return Gradients(tensors, scores)


def _resnet(depths: list[int], bottleneck: bool) -> list[Parameter]:
    parameters = [*_conv("conv1", 64, 3, 7), *_norm("bn1", 64)]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        out = 4 * width if bottleneck else width
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            sizes = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            if not bottleneck:
                sizes = [(width, channels, 3), (width, width, 3)]
            for i, (outputs, inputs, taps) in enumerate(sizes, start=1):
                parameters += [*_conv(f"{name}.conv{i}", outputs, inputs, taps), *_norm(f"{name}.bn{i}", outputs)]
            if channels != out:
                parameters += [*_conv(f"{name}.downsample.0", out, channels, 1), *_norm(f"{name}.downsample.1", out)]
            channels = out
    return [*parameters, Parameter("fc.weight", (1000, channels)), Parameter("fc.bias", (1000,))]


def _residual(name: str, out: int, inputs: int) -> Iterator[Parameter]:
    yield from _norm(f"{name}.norm1", inputs)
    yield from _conv(f"{name}.conv1", out, inputs, 3, bias=True)
    yield from _norm(f"{name}.norm2", out)
    yield from _conv(f"{name}.conv2", out, out, 3, bias=True)
    if inputs != out:
        yield from _conv(f"{name}.skip", out, inputs, 1, bias=True)


def _conv(name: str, out: int, inputs: int, taps: int, bias: bool = False) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (out, inputs, taps, taps), conv=True)
    if bias:
        yield Parameter(f"{name}.bias", (out,))


def _norm(name: str, channels: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (channels,))
    yield Parameter(f"{name}.bias", (channels,))
