"""The picture of a benchmark: how near memory's bandwidth each backend comes."""

from typing import TYPE_CHECKING, Any

from .._bench.contest import EAGER, WORKS
from .bench_report import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = dict(zip(WORKS, "o^s", strict=True))
LABELS = dict(zip(WORKS, ("left", "right", "left"), strict=True))
"""Of the works: shapes of points, and which side of a label is next to them. The last two have the same bytes."""


def drawn(result: Result) -> "Figure":
    """A roofline: milliseconds over the bytes that a call must move, both logarithmic, a point for each contestant.

    The line is what these bytes take at the bandwidth of a copy, the least there is for what lies in memory. A point's
    distance above it is what a backend lacks; whiskers span the quartiles.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axis = figure.add_subplot()
    sizes = [row.bytes_moved / 1e6 for row in result.rows]
    ends = min(sizes) / 3, max(sizes) * 12  # with room for labels on the right
    axis.plot(ends, [megabytes / result.copy.rate for megabytes in ends], color="black", linewidth=1)
    axis.fill_between(ends, [megabytes / result.copy.rate for megabytes in ends], color="0.92")
    axis.annotate(
        f"bandwidth of a copy, {result.copy.rate:.3g} GB/s", (ends[0], ends[0] / result.copy.rate),
        xytext=(6, -2), textcoords="offset points", va="top", fontsize=8,
    )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    _draw_rows(axis, result)
    axis.set_xlim(ends)
    axis.set_xlabel("MB that a call must read and write")
    axis.set_ylabel("milliseconds")
    title = f"{result.facts['model']}\n{result.machine['device']}, threads: {result.machine['threads']}"
    axis.set_title(title, fontsize=9, parse_math=False)
    axis.legend(fontsize=8, loc="upper left")
    return figure


def _draw_rows(axis: Any, result: Result) -> None:
    from matplotlib import colormaps

    names = list(dict.fromkeys(row.by for row in result.rows if row.by != EAGER))
    colors = {EAGER: "0.45", **{name: colormaps["tab10"](place) for place, name in enumerate(names)}}
    for name, side in LABELS.items():
        for row in (row for row in result.rows if row.work == name):
            size, ms = row.bytes_moved / 1e6, row.ms
            axis.errorbar(
                size, ms.median, yerr=[[ms.median - ms.lower], [ms.upper - ms.median]], color=colors[row.by],
                marker=MARKERS[name], markersize=6, linewidth=1,
                markerfacecolor="white" if row.by == EAGER else None,
            )  # fmt: skip
            axis.annotate(
                f"{row.by}, {100 * result.of_copy(row):.3g} %", (size, ms.median),
                xytext=(-8 if side == "right" else 8, 0), textcoords="offset points",
                ha=side, va="center", fontsize=8, color=colors[row.by],
            )  # fmt: skip
        axis.plot([], [], MARKERS[name], color="0.3", label=name)
