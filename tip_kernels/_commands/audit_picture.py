"""The picture of an audit: images, what can be known of them, and where the message leaks."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..audit import Audit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_IMAGES = 4
MOST_PARAMETERS = 20
"""Of the table: those that pictures owe most to."""


def drawn(found: Audit, images: torch.Tensor, names: Sequence[str], probes: int) -> "Figure":
    """A figure: for each of the first images the original, the best guess and the exposure map; beside them, the leak.

    Args:
        found: of the images.
        images: [N, channels, height, width] in [0, 1], of 1 or 3 channels.
        names: of the images.
        probes: of an iterative audit, on which the error of its map depends.
    """
    from matplotlib.figure import Figure

    count = min(len(images), MOST_IMAGES)
    shown = most_revealing(found)
    height = max(2.3 * count + 0.8, 0.27 * len(shown) + 2.6)
    figure = Figure(figsize=(15, height), layout="constrained")
    areas: Any = figure.subfigures(1, 2, width_ratios=(7, 8))
    about = "" if found.method == "exact" else f", +- {100 / math.sqrt(2 * probes):.0f} %"
    _draw_images(areas[0], found, images[:count], names, f"exposure map{about}")
    _draw_bands(areas[1], found, shown)
    return figure


class Bar(NamedTuple):
    """What one parameter has of all that leaks, or of all that pictures owe to the message.

    Attributes:
        parameter: its name.
        parts: (kind of channels, frequency or None, share), in this order.
    """

    parameter: str
    parts: list[tuple[str, float | None, float]]


def most_revealing(found: Audit) -> list[str]:
    """Names of the parameters that pictures owe most to, in the model's order."""
    sums: dict[str, float] = {}
    for row in found.leak:
        sums[row.parameter] = sums.get(row.parameter, 0.0) + row.reveals
    most = set(sorted(sums, key=lambda name: -sums[name])[:MOST_PARAMETERS])
    return [name for name in sums if name in most]


def bars_of(found: Audit, measure: str, shown: Sequence[str]) -> list[Bar]:
    """Of these parameters, and the rest as one.

    Args:
        found: the rows are its.
        measure: ``"reveals"`` or ``"leak"``.
        shown: names of parameters.
    """
    total = sum(getattr(row, measure) for row in found.leak) or 1.0
    bars = {name: Bar(name, []) for name in shown}
    rest, names = 0.0, set()
    for row in found.leak:
        share = getattr(row, measure) / total
        if row.parameter in bars:
            bars[row.parameter].parts.append((row.channels, row.radius, share))
        else:
            rest += share
            names.add(row.parameter)
    for bar in bars.values():
        bar.parts.sort(key=_order)
    return [*bars.values(), *([Bar(f"{len(names)} others", [("all", None, rest)])] if names else [])]


def _order(part: tuple[str, float | None, float]) -> tuple[str, float]:
    channels, radius, _ = part
    return channels, -1.0 if radius is None else radius


def _draw_images(area: Any, found: Audit, images: torch.Tensor, names: Sequence[str], title: str) -> None:
    axes = area.subplots(len(images), 3, squeeze=False)
    # Dark is what the prior leaves without a message, so that the scale does not depend on what was found.
    hidden = 10 ** (-found.prior_psnr / 20)
    for number, (original, guess, exposure) in enumerate(axes):
        about = f" +- {found.psnr_error[number].item():.1f}" if found.psnr_error[number] else ""
        _show(original, images[number], _shortened(names[number]))
        _show(guess, found.guess[number].clamp(0, 1), f"best guess, ceiling {found.psnr[number].item():.1f}{about} dB")
        error = found.uncertainty[number].square().mean(0).sqrt().cpu().numpy()
        shown = exposure.imshow(error, cmap="inferno_r", vmin=0, vmax=hidden, interpolation="nearest")
        exposure.set_title(title, fontsize=9)
        exposure.set_axis_off()
    label = "error left in the exposure map: bright is exposed, black as without a message"
    area.colorbar(shown, ax=axes, location="bottom", shrink=0.7, aspect=40, label=label)


def _show(axis: Any, image: torch.Tensor, title: str) -> None:
    pixels = image.detach().cpu().float().permute(1, 2, 0).numpy()
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1} if pixels.shape[2] == 1 else {}
    axis.imshow(pixels.squeeze(2) if gray else pixels, interpolation="nearest", **gray)
    axis.set_title(title, fontsize=9, parse_math=False)  # of files that may be called anything
    axis.set_axis_off()


def _shortened(name: str, most: int = 28) -> str:
    return name if len(name) <= most else "..." + name[3 - most :]


def _draw_bands(area: Any, found: Audit, shown: Sequence[str]) -> None:
    """Beside each other what pictures owe to each parameter and what it leaks, with a piece for each band."""
    axes = area.subplots(1, 2, sharey=True)
    titles = {"reveals": "reveals: what pictures owe to it", "leak": "leak: its part of the Fisher information"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        bars = bars_of(found, measure, shown)
        legend = _draw_bars(axis, bars)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("%")
    axes[0].set_yticks(range(len(bars)), [_shortened(bar.parameter) for bar in bars], fontsize=9)
    axes[0].invert_yaxis()
    area.legend(
        handles=[legend[key] for key in sorted(legend, key=lambda key: _order((*key, 0.0)))],
        title="frequency, 0: mean of a kernel, 1: highest", title_fontsize=9, fontsize=8, ncols=5,
        loc="outside lower center",
    )  # fmt: skip


def _draw_bars(axis: Any, bars: Sequence[Bar]) -> dict[tuple[str, float | None], Any]:
    """And what to write in the legend, by whether channels are selected and by frequency."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    color = colormaps["viridis"]
    legend = {}
    for place, bar in enumerate(bars):
        start = 0.0
        for channels, radius, share in bar.parts:
            fill = "0.6" if radius is None else color(radius)
            hatch, chosen = ("///", ", selected") if channels == "selected" else (None, "")
            axis.barh(place, 100 * share, left=100 * start, color=fill, hatch=hatch, edgecolor="white", linewidth=0.3)
            start += share
            label = ("no frequency" if radius is None else f"{radius:.2f}") + chosen
            legend[chosen, radius] = Patch(facecolor=fill, hatch=hatch, edgecolor="white", label=label)
    return legend
