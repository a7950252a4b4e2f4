"""What noise buys and costs: accuracy over the strongest attacker's PSNR, with the epsilon of each noise."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.privacy import figures
from bench.privacy.study.cases import EQUAL, FLOORS
from bench.privacy.study.jobs import Row
from bench.privacy.study.metrics import SAFE
from bench.privacy.study.noise_costs import Summary, epsilon
from bench.privacy.study.strongest import Median, median

COLORS = (figures.BLUE, figures.ORANGE)


class Point(NamedTuple):
    """A defense with one noise.

    Args:
        defense: its name; points of one name are one curve.
        noise: by clipping norm; 0 for none.
        psnr: of the strongest attacker, in dB, with its interval.
        accuracy: mean in percent.
        half_width: of the mean's interval.
        epsilon: of one message; infinite without noise.
    """

    defense: str
    noise: float
    psnr: Median
    accuracy: float
    half_width: float
    epsilon: float


NAMES = {"DP {:g}": "DP", "TIP 0.3, floor {:g}": "TIP 0.3 with floor"}
"""How the table of noise on everything calls a defense with a noise, and how ``noise_costs`` calls it."""


def points(attacked: Mapping[tuple[str, str], Row], trained: Sequence[Summary]) -> list[Point]:
    """What was both attacked and trained.

    Args:
        attacked: the strongest attacker by table and defense.
        trained: accuracies by condition.
    """
    found = []
    for (defense, noise), mean, half_width, _, _ in trained:
        names = [(FLOORS, text.format(noise)) for text, name in NAMES.items() if name == defense] or [(EQUAL, defense)]
        for met in names:
            if met in attacked:
                psnr = median(attacked[met])
                found.append(Point(defense, noise, psnr, mean, half_width, epsilon(noise, 1)))
    return found


def draw(points: Sequence[Point], accuracy: str = "accuracy on CIFAR-10 in %") -> Figure:
    """A curve for each defense, at most two, and beside them, on a part of the axis of its own, what has no noise.

    Each noise is written once with its epsilon, at the lower right of its points, which rising curves leave free, or
    at the upper left where they do not.
    """
    curves = _by_defense([point for point in points if point.noise])
    if len(curves) > len(COLORS):
        raise ValueError(f"expected at most {len(COLORS)} defenses with noise, got {', '.join(curves)}")
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    noisy, silent = figure.subplots(1, 2, sharey=True, width_ratios=(9, 1))
    _cut(noisy, silent)
    for line, ((name, curve), color) in enumerate(zip(curves.items(), COLORS, strict=False)):
        _errors(noisy, curve, color, "os"[line] + "-")
        noisy.text(0.96, 0.13 - 0.07 * line, name, transform=noisy.transAxes, color=color, fontsize=11,
                   fontweight="bold", horizontalalignment="right")  # fmt: skip
    for noise in dict.fromkeys(point.noise for point in points if point.noise):
        alike = [point for point in points if point.noise == noise]
        _tell(noisy, alike, [point for point in points if point.noise not in (noise, 0)])
    for point in points:
        if not point.noise:
            _errors(silent, [point], "black", "D")
            silent.annotate(point.defense, (point.psnr.value, point.accuracy), (0, -24), textcoords="offset points",
                            horizontalalignment="center", fontsize=10)  # fmt: skip
            silent.set_xticks([round(point.psnr.value)])
            silent.set_xlim(point.psnr.value - 2.5, point.psnr.value + 2.5)
    figures.mark_safe(noisy, SAFE, f"safe: {SAFE:g} dB")
    noisy.margins(x=0.12, y=0.12)
    noisy.set_ylabel(accuracy)
    figure.supxlabel("PSNR of the strongest attacker's picture in dB (less is more private)", fontsize=10)
    return figure


def _cut(left: Axes, right: Axes) -> None:
    """The look of one axis with a part left out."""
    for axis, side, edge in ((left, "right", 1), (right, "left", 0)):
        axis.spines[side].set_visible(False)
        axis.grid(alpha=0.3)
        axis.plot([edge, edge], [0, 1], transform=axis.transAxes, linestyle="none", color="black", clip_on=False,
                  marker=[(-0.5, -1), (0.5, 1)], markersize=9)  # fmt: skip
    right.tick_params(axis="y", length=0)


def _by_defense(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The curves, from the loudest noise on."""
    names = dict.fromkeys(point.defense for point in points)
    return {name: sorted((p for p in points if p.defense == name), key=lambda p: -p.noise) for name in names}


def _errors(axis: Axes, curve: Sequence[Point], color: str, marks: str) -> None:
    x = [point.psnr.value for point in curve]
    sides = [[p.psnr.value - p.psnr.low for p in curve], [p.psnr.high - p.psnr.value for p in curve]]
    y, widths = [point.accuracy for point in curve], [point.half_width for point in curve]
    axis.plot(x, y, marks, color=color, markersize=6, linewidth=1.5)
    axis.errorbar(x, y, xerr=sides, yerr=widths, fmt="none", ecolor=color, elinewidth=0.9, capsize=2.5, alpha=0.6)


def _tell(axis: Axes, alike: Sequence[Point], others: Sequence[Point]) -> None:
    """Writes the noise of these points and its epsilon, beside others."""
    text = f"noise {alike[0].noise:g}\nε {_rounded(alike[0].epsilon)}"
    x, y = [point.psnr.value for point in alike], [point.accuracy for point in alike]
    is_taken = any(max(x) <= o.psnr.value < max(x) + 2 and min(y) - 5 < o.accuracy <= min(y) for o in others)
    place, offset = ((min(x), max(y)), (-7, 7)) if is_taken else ((max(x), min(y)), (7, -7))
    axis.annotate(text, place, offset, textcoords="offset points", fontsize=9.5,
                  horizontalalignment="right" if is_taken else "left",
                  verticalalignment="bottom" if is_taken else "top",
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})  # fmt: skip


def _rounded(epsilon: float) -> str:
    """To two digits."""
    digits = 1 - math.floor(math.log10(epsilon))
    return f"{round(epsilon, digits):,.{max(digits, 0)}f}"
