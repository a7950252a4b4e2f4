"""The picture of an audit: images, what can be known of them, and where the message leaks."""

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..audit import Audit
from .refusal import Refused

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
MOST_IMAGES = 4
MOST_PARAMETERS = 20
"""Of the table of leaks: those that leak most."""


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
    bars = leak_bars(found)
    height = max(2.3 * count + 0.8, 0.27 * len(bars) + 2.0)
    figure = Figure(figsize=(13, height), layout="constrained")
    areas: Any = figure.subfigures(1, 2, width_ratios=(7, 6))
    about = "" if found.method == "exact" else f", +- {100 / math.sqrt(2 * probes):.0f} %"
    _draw_images(areas[0], found, images[:count], names, f"exposure map{about}")
    _draw_leak(areas[1].subplots(), bars)
    return figure


class Bar(NamedTuple):
    """The leak of one parameter.

    Attributes:
        parameter: its name.
        parts: (kind of channels, frequency or None, share of all that leaks), in this order.
    """

    parameter: str
    parts: list[tuple[str, float | None, float]]


def leak_bars(found: Audit) -> list[Bar]:
    """Of the parameters that leak most, in the model's order; the rest as one."""
    total = sum(row.leak for row in found.leak) or 1.0
    bars: dict[str, Bar] = {}
    for row in found.leak:
        bar = bars.setdefault(row.parameter, Bar(row.parameter, []))
        bar.parts.append((row.channels, row.radius, row.leak / total))
    most = sorted(bars.values(), key=_length, reverse=True)[:MOST_PARAMETERS]
    shown = {bar.parameter for bar in most}
    rest = [bar for bar in bars.values() if bar.parameter not in shown]
    kept = [bar._replace(parts=sorted(bar.parts, key=_order)) for bar in bars.values() if bar.parameter in shown]
    if rest:
        kept.append(Bar(f"{len(rest)} others", [("all", None, sum(map(_length, rest)))]))
    return kept


def _order(part: tuple[str, float | None, float]) -> tuple[str, float]:
    channels, radius, _ = part
    return channels, -1.0 if radius is None else radius


def _length(bar: Bar) -> float:
    return sum(share for _, _, share in bar.parts)


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
    area.colorbar(
        shown, ax=axes[-1, 2], location="bottom", label="error left: bright is exposed,\nblack as without a message"
    )


def _show(axis: Any, image: torch.Tensor, title: str) -> None:
    pixels = image.detach().cpu().float().permute(1, 2, 0).numpy()
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1} if pixels.shape[2] == 1 else {}
    axis.imshow(pixels.squeeze(2) if gray else pixels, interpolation="nearest", **gray)
    axis.set_title(title, fontsize=9, parse_math=False)  # of files that may be called anything
    axis.set_axis_off()


def _shortened(name: str, most: int = 28) -> str:
    return name if len(name) <= most else "..." + name[3 - most :]


def _draw_leak(axis: Any, bars: Sequence[Bar]) -> None:
    """One bar a parameter, with a piece for each band."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    color = colormaps["viridis"]
    legend: dict[tuple[str, float | None], Any] = {}
    for place, bar in enumerate(bars):
        start = 0.0
        for channels, radius, share in bar.parts:
            fill = "0.6" if radius is None else color(radius)
            hatch, chosen = ("///", ", selected") if channels == "selected" else (None, "")
            axis.barh(place, 100 * share, left=100 * start, color=fill, hatch=hatch, edgecolor="white", linewidth=0.3)
            start += share
            label = ("no frequency" if radius is None else f"{radius:.2f}") + chosen
            legend[chosen, radius] = Patch(facecolor=fill, hatch=hatch, edgecolor="white", label=label)
    axis.set_yticks(range(len(bars)), [_shortened(bar.parameter) for bar in bars], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel("% of what leaks (trace of the Fisher information)")
    axis.set_title("leak by parameter and frequency (0: mean of a kernel, 1: highest)", fontsize=10)
    axis.legend(
        handles=[legend[key] for key in sorted(legend, key=lambda key: _order((*key, 0.0)))], fontsize=8, ncols=2
    )


def save(figure: "Figure", path: pathlib.Path) -> None:
    """As PNG.

    Raises:
        Refused: the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise Refused(f"expected to write the picture {path}: {error}") from error
