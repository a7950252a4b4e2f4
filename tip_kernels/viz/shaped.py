"""The picture of a spectrum: how much noise each frequency of each parameter gets."""

from typing import TYPE_CHECKING

import torch

from ..shaping import Spectrum
from .drawing import Path, new_figure, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_spectrum(spectrum: Spectrum, path: Path = None) -> "Figure":
    """The amounts of a spectrum, parameter by parameter: of kernels a point for each bin, by frequency.

    Circles are channels that are not selected, triangles those that are; squares are parameters with one amount.

    Args:
        spectrum: of any model.
        path: where to save it, in the format of its ending; None does not.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: not a spectrum.
    """
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"expected spectrum to be a tip_kernels.Spectrum, got {type(spectrum).__name__}")
    stds = spectrum.stds
    figure = new_figure(max(6.0, 0.28 * len(stds) + 2.5), 4.5)
    axis = figure.add_subplot()
    points = None
    for place, std in enumerate(stds.values()):
        if not std.dim():
            axis.plot(place, std.item(), "s", color="gray", markersize=4)
            continue
        radii = _radii(std.shape[1:]).flatten()
        for amounts, marker, shift in zip(std.flatten(1), "o^", (-0.15, 0.15), strict=True):
            points = axis.scatter(
                [place + shift] * len(radii), amounts, c=radii, marker=marker, s=14, cmap="viridis", vmin=0, vmax=1
            )
    axis.set_yscale("log")
    axis.set_ylabel("std of the noise, by the clipping norm")
    axis.set_xticks(range(len(stds)), list(stds), rotation=90, fontsize=8)
    axis.set_title(
        f"{spectrum.fingerprint()}: others (circles), selected (triangles), one amount (squares)", fontsize=9
    )
    if points is not None:
        figure.colorbar(points, label="frequency, 0: mean of a kernel, 1: highest")
    return saved(figure, path)


def _radii(bins: torch.Size) -> torch.Tensor:
    """About the normalized radius of each bin in ``rfftn`` layout, which does not tell even lengths from odd ones."""
    axes = [torch.minimum(torch.arange(n), n - torch.arange(n)).double() for n in bins[:-1]]
    axes.append(torch.arange(bins[-1]).double())
    squares = [axis.div(axis.max().clamp(min=1)).square() for axis in axes]
    grid = torch.meshgrid(*squares, indexing="ij")
    return (torch.stack(grid).sum(0) / max(sum(n > 1 for n in bins), 1)).sqrt()
