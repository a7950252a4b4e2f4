"""What noise buys and costs: accuracy over the strongest attacker's PSNR, with the epsilon of each noise."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.privacy import figures
from bench.privacy.study.cases import EQUAL, FLOORS
from bench.privacy.study.jobs import Row
from bench.privacy.study.noise_costs import Summary, epsilon

COLORS = ("tab:blue", "#c44e00")


class Point(NamedTuple):
    """A defense with one noise.

    Args:
        defense: its name; points of one name are one curve.
        noise: by clipping norm; 0 for none.
        psnr: of the strongest attacker, in dB.
        accuracy: mean in percent.
        half_width: of the mean's interval.
        epsilon: of one message; infinite without noise.
    """

    defense: str
    noise: float
    psnr: float
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
                psnr = statistics.median(attacked[met].psnr)
                found.append(Point(defense, noise, psnr, mean, half_width, epsilon(noise, 1)))
    return found


def draw(points: Sequence[Point], accuracy: str = "accuracy on CIFAR-10 in %") -> Figure:
    """A curve for each defense, at most two, and a diamond for what has no noise.

    Each noise is written beside its point: of the first curve above it, of the second below. Where noises are alike,
    epsilon is written with the first curve only.
    """
    figure, axis = figures.chart(
        (7, 4.6), "PSNR of the strongest attacker's picture in dB (less is more private)", accuracy
    )
    curves = _by_defense([point for point in points if point.noise])
    if len(curves) > len(COLORS):
        raise ValueError(f"expected at most {len(COLORS)} defenses with noise, got {', '.join(curves)}")
    said: set[float] = set()
    for (name, curve), color, above in zip(curves.items(), COLORS, (True, False), strict=False):
        _errors(axis, curve, color, "o-")
        for point in curve:
            _write(axis, point, _noise(point, tells_epsilon=point.noise not in said), color, above)
            said.add(point.noise)
        _name(axis, 2 if above else 1, name, color)
    for point in points:
        if not point.noise:
            _errors(axis, [point], "black", "D")
            axis.annotate(
                point.defense, (point.psnr, point.accuracy), (7, -4), textcoords="offset points", fontsize=8.5
            )
    _name(axis, 0, "noise by clipping norm, ε of one message at δ = 1e-5", "dimgray")
    axis.margins(x=0.12, y=0.3)
    return figure


def _by_defense(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The curves, from the loudest noise on."""
    names = dict.fromkeys(point.defense for point in points)
    return {name: sorted((p for p in points if p.defense == name), key=lambda p: -p.noise) for name in names}


def _errors(axis: Axes, curve: Sequence[Point], color: str, marks: str) -> None:
    x, y, widths = zip(*((point.psnr, point.accuracy, point.half_width) for point in curve), strict=True)
    axis.errorbar(x, y, yerr=widths, fmt=marks, color=color, markersize=5, linewidth=1.2, capsize=3, elinewidth=0.9)


def _noise(point: Point, tells_epsilon: bool) -> str:
    return f"{point.noise:g}, ε {_rounded(point.epsilon)}" if tells_epsilon else f"{point.noise:g}"


def _rounded(epsilon: float) -> str:
    """To two digits."""
    digits = 1 - math.floor(math.log10(epsilon))
    return f"{round(epsilon, digits):,.{max(digits, 0)}f}"


def _write(axis: Axes, point: Point, text: str, color: str, above: bool) -> None:
    """From the upper left down to the point or from it on: so texts are apart where a rising curve is flat or steep."""
    axis.annotate(
        text,
        (point.psnr, point.accuracy),
        xytext=(-8, 6) if above else (8, -6),
        textcoords="offset points",
        rotation=-40,
        rotation_mode="anchor",
        horizontalalignment="right" if above else "left",
        verticalalignment="center",
        color=color,
        fontsize=8.5,
    )


def _name(axis: Axes, line: int, text: str, color: str) -> None:
    """At the lower right, which curves that fall to the left leave free."""
    axis.text(
        0.98, 0.04 + 0.06 * line, text, transform=axis.transAxes, horizontalalignment="right", color=color,
        fontsize=9.5, fontweight="bold",
    )  # fmt: skip
