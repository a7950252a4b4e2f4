"""The picture of a high band: its bins in the frequency plane, and the real waves that noise is made of."""

import math
from typing import TYPE_CHECKING, Any

import torch

from .. import spectrum
from .drawing import HIGH, OTHER, Path, flat, high_band, label_frequencies, new_figure, plane, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELED = 7
"""Cells beside each other that have room for a number."""


def plot_masks(
    kernel_size: tuple[int, ...],
    cutoff: float | None = None,
    *,
    mask: torch.Tensor | None = None,
    path: Path = None,
) -> "Figure":
    """The high band of a kernel size: at the left the frequency plane, at the right the waves of the real basis.

    In the plane each cell is a bin of the DFT, with its normalized radius, the mean of a kernel in the middle. Each
    wave is a column of :func:`tip_kernels.spectrum.real_basis`, in its order. Orange is the high band, which gets
    ``std`` in selected channels; blue is the low one.

    Args:
        kernel_size: taps along each of one to three spatial axes, at most 125 in all.
        cutoff: of the band, see :func:`tip_kernels.spectrum.radial_mask`; 0.5 if neither it nor a mask is given.
        mask: instead of it, bool in ``rfftn`` layout ``[*kernel_size[:-1], kernel_size[-1] // 2 + 1]``.
        path: where to save it, in the format of its ending; None does not.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError, ValueError: a kernel size that cannot be drawn, both cutoff and mask, or what is no mask.
    """
    high = high_band(kernel_size, cutoff, mask)
    size = tuple(kernel_size)
    basis, d = spectrum.real_basis(size, high)
    figure = new_figure(8, 4)
    areas: Any = figure.subfigures(1, 2, width_ratios=(3, 4))
    _draw_plane(areas[0], high, size)
    _draw_waves(areas[1], basis, d, size)
    return saved(figure, path)


def _draw_plane(area: Any, high: torch.Tensor, size: tuple[int, ...]) -> None:
    from matplotlib.colors import ListedColormap

    axis = area.subplots()
    cells = flat(plane(high, size))
    axis.imshow(cells.numpy(), cmap=ListedColormap([OTHER, HIGH]), vmin=0, vmax=1, alpha=0.75)
    label_frequencies(axis, size)
    is_labeled = cells.shape[1] <= MOST_LABELED
    if is_labeled:
        for row, radii in enumerate(flat(plane(spectrum.bin_radii(size), size)).tolist()):
            for column, radius in enumerate(radii):
                text = f"{radius:.2f}".rstrip("0").rstrip(".")
                axis.text(column, row, text, horizontalalignment="center", verticalalignment="center", color="white")
    kernels = "x".join(map(str, size)) if len(size) > 1 else f"1D, {size[0]} taps"
    axis.set_title(f"bins of kernels ({kernels}){', by radius' if is_labeled else ''}", fontsize=11)


def _draw_waves(area: Any, basis: torch.Tensor, d: int, size: tuple[int, ...]) -> None:
    waves = [flat(wave.reshape(size)) for wave in basis.T]
    height, width = waves[0].shape
    across = max(round(math.sqrt(len(waves) * height / width)), 1)
    axes = list(area.subplots(math.ceil(len(waves) / across), across, squeeze=False).flat)
    most = basis.abs().max().item()
    for number, (axis, wave) in enumerate(zip(axes, waves, strict=False)):
        axis.imshow(wave.numpy(), cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_facecolor("0.6")  # of gaps between slices
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(color=HIGH if number < d else OTHER, linewidth=2.5)
    for axis in axes[len(waves) :]:
        axis.set_axis_off()
    area.suptitle(f"{d} waves of the high band (orange), {len(basis) - d} of the low (blue)", fontsize=11)
