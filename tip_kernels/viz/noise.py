"""The picture of a TIP's noise: how loud it is in each tensor of a message, and what is released exactly."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._op.plan import select_count
from ..defense import TIP
from .drawing import HIGH, OTHER, Path, new_figure, rows_height, saved, show_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXACT = "#b2182b"
MOST_TICKS = 3
"""At amounts, which may lie close together."""


class Line(NamedTuple):
    """The noise of one tensor.

    Attributes:
        name: of the parameter or buffer.
        high: stds [n] on the high band of selected channels, empty if it has none.
        elsewhere: stds [n] of its other coefficients, empty if there are none.
        exact: share of its numbers that have no noise, from 0 to 1.
    """

    name: str
    high: torch.Tensor
    elsewhere: torch.Tensor
    exact: float


def plot_noise(tip: TIP, path: Path = None) -> "Figure":
    """The noise of each tensor of a message, in the units of the gradient, as this client adds it.

    Orange is the high band of selected channels, blue all else; a bar is the range of a spectrum's amounts. What has no
    noise is red, at the left edge, since it is released exactly, with its share of the tensor at the right.

    Args:
        tip: its settings count. For the shares, each kernel has the share ``ratio`` of its channels selected; one
            without scores would have all.
        path: where to save it, in the format of its ending; None does not.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: not a TIP.
    """
    if not isinstance(tip, TIP):
        raise TypeError(f"expected tip to be a tip_kernels.TIP, got {type(tip).__name__}")
    lines = list(lines_of(tip))
    figure = new_figure(8, rows_height(len(lines)))
    axis = figure.add_subplot()
    amounts = torch.cat([part for line in lines for part in (line.high, line.elsewhere)])
    heard = amounts[amounts > 0]
    least, most = (heard.min().item(), heard.max().item()) if len(heard) else (1e-2, 1.0)
    edge = least / 5
    for place, line in enumerate(lines):
        for stds, color, marker in ((line.high, HIGH, "^"), (line.elsewhere, OTHER, "o")):
            _draw(axis, place, stds, color, marker, edge)
    axis.set_xscale("log")
    axis.set_xlim(edge / 1.6, most * 2)
    ticks = _ticks(heard)
    axis.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], minor=False)
    axis.set_xticks([], minor=True)
    axis.axvspan(edge / 1.6, edge * 1.6, color=EXACT, alpha=0.08, linewidth=0)
    axis.text(edge, 1.0, "exact", color=EXACT, fontsize=9, horizontalalignment="center", verticalalignment="bottom",
              transform=axis.get_xaxis_transform())  # fmt: skip
    show_rows(axis, [line.name for line in lines], [_note(line) for line in lines], "released exactly")
    clipped = tip._settings["max_grad_norm"]
    norm = "gradients are not clipped" if clipped is None else f"gradients are clipped to {clipped:g}"
    axis.set_xlabel(f"std of the noise ({norm}):\nhigh band of selected channels (orange triangles), all else (blue)")
    return saved(figure, path)


def lines_of(tip: TIP) -> Iterator[Line]:
    """Of every tensor that an update has, in the model's order; integer buffers are sent as they are."""
    mechanism, layout = tip._mechanism, tip._layout
    kernels = {layout.names[index]: (index, size) for index, size in layout.kernel_sizes.items()}
    floors, targets = mechanism.floor_std.named(), dict(mechanism.targets())
    nothing = torch.zeros(0, dtype=torch.float64)
    for name in mechanism.sent_names:
        if name not in layout.floating_names:
            yield Line(name, nothing, torch.zeros(1, dtype=torch.float64), 1.0)
        elif name not in kernels:
            if name in floors:  # others would be refused
                floor = torch.tensor([floors[name]], dtype=torch.float64)
                yield Line(name, nothing, floor, float(floor.item() == 0))
        else:
            index, size = kernels[name]
            others, selected = mechanism.stds(name, size)
            d = mechanism.bands.dimension(size) if name in targets else 0
            chosen = select_count(mechanism.ratio, layout.channels[index]) / layout.channels[index] if d else 0.0
            high = selected[:d] if chosen else nothing
            elsewhere = torch.cat([selected[d:] if chosen else nothing, others if chosen < 1 else nothing])
            exact = chosen * _silent(selected) + (1 - chosen) * _silent(others)
            yield Line(name, high, elsewhere, exact)


def _silent(stds: torch.Tensor) -> float:
    return (stds == 0).double().mean().item()


def _draw(axis: Any, place: int, stds: torch.Tensor, color: str, marker: str, edge: float) -> None:
    heard = stds[stds > 0]
    if len(heard):
        ends = [heard.min().item(), heard.max().item()]
        axis.plot(ends, [place, place], f"{marker}-", color=color, markersize=6, linewidth=2)
    if len(heard) < len(stds):
        axis.plot(edge, place, "X", color=EXACT, markersize=7)


def _ticks(heard: torch.Tensor) -> list[float]:
    """The amounts themselves, if they are few; else powers of ten and twice and five times those among them."""
    amounts = heard.unique()
    if len(amounts) <= MOST_TICKS:
        return [amount.item() for amount in amounts]
    least, most = amounts[0].item(), amounts[-1].item()
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    round_ones = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [tick for tick in round_ones if least / 1.5 <= tick <= most * 1.5]


def _note(line: Line) -> str:
    if not line.exact:
        return "nothing"
    return "all" if line.exact == 1 else f"{100 * line.exact:.0f} %"
