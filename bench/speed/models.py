"""Known models as tables of parameters. Those that are large are measured only where they are asked for.

Counts are of trained parameters: the statistics of batch norms are none, and no client sends them as gradients.
"""

import math
from collections.abc import Iterator

from tip_kernels._bench.parameters import Parameter, conv, linear, norm
from tip_kernels._bench.resnets import RESNETS, resnet18, resnet50

__all__ = ["MODELS", "one_channel", "resnet18", "resnet50"]


def convnext_l() -> list[Parameter]:
    """ConvNeXt-L for ImageNet (Liu et al. 2022, section 3 and appendix A): 197,767,336 parameters; 7x7 depthwise."""
    widths, depths = (192, 384, 768, 1536), (3, 3, 27, 3)
    parameters = [*conv("stem.conv", widths[0], 3, 4, 4, bias=True), *norm("stem.norm", widths[0])]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage:
            parameters += norm(f"downsample{stage}.norm", widths[stage - 1])
            parameters += conv(f"downsample{stage}.conv", width, widths[stage - 1], 2, 2, bias=True)
        for block in range(depth):
            name = f"stage{stage}.{block}"
            parameters += conv(f"{name}.depthwise", width, 1, 7, 7, bias=True)
            parameters += norm(f"{name}.norm", width)
            parameters += linear(f"{name}.expand", 4 * width, width)
            parameters += linear(f"{name}.reduce", width, 4 * width)
            parameters.append(Parameter(f"{name}.scale", (width,)))
    return [*parameters, *norm("head.norm", widths[-1]), *linear("head.fc", 1000, widths[-1])]


def efficientnet_b4() -> list[Parameter]:
    """EfficientNet-B4 for ImageNet (Tan and Le 2019, table 1 scaled by width 1.4 and depth 1.8): 19,341,616 parameters.

    That many have the weights of torchvision; the paper says 19M.
    """
    stages = (  # expansion, side of the depthwise kernels, channels, blocks
        (1, 3, 16, 1), (6, 3, 24, 2), (6, 5, 40, 2), (6, 3, 80, 3), (6, 5, 112, 3), (6, 5, 192, 4), (6, 3, 320, 1),
    )  # fmt: skip
    channels = _eighths(1.4 * 32)
    parameters = [*conv("stem.conv", channels, 3, 3, 3), *norm("stem.norm", channels)]
    for stage, (expansion, side, width, blocks) in enumerate(stages):
        out = _eighths(1.4 * width)
        for block in range(math.ceil(1.8 * blocks)):
            parameters += _inverted_residual(f"stage{stage}.{block}", out, channels, expansion, side)
            channels = out
    parameters += [*conv("head.conv", 4 * channels, channels, 1, 1), *norm("head.norm", 4 * channels)]
    return [*parameters, *linear("head.fc", 1000, 4 * channels)]


def replknet_31b() -> list[Parameter]:
    """RepLKNet-31B for ImageNet (Ding et al. 2022, section 4.1) as it is trained: 79,864,168 parameters.

    So with a 5x5 kernel beside each large one, and a norm behind each of both; that form has gradients. The paper says
    79M. With each pair merged into one kernel with a bias, as for inference, they are 79,527,272.
    """
    sides, widths, depths = (31, 29, 27, 13), (128, 256, 512, 1024), (2, 2, 18, 2)
    stem = ((3, 3), (1, 3), (widths[0], 1), (1, 3))  # inputs of a group, side
    parameters: list[Parameter] = []
    for layer, (inputs, side) in enumerate(stem):
        parameters += _conv_norm(f"stem.{layer}", widths[0], inputs, side)
    for stage, (side, width, depth) in enumerate(zip(sides, widths, depths, strict=True)):
        if stage:
            parameters += _conv_norm(f"transition{stage}.0", width, widths[stage - 1], 1)
            parameters += _conv_norm(f"transition{stage}.1", width, 1, 3)
        for block in range(depth):
            name = f"stage{stage}.{block}"
            parameters += [*norm(f"{name}.norm", width), *_conv_norm(f"{name}.before", width, width, 1)]
            parameters += [*_conv_norm(f"{name}.large", width, 1, side), *_conv_norm(f"{name}.small", width, 1, 5)]
            parameters += [*_conv_norm(f"{name}.after", width, width, 1), *norm(f"{name}.feedforward.norm", width)]
            parameters += _conv_norm(f"{name}.feedforward.expand", 4 * width, width, 1)
            parameters += _conv_norm(f"{name}.feedforward.reduce", width, 4 * width, 1)
    return [*parameters, *norm("head.norm", widths[-1]), *linear("head.fc", 1000, widths[-1])]


def unet_3d() -> list[Parameter]:
    """3D U-Net for volumes of three channels and three labels (Cicek et al. 2016, section 2): 19,069,955 parameters.

    Exactly the paper's number where convolutions have biases, up-convolutions have none, and the batch norms' scales
    and shifts are not counted; the paper does not tell. They would be 4,672 more.
    """
    parameters: list[Parameter] = []
    channels, skips = 3, []
    for level, width in enumerate((32, 64, 128, 256)):
        parameters += conv(f"down{level}.0", width, channels, 3, 3, 3, bias=True)
        parameters += conv(f"down{level}.1", 2 * width, width, 3, 3, 3, bias=True)
        channels = 2 * width
        skips.append(channels)
    skips.pop()  # the lowest level is no skip
    for level, skip in reversed(list(enumerate(skips))):
        parameters.append(Parameter(f"up{level}.resize.weight", (channels, channels, 2, 2, 2), True, transposed=True))
        parameters += conv(f"up{level}.0", skip, channels + skip, 3, 3, 3, bias=True)
        parameters += conv(f"up{level}.1", skip, skip, 3, 3, 3, bias=True)
        channels = skip
    return [*parameters, *conv("head", 3, channels, 1, 1, 1, bias=True)]


def sdxl_unet() -> list[Parameter]:
    """The U-Net of Stable Diffusion XL (Podell et al. 2023, section 2.1 and table 1): 2,567,463,684 parameters.

    Exactly those of the published weights; the paper says 2.6B. An eighth of them are in 3x3 kernels, the rest are
    linear layers, nearly all of transformers.
    """
    widths, depths, embedding = (320, 640, 1280), (0, 2, 10), 1280
    parameters = [*conv("stem", widths[0], 4, 3, 3, bias=True)]
    for name, inputs in (("time", widths[0]), ("size", 2816)):  # 2816: the pooled text's 1280 and six sizes of 256
        parameters += [*linear(f"{name}.0", embedding, inputs), *linear(f"{name}.1", embedding, embedding)]
    channels, skips = widths[0], [widths[0]]
    for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(2):
            parameters += _residual(f"down{level}.{block}", width, channels, embedding)
            parameters += _transformer(f"down{level}.{block}.attention", width, depth)
            channels = width
            skips.append(channels)
        if level + 1 < len(widths):
            parameters += conv(f"down{level}.stride", channels, channels, 3, 3, bias=True)
            skips.append(channels)
    parameters += _residual("middle.0", channels, channels, embedding)
    parameters += _transformer("middle.attention", channels, depths[-1])
    parameters += _residual("middle.1", channels, channels, embedding)
    for level, (width, depth) in reversed(list(enumerate(zip(widths, depths, strict=True)))):
        for block in range(3):
            parameters += _residual(f"up{level}.{block}", width, channels + skips.pop(), embedding)
            parameters += _transformer(f"up{level}.{block}.attention", width, depth)
            channels = width
        if level:
            parameters += conv(f"up{level}.resize", channels, channels, 3, 3, bias=True)
    return [*parameters, *norm("head.norm", channels), *conv("head.conv", 4, channels, 3, 3, bias=True)]


def unet(widths: tuple[int, ...] = (384, 768, 1536, 1536), blocks: int = 3) -> list[Parameter]:
    """A U-Net of residual 3x3 convolutions with a skip from every block, of no paper; by default 1.07e9 parameters.

    Args:
        widths: channels at each resolution, from the finest on.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
    """
    parameters = [*conv("stem", widths[0], 3, 3, 3, bias=True)]
    skips = [widths[0]]
    channels = widths[0]
    for level, width in enumerate(widths):
        for block in range(blocks):
            parameters += _residual(f"down{level}.{block}", width, channels)
            channels = width
            skips.append(channels)
        if level + 1 < len(widths):
            parameters += conv(f"down{level}.stride", channels, channels, 3, 3, bias=True)
            skips.append(channels)
    parameters += [*_residual("middle.0", channels, channels), *_residual("middle.1", channels, channels)]
    for level, width in reversed(list(enumerate(widths))):
        for block in range(blocks + 1):
            parameters += _residual(f"up{level}.{block}", width, channels + skips.pop())
            channels = width
        if level:
            parameters += conv(f"up{level}.resize", channels, channels, 3, 3, bias=True)
    return [*parameters, *norm("head.norm", channels), *conv("head.conv", 3, channels, 3, 3, bias=True)]


MODELS = {
    **RESNETS,
    "convnext_l": convnext_l,
    "efficientnet_b4": efficientnet_b4,
    "replknet_31b": replknet_31b,
    "unet_3d": unet_3d,
    "sdxl_unet": sdxl_unet,
    "unet": unet,
}


def one_channel(parameters: list[Parameter]) -> list[Parameter]:
    """The same parameters with one channel in and out: what is left of a call is overhead."""
    return [p._replace(shape=(1,) * len(p.shape[:2]) + p.shape[2:]) for p in parameters]


def _conv_norm(name: str, out: int, inputs: int, side: int) -> Iterator[Parameter]:
    yield from conv(name, out, inputs, side, side)
    yield from norm(f"{name}.norm", out)


def _residual(name: str, out: int, inputs: int, embedding: int = 0) -> Iterator[Parameter]:
    """Two 3x3 convolutions, and what adds an embedding of so many numbers between them, if there is one."""
    yield from norm(f"{name}.norm1", inputs)
    yield from conv(f"{name}.conv1", out, inputs, 3, 3, bias=True)
    if embedding:
        yield from linear(f"{name}.embedding", out, embedding)
    yield from norm(f"{name}.norm2", out)
    yield from conv(f"{name}.conv2", out, out, 3, 3, bias=True)
    if inputs != out:
        yield from conv(f"{name}.skip", out, inputs, 1, 1, bias=True)


def _inverted_residual(name: str, out: int, inputs: int, expansion: int, side: int) -> Iterator[Parameter]:
    """EfficientNet's block, with squeeze and excitation by a quarter of its input channels."""
    width, squeezed = expansion * inputs, max(1, inputs // 4)
    if expansion > 1:
        yield from _conv_norm(f"{name}.expand", width, inputs, 1)
    yield from _conv_norm(f"{name}.depthwise", width, 1, side)
    yield from conv(f"{name}.squeeze", squeezed, width, 1, 1, bias=True)
    yield from conv(f"{name}.excite", width, squeezed, 1, 1, bias=True)
    yield from _conv_norm(f"{name}.project", out, width, 1)


def _transformer(name: str, width: int, depth: int, context: int = 2048) -> Iterator[Parameter]:
    """So many blocks of attention to pixels, attention to a text of ``context`` numbers a token, and a gated MLP."""
    if not depth:
        return
    yield from norm(f"{name}.norm", width)
    yield from linear(f"{name}.in", width, width)
    for block in range(depth):
        for part, inputs in (("pixels", width), ("text", context)):
            place = f"{name}.{block}.{part}"
            yield from norm(f"{place}.norm", width)
            yield from linear(f"{place}.query", width, width, bias=False)
            yield from linear(f"{place}.key", width, inputs, bias=False)
            yield from linear(f"{place}.value", width, inputs, bias=False)
            yield from linear(f"{place}.out", width, width)
        yield from norm(f"{name}.{block}.mlp.norm", width)
        yield from linear(f"{name}.{block}.mlp.gated", 8 * width, width)
        yield from linear(f"{name}.{block}.mlp.out", width, 4 * width)
    yield from linear(f"{name}.out", width, width)


def _eighths(channels: float) -> int:
    """The multiple of 8 next to a number of channels, or the one above if that were less than 90 % of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
