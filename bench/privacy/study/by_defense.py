"""The figure of the defenses with noise of the same energy: what attackers get of each, and what it costs."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from bench.privacy import figures, images
from bench.privacy.study.cases import EQUAL
from bench.privacy.study.jobs import Cost, Row
from bench.privacy.study.metrics import SAFE
from bench.privacy.study.strongest import COVERED, Median, median, strongest


def draw(rows: Sequence[Row], costs: Sequence[Cost]) -> Figure:
    """A line for each defense of the table, the most private first, with its name.

    At the left the naive attacker, hollow, and the strongest one with the interval of its median; at the right the
    accuracy, with the interval that the number of test images leaves to it.
    """
    of_table = [row for row in rows if row.table == EQUAL]
    naive = {row.defense: statistics.median(row.psnr) for row in of_table if row.attacker == "naive"}
    best = {defense: median(row) for (_, defense), row in strongest(of_table).items()}
    names = sorted(best, key=lambda defense: best[defense].value)
    percent = {cost.defense: cost.accuracy for cost in costs if cost.table == EQUAL}
    figure = Figure(figsize=(8, 0.36 * len(names) + 1.3), layout="constrained")
    privacy, utility = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    for place, name in enumerate(names):
        _draw_attackers(privacy, place, naive[name], best[name])
        _draw_accuracy(utility, place, percent[name])
    figures.mark_safe(privacy, SAFE, f"safe: {SAFE:g} dB")
    privacy.set_yticks(range(len(names)), names, fontsize=10)
    privacy.set_ylim(len(names) - 0.5, -0.5)
    privacy.set_xlabel("PSNR in dB (less is more private):\nnaive attacker (hollow), strongest (filled)")
    utility.set_xlabel("accuracy on digits in %\n(one training each)")
    for axis in (privacy, utility):
        axis.grid(alpha=0.3)
        axis.tick_params(axis="y", length=0)
    return figure


def _draw_attackers(axis: Axes, place: int, naive: float, best: Median) -> None:
    axis.plot([naive, best.value], [place, place], color="0.8", linewidth=2, zorder=1)
    axis.plot(naive, place, "o", markerfacecolor="white", color=figures.BLUE, markersize=7)
    sides = [[best.value - best.low], [best.high - best.value]]
    axis.errorbar(best.value, place, xerr=sides, fmt="o", color=figures.ORANGE, capsize=3, markersize=7)


def _draw_accuracy(axis: Axes, place: int, percent: float) -> None:
    right = round(percent / 100 * images.TEST_DIGITS)
    low, high = binomtest(right, images.TEST_DIGITS).proportion_ci(COVERED, "wilson")
    sides = [[max(percent - 100 * low, 0)], [max(100 * high - percent, 0)]]
    axis.errorbar(percent, place, xerr=sides, fmt="s", color=figures.GREEN, capsize=3, markersize=6)
