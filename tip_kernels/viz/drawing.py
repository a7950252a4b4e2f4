"""What the pictures share: colors, kernels and frequency planes as flat pictures, saving."""

import itertools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGH, OTHER = "#c44e00", "#1f6fb4"
"""The high band and selected channels, and all else."""
MOST_TAPS = 125
"""Of a kernel that is drawn tap by tap."""

Path = str | os.PathLike[str] | None


def new_figure(width: float, height: float) -> "Figure":
    """Empty, of so many inches; drawn without a window.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def saved(figure: "Figure", path: Path) -> "Figure":
    """The figure, which is in the file ``path`` then, unless that is None."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def high_band(kernel_size: Sequence[int], cutoff: float | None, mask: torch.Tensor | None) -> torch.Tensor:
    """The bins of the high band in ``rfftn`` layout, bool on the CPU: ``mask``, or by ``cutoff``, 0.5 if both are None.

    Raises:
        TypeError, ValueError: both are given; no kernel of one to three axes and at most ``MOST_TAPS`` taps; or see
            :func:`tip_kernels.spectrum.radial_mask` and :func:`tip_kernels.spectrum.check_mask`.
    """
    size = tuple(kernel_size)
    if not all(isinstance(length, int) for length in size):
        raise TypeError(f"expected kernel_size to be a tuple of ints, got {size}")
    taps = torch.Size(size).numel()
    if not 1 <= len(size) <= 3 or taps > MOST_TAPS:
        raise ValueError(f"expected a kernel of 1 to 3 axes and at most {MOST_TAPS} taps to draw, got {size}")
    if mask is None:
        return spectrum.radial_mask(size, 0.5 if cutoff is None else cutoff)
    if cutoff is not None:
        raise ValueError(f"expected either cutoff or mask, got cutoff {cutoff} and a mask")
    spectrum.check_mask(mask, size)
    return mask.cpu()


def plane(bins: torch.Tensor, kernel_size: tuple[int, ...]) -> torch.Tensor:
    """Values at all bins [*kernel_size], the mean of a kernel in the middle, from those in ``rfftn`` layout."""
    full = torch.zeros(kernel_size, dtype=bins.dtype)
    for bin_ in itertools.product(*map(range, kernel_size)):
        conjugate = tuple(-b % n for b, n in zip(bin_, kernel_size, strict=True))
        full[bin_] = bins[bin_ if bin_[-1] < bins.shape[-1] else conjugate]
    shifted: torch.Tensor = torch.fft.fftshift(full)
    return shifted


def flat(values: torch.Tensor) -> torch.Tensor:
    """Of one to three axes as a picture [height, width], float64; of three its slices, with nan between."""
    values = values.double()
    if values.dim() < 3:
        return values.reshape(-1, values.shape[-1])
    gap = torch.full((values.shape[1], 1), float("nan"), dtype=torch.float64)
    parts = [part for piece in values for part in (piece, gap)]
    return torch.cat(parts[:-1], dim=1)


def label_frequencies(axis: Any, kernel_size: tuple[int, ...]) -> None:
    """Cycles along the kernel at the cells of a plane; of three axes none, whose slices are named instead."""
    axis.tick_params(length=0)
    if len(kernel_size) == 3:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel("slices of the first axis, side by side")
        return
    for length, name in zip(kernel_size[::-1], ("x", "y"), strict=False):
        ticks = torch.fft.fftshift(torch.fft.fftfreq(length) * length).round().int().tolist()
        getattr(axis, f"set_{name}ticks")(range(length), ticks)
    axis.set_xlabel("cycles along the kernel")
    if len(kernel_size) == 1:
        axis.set_yticks([])


def outline(axis: Any, cells: torch.Tensor, color: str) -> None:
    """A line between neighbors of a picture [height, width] that differ; none at gaps, which are nan."""
    beside, below = cells.diff(dim=1).abs() > 0, cells.diff(dim=0).abs() > 0
    for row, column in beside.nonzero().tolist():
        axis.plot([column + 0.5] * 2, [row - 0.5, row + 0.5], color=color, linewidth=2)
    for row, column in below.nonzero().tolist():
        axis.plot([column - 0.5, column + 0.5], [row + 0.5] * 2, color=color, linewidth=2)


def show_rows(axis: Any, names: Sequence[str], notes: Sequence[str], about: str) -> None:
    """Names at the left of a chart with a line for each, from top to bottom, and notes at the right under ``about``."""
    axis.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", alpha=0.3)
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(notes)), notes, fontsize=9)
    right.tick_params(length=0)
    axis.text(1.02, 1.0, about, transform=axis.transAxes, fontsize=9, verticalalignment="bottom")


def rows_height(count: int) -> float:
    """Inches of a figure with so many rows."""
    return 0.3 * count + 1.6
