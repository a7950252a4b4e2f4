"""What a benchmark says: for people, as text, and for programs, as JSON."""

import json
import pathlib
from typing import Any, NamedTuple

from .. import __version__
from .._bench import timing
from .._bench.contest import EAGER, WORKS


class Row(NamedTuple):
    """Times of one contestant.

    Attributes:
        work: what is done.
        by: who does it.
        bytes_moved: that it must read and write.
        times: milliseconds of each repeat.
    """

    work: str
    by: str
    bytes_moved: int
    times: list[float]

    @property
    def ms(self) -> timing.Quartiles:
        """Of a call."""
        return timing.quartiles(self.times)

    @property
    def rate(self) -> float:
        """GB/s, at the median."""
        return self.bytes_moved / self.ms.median / 1e6


class Result(NamedTuple):
    """What there is to say.

    Attributes:
        machine: what the figures depend on, by name.
        facts: what was timed, by name.
        copy: of memory.
        rows: of the works.
        picture: where it is, or None.
    """

    machine: dict[str, object]
    facts: dict[str, str]
    copy: Row
    rows: list[Row]
    picture: pathlib.Path | None

    def of_copy(self, row: Row) -> float:
        """The share of the copy's bandwidth that a row has."""
        return row.rate / self.copy.rate

    def of_eager(self, row: Row) -> float | None:
        """How many times as long eager PyTorch takes for the same work; None where it has no counterpart."""
        eager = next((each for each in self.rows if (each.work, each.by) == (row.work, EAGER)), None)
        return None if eager is None else eager.ms.median / row.ms.median


def as_text(result: Result) -> str:
    """Machine, facts, and a table of works."""
    copy = result.copy
    lower, upper = (copy.bytes_moved / ms / 1e6 for ms in (copy.ms.upper, copy.ms.lower))
    facts = {
        "machine": _machine(result.machine),
        **result.facts,
        "copy": f"{copy.rate:.1f} GB/s ({lower:.1f} .. {upper:.1f}), {copy.bytes_moved / 2**20:.0f} MiB read and "
        f"written, {len(copy.times)} repeats",
    }
    lines = [f"{name:8}  {text}" for name, text in facts.items()]
    for work, meaning in WORKS.items():
        rows = [row for row in result.rows if row.work == work]
        if not rows:
            continue
        lines += ["", f"{work}: {meaning}; {rows[0].bytes_moved / 1e6:.3g} MB"]
        lines.append(f"  {'':10}{'ms':>10}  {'quartiles':22}{'repeats':>8}{'GB/s':>8}{'of a copy':>11}  eager takes")
        lines += [_line(result, row) for row in rows]
    if any(result.of_copy(row) > 1 for row in result.rows):
        lines += ["", "more than a copy: what the call touches lies in caches, what is copied does not"]
    if result.picture is not None:
        lines += ["", f"picture   {result.picture}"]
    return "\n".join(lines)


def _line(result: Result, row: Row) -> str:
    quartiles = f"{row.ms.lower:.3f} .. {row.ms.upper:.3f}"
    ratio = result.of_eager(row)
    eager = "" if ratio is None or row.by == EAGER else f"  {ratio:.3g} times as long"
    return (
        f"  {row.by:10}{row.ms.median:10.3f}  {quartiles:22}{len(row.times):8}{row.rate:8.2f}"
        f"{100 * result.of_copy(row):9.1f} %{eager}"
    )


def as_json(result: Result) -> str:
    """The same in one object."""
    content = {
        "tip_kernels": __version__,
        "machine": result.machine,
        "facts": result.facts,
        "copy": _as_dict(result.copy),
        "works": [
            {**_as_dict(row), "of_copy": result.of_copy(row), "eager_over_this": result.of_eager(row)}
            for row in result.rows
        ],
        "picture": None if result.picture is None else str(result.picture),
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _as_dict(row: Row) -> dict[str, Any]:
    return {
        "work": row.work,
        "by": row.by,
        "bytes": row.bytes_moved,
        "ms": row.ms._asdict(),
        "repeats": len(row.times),
        "gb_per_second": row.rate,
    }


def _machine(machine: dict[str, object]) -> str:
    variant = f", variant {machine['cpu variant']} of the cpu backend" if machine["cpu variant"] else ""
    cuda = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    return (
        f"{machine['device']}, threads: {machine['threads']}{variant}, torch {machine['torch']}{cuda}, "
        f"tip_kernels {machine['tip_kernels']}"
    )
