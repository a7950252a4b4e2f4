"""The models that the command knows by name."""

from .parameters import Parameter, conv, linear, norm


def resnet18() -> list[Parameter]:
    """ResNet-18 for ImageNet (He et al. 2015, table 1): 11,689,512 parameters."""
    return _resnet([2, 2, 2, 2], bottleneck=False)


def resnet50() -> list[Parameter]:
    """ResNet-50 for ImageNet (He et al. 2015, table 1, stride in the 3x3 convolution): 25,557,032 parameters."""
    return _resnet([3, 4, 6, 3], bottleneck=True)


RESNETS = {"resnet18": resnet18, "resnet50": resnet50}


def _resnet(depths: list[int], bottleneck: bool) -> list[Parameter]:
    parameters = [*conv("conv1", 64, 3, 7, 7), *norm("bn1", 64)]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        out = 4 * width if bottleneck else width
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            sizes = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            if not bottleneck:
                sizes = [(width, channels, 3), (width, width, 3)]
            for i, (outputs, inputs, side) in enumerate(sizes, start=1):
                parameters += [*conv(f"{name}.conv{i}", outputs, inputs, side, side), *norm(f"{name}.bn{i}", outputs)]
            if channels != out:
                parameters += [*conv(f"{name}.downsample.0", out, channels, 1, 1), *norm(f"{name}.downsample.1", out)]
            channels = out
    return [*parameters, *linear("fc", 1000, channels)]
