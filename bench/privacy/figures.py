"""Pictures by matplotlib, drawn without a window."""

import pathlib
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GRAY = "#1f6fb4", "#c44e00", "#2a7f3f", "0.45"
"""Of curves and of what is written about them."""


def chart(size: tuple[float, float], x: str, y: str) -> tuple[Figure, Axes]:
    """An empty chart of so many inches, with labels and a grid."""
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    return figure, axis


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Where to write about points at these places, in their order: as near as may be, and ``gap`` apart.

    Places that are too close become a run with its middle where theirs was; runs that touch become one.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    runs: list[list[int]] = []

    def start(run: list[int]) -> float:
        return sum(places[index] for index in run) / len(run) - gap * (len(run) - 1) / 2

    for index in order:
        runs.append([index])
        while len(runs) > 1 and start(runs[-1]) < start(runs[-2]) + gap * len(runs[-2]):
            last = runs.pop()
            runs[-1] = runs[-1] + last
    found = [0.0] * len(places)
    for run in runs:
        for number, index in enumerate(run):
            found[index] = start(run) + gap * number
    return found


def mark_safe(axis: Axes, psnr: float, text: str = "") -> None:
    """A dotted line at so many dB, with a text at its upper end."""
    axis.axvline(psnr, color=GRAY, linestyle=":", linewidth=1.2)
    axis.text(psnr, 1.0, text, transform=axis.get_xaxis_transform(), color=GRAY, fontsize=9,
              horizontalalignment="center", verticalalignment="bottom")  # fmt: skip


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
