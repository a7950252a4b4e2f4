"""Parameter shapes of models, as plain tables: what benchmarks perturb needs no weights and no data."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from .._tip.layout import Layout


class Parameter(NamedTuple):
    """A parameter as ``perturb_`` sees it.

    Attributes:
        name: in its model.
        shape: of a conv kernel [C_out, C_in / groups, *kernel_size], also where it is transposed.
        conv: whether it is a conv kernel, which TIP scores.
        transposed: whether it lies in memory as [C_in, C_out, *kernel_size].
    """

    name: str
    shape: tuple[int, ...]
    conv: bool = False
    transposed: bool = False

    @property
    def taps(self) -> int:
        """Elements of one of its kernels; 1 of what has none."""
        return math.prod(self.shape[2:]) if self.conv else 1


def conv(name: str, out: int, inputs: int, *kernel_size: int, bias: bool = False) -> Iterator[Parameter]:
    """Those of a conv layer of ``inputs`` channels a group."""
    yield Parameter(f"{name}.weight", (out, inputs, *kernel_size), conv=True)
    if bias:
        yield Parameter(f"{name}.bias", (out,))


def norm(name: str, channels: int) -> Iterator[Parameter]:
    """Those of a batch, group or layer norm."""
    yield Parameter(f"{name}.weight", (channels,))
    yield Parameter(f"{name}.bias", (channels,))


def linear(name: str, out: int, inputs: int, bias: bool = True) -> Iterator[Parameter]:
    """Those of a linear layer."""
    yield Parameter(f"{name}.weight", (out, inputs))
    if bias:
        yield Parameter(f"{name}.bias", (out,))


def parameters_of(model: nn.Module) -> list[Parameter]:
    """The trained parameters of a model, as a TIP sees them.

    Raises:
        ValueError: the model has no conv kernels, or parameters that hold no data.
    """
    layout = Layout(model)
    found = []
    for index, (name, parameter) in enumerate(model.named_parameters()):
        shape, transposed = tuple(parameter.shape), index in layout.transposed
        if transposed:
            shape = (shape[1], shape[0], *shape[2:])
        if parameter.requires_grad:
            found.append(Parameter(name, shape, index in layout.kernel_sizes, transposed))
    return found


def count(parameters: list[Parameter]) -> int:
    """Elements in all."""
    return sum(math.prod(parameter.shape) for parameter in parameters)


def selected(parameters: list[Parameter], ratio: float) -> int:
    """Elements that TIP perturbs without a floor: the selected channels of kernels with more than one tap."""
    kernels = [parameter.shape for parameter in parameters if parameter.taps > 1]
    return sum(math.ceil(ratio * shape[0]) * math.prod(shape[1:]) for shape in kernels)


class Gradients(NamedTuple):
    """Gradients and scores (None for what is no convolution), as ``perturb_`` takes them."""

    tensors: list[torch.Tensor]
    scores: list[torch.Tensor | None]


def gradients(
    parameters: list[Parameter], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Gradients:
    """Small normal values for every parameter; the same ones each time."""
    draw = torch.Generator(device).manual_seed(0)
    tensors = []
    for parameter in parameters:
        values = torch.randn(parameter.shape, generator=draw, device=device).mul_(1e-2).to(dtype)
        tensors.append(values.transpose(0, 1).contiguous().transpose(0, 1) if parameter.transposed else values)
    scores = [torch.rand(p.shape[0], generator=draw, device=device) if p.conv else None for p in parameters]
    return Gradients(tensors, scores)
