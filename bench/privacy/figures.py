"""Pictures by matplotlib, drawn without a window."""

import pathlib
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def chart(size: tuple[float, float], x: str, y: str) -> tuple[Figure, Axes]:
    """An empty chart of so many inches, with labels and a grid."""
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    return figure, axis


def side_by_side(images: Sequence[torch.Tensor], captions: Sequence[str], size: tuple[float, float]) -> Figure:
    """Images [3, height, width] in [0, 1] in a row, each under its caption."""
    return grid(images, captions, 1, size)


def grid(images: Sequence[torch.Tensor], captions: Sequence[str], rows: int, size: tuple[float, float]) -> Figure:
    """The same in several rows of equal length."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, len(images) // rows, squeeze=False).flat
    for axis, image, caption in zip(axes, images, captions, strict=True):
        axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_title(caption, fontsize=9, verticalalignment="bottom")
        axis.set_axis_off()
    return figure


def save(figure: Figure, path: pathlib.Path, command: str = "") -> None:
    """As PNG, with the command that made it, if one is given, in its metadata."""
    figure.savefig(path, dpi=150, metadata={"Description": command} if command else None)
