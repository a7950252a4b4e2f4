"""A plan for people, as text, and for programs, as JSON; its rows are counted in what TIP itself says of a message."""

import argparse
import collections
import json
import math
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import __version__
from .._audit.coefficients import Coefficients, under_tip
from ..defense import TIP
from . import settings
from .audit_report import of_model
from .folders import shown
from .table import table

HEADER = ("", "channels", "kernels", "taps", "high band", "selected", "numbers", "noise", "exact", "bytes")
LEGEND = (
    "noise and exact: of the numbers, in the basis in which noise is added, those that get some and those that are "
    "sent as they are (or times keep or the factor that clips); bytes: of the gradients, that a call rewrites"
)


class Row(NamedTuple):
    """One conv kernel, the other parameters of one kind of module, or all.

    Attributes:
        name: of the parameter, kind or sum.
        tensors: how many parameters it is.
        numbers: in them.
        noised: coefficients that get noise.
        removed: coefficients that are sent as 0, without noise.
        bytes: that a call rewrites.
        kernel: what only a conv kernel has.
    """

    name: str
    tensors: int
    numbers: int
    noised: int
    removed: int
    bytes: int
    kernel: "Kernel | None" = None

    @property
    def noise(self) -> float:
        """Share of the numbers that gets noise."""
        return self.noised / max(self.numbers, 1)

    @property
    def exact(self) -> float:
        """Share of the numbers that is sent as it is, or times ``keep``."""
        return (self.numbers - self.noised - self.removed) / max(self.numbers, 1)


class Kernel(NamedTuple):
    """Of a conv kernel [C, M, *kernel_size]: C, C * M, the size, dimensions of its high band, selected channels."""

    channels: int
    kernels: int
    size: tuple[int, ...]
    high_band: int
    selected: int


class Timing(NamedTuple):
    """Of a call on this machine."""

    seconds: float
    repeats: int
    backend: str
    device: torch.device


class Plan(NamedTuple):
    """What there is to say.

    Attributes:
        model: the user's.
        defense: its TIP.
        chosen: its settings, by the names of its arguments.
        rows: of all that is trained.
        outputs: by conv kernel the shapes that a forward pass gives; None if there was none.
        timing: None if no call was timed.
        warned: by TIP.
    """

    model: nn.Module
    defense: TIP
    chosen: dict[str, Any]
    rows: list[Row]
    outputs: dict[str, list[tuple[int, ...]]] | None
    timing: Timing | None
    warned: list[str]


def rows_of(defense: TIP) -> list[Row]:
    """The conv kernels that are trained, and all else that is, by the modules that hold it."""
    layout, selection = defense._layout, defense._selection
    tensors: list[torch.Tensor | None] = [p if p.requires_grad else None for p in defense.model.parameters()]
    selected = selection.selected(selection.choose(tensors, layout.all.convs))
    parameters = dict(defense.model.named_parameters())
    kernels, others = [], collections.defaultdict(list)
    for name, coefficients in under_tip(defense, selected).items():
        row = _row(defense, coefficients, parameters[name])
        if row.kernel is None:
            others[type(defense.model.get_submodule(name.rpartition(".")[0])).__name__].append(row)
        else:
            kernels.append(row)
    return kernels + [total(kind, rows) for kind, rows in others.items()]


def total(name: str, rows: list[Row]) -> Row:
    """The sum of some rows."""
    return Row(
        name,
        sum(row.tensors for row in rows),
        sum(row.numbers for row in rows),
        sum(row.noised for row in rows),
        sum(row.removed for row in rows),
        sum(row.bytes for row in rows),
    )


def _row(defense: TIP, coefficients: Coefficients, parameter: nn.Parameter) -> Row:
    is_selected, taps = coefficients.selected, len(coefficients.radii)
    per_channel = parameter.numel() // max(len(is_selected) * taps, 1)
    kernel, added = None, coefficients.std
    if coefficients.basis is not None:
        size = defense._layout.kernel_sizes[defense._layout.names.index(coefficients.name)]
        high_band = defense._mechanism.bands.dimension(size)
        kernel = Kernel(len(is_selected), len(is_selected) * per_channel, size, high_band, int(is_selected.sum()))
        added = defense._mechanism.stds(coefficients.name, size)  # those of coefficients are by what is left of these
    of_channels = is_selected.long()
    has_noise = added[of_channels] > 0  # [C, K]
    is_removed = (added == 0)[of_channels] & coefficients.std[of_channels].isinf()
    is_written = has_noise.any(dim=-1)
    if kernel is not None and defense._settings["keep"] < 1:
        is_written |= is_selected
    written = int(is_written.sum()) * per_channel * taps
    if defense._settings["max_grad_norm"] is not None:
        written = parameter.numel()
    return Row(
        coefficients.name,
        1,
        parameter.numel(),
        int(has_noise.sum()) * per_channel,
        int(is_removed.sum()) * per_channel,
        written * parameter.element_size(),
        kernel,
    )


def as_text(options: argparse.Namespace, plan: Plan) -> str:
    """Facts, notes and the table."""
    facts = [*facts_of(options, plan).items(), *(("note", note) for note in notes_of(options, plan))]
    header = HEADER if plan.outputs is None else (*HEADER, "output")
    rows = [*plan.rows, total("all", plan.rows)]
    cells = [header, *(_cells(row, plan.outputs) for row in rows)]
    return f"{table(facts)}\n\n{table(cells, right=range(1, len(HEADER)))}\n\n{LEGEND}"


def as_json(options: argparse.Namespace, plan: Plan) -> str:
    """The same in one object."""
    every = total("all", plan.rows)
    timing = plan.timing
    content = {
        "tip_kernels": __version__,
        "facts": facts_of(options, plan),
        "notes": notes_of(options, plan),
        "settings": {**settings.as_objects(options, plan.chosen), "input": options.input},
        "kernels": [_as_object(row, plan.outputs) for row in plan.rows if row.kernel is not None],
        "others": [_as_object(row, plan.outputs) for row in plan.rows if row.kernel is None],
        "all": _as_object(every, plan.outputs),
        "time": None
        if timing is None
        else {
            "seconds": timing.seconds,
            "repeats": timing.repeats,
            "backend": timing.backend,
            "device": str(timing.device),
        },
    }
    return json.dumps(content, indent=2, allow_nan=False)


def facts_of(options: argparse.Namespace, plan: Plan) -> dict[str, str]:
    """What was asked about, by name."""
    given = {name: value for name, value in plan.chosen.items() if name != "std" or options.std is not None}
    facts = {"model": f"{options.model}, {of_model(plan.model)}", "defense": settings.described(given)}
    if plan.outputs is not None:
        reached = sum(bool(shapes) for shapes in plan.outputs.values())
        facts["input"] = f"{shown(options.input)}, which reaches {reached} of {len(plan.outputs)} conv kernels"
    if plan.timing is not None:
        facts["time"] = _of_timing(plan.timing)
    return facts


def _of_timing(timing: Timing) -> str:
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' * (count != 1)}" if timing.device.type == "cpu" else ""
    return (
        f"{1e3 * timing.seconds:.3g} ms a call, measured here: median of {timing.repeats}, backend {timing.backend} on "
        f"{timing.device}{threads}"
    )


def notes_of(options: argparse.Namespace, plan: Plan) -> list[str]:
    """What a user might not have meant, and advice."""
    notes = [*plan.warned, *_of_little(options, plan)]
    missed = [name for name, shapes in (plan.outputs or {}).items() if not shapes]
    if missed:
        notes.append(
            f"the forward pass runs no layer of {', '.join(missed[:3])}{' and others' * (len(missed) > 3)}: without a "
            "gradient they are not sent; used otherwise, all their channels are selected"
        )
    buffers = {name: b.numel() for name, b in plan.model.named_buffers() if b.is_floating_point()}
    if buffers:
        floors = plan.defense._mechanism.floor_std.named()
        how = "with noise" if all(floors.get(name) for name in buffers) else "as they are"
        notes.append(
            f"an update of weights also has {sum(buffers.values()):,} numbers of floating buffers, {how}; "
            "TIP(buffers='withhold') sends none"
        )
    return notes


def _of_little(options: argparse.Namespace, plan: Plan) -> list[str]:
    """On what is sent without noise."""
    every = total("all", plan.rows)
    if every.noised == every.numbers:
        return []
    if every.noised == 0:
        return [f"nothing gets noise: {_why_nothing(plan.defense)}. floor_std noises all of it (--floor)"]
    exact = f"{_percent(every.exact)} of the numbers are sent exactly, and nothing is guaranteed for the others"
    notes = [f"{exact}: floor_std noises what is left (--floor)"]
    with_band = sum(row.numbers for row in plan.rows if row.kernel is not None and row.kernel.high_band)
    if 2 * with_band < every.numbers:
        pointwise = sum(row.numbers for row in plan.rows if row.kernel is not None and not row.kernel.high_band)
        largest = max((row for row in plan.rows if row.kernel is None), key=lambda row: row.numbers, default=None)
        parts = [("1x1 kernels and others without a high band", pointwise)]
        if largest is not None:
            parts.append((largest.name, largest.numbers))
        told = ", ".join(f"{name} {_percent(numbers / every.numbers)}" for name, numbers in parts if numbers)
        notes.append(
            f"TIP hardly touches this model: kernels with a high band are {_percent(with_band / every.numbers)} of its "
            f"numbers ({told}), whatever the ratio, and only floor_std reaches the rest"
        )
    return notes


def _why_nothing(defense: TIP) -> str:
    amounts, _ = defense._mechanism.least_amounts()
    if defense._settings["ratio"] == 0:
        return "ratio is 0"
    if not any(amounts.values()):
        return "std is 0"
    return "all that is trained is sent exactly, and a perturb call raises"


def _cells(row: Row, outputs: dict[str, list[tuple[int, ...]]] | None) -> tuple[str, ...]:
    of_kernel = [""] * 5
    name = row.name
    if row.kernel is not None:
        kernel = row.kernel
        taps = f"{math.prod(kernel.size)}"
        of_kernel = [str(kernel.channels), f"{kernel.kernels:,}", taps, str(kernel.high_band), str(kernel.selected)]
    else:
        name = f"{'' if name == 'all' else 'others: '}{name} ({row.tensors} tensor{'s' * (row.tensors != 1)})"
    shares = (_percent(row.noise), _percent(row.exact))
    cells = (name, *of_kernel, f"{row.numbers:,}", *shares, f"{row.bytes:,}")
    return cells if outputs is None else (*cells, _of_uses(outputs.get(row.name)))


def _of_uses(shapes: list[tuple[int, ...]] | None) -> str:
    if shapes is None:
        return ""
    if not shapes:
        return "not reached"
    return shown(shapes[0]) + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else "")


def _as_object(row: Row, outputs: dict[str, list[tuple[int, ...]]] | None) -> dict[str, Any]:
    content: dict[str, Any] = {"name": row.name, "tensors": row.tensors, "numbers": row.numbers}
    if row.kernel is not None:
        content |= {**row.kernel._asdict(), "taps": math.prod(row.kernel.size)}
        content["outputs"] = None if outputs is None else outputs[row.name]
    return {
        **content,
        "noised": row.noised,
        "removed": row.removed,
        "noise": row.noise,
        "exact": row.exact,
        "bytes": row.bytes,
    }


def _percent(share: float) -> str:
    """Nothing and all only for what is."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"
