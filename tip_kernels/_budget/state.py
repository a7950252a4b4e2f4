"""What a privacy budget keeps: its target and the messages counted, by kind; as a mapping that JSON can hold."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from .accountant import Counts, Kind

VERSION = 1


class Target(NamedTuple):
    """What all messages together may be worth, and between which worlds."""

    epsilon: float
    delta: float
    relation: str


def to_state(target: Target, counts: Counts) -> dict[str, Any]:
    """Numbers, strings, lists and mappings only; :func:`counts_of` reads them again, exactly."""
    sent = [{**kind._asdict(), "messages": count} for kind, count in sorted(counts.items())]
    return {"version": VERSION, **target._asdict(), "sent": sent}


def counts_of(state: Any, target: Target, where: str) -> dict[Kind, int]:
    """The messages counted in a state; raises ValueError unless it is whole and has this target."""
    try:
        version, found = state["version"], {name: state[name] for name in Target._fields}
        sent = [(Kind(row["noise_multiplier"], row["sampling_probability"]), row["messages"]) for row in state["sent"]]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"expected {where} to be a budget's state, got something else or a part of one") from error
    if version != VERSION:
        raise ValueError(f"expected {where} to have version {VERSION}, got {version!r}")
    for name, wanted in target._asdict().items():
        if found[name] != wanted:
            raise ValueError(f"expected {where} to have {name} {wanted!r} as this budget does, got {found[name]!r}")
    counts = dict(sent)
    if len(counts) != len(sent) or not all(_is_possible(*row) for row in sent):
        raise ValueError(f"expected {where} to count messages of possible kinds, each kind once, got {state['sent']}")
    return counts


def merged(counts: Counts, others: Counts) -> dict[Kind, int]:
    """The larger count of each kind: of two states of one budget, neither is forgotten."""
    return {kind: max(counts.get(kind, 0), others.get(kind, 0)) for kind in counts.keys() | others.keys()}


def is_behind(counts: Counts, seen: Counts) -> bool:
    """Whether some messages that were seen are missing."""
    return any(counts.get(kind, 0) < count for kind, count in seen.items())


def total(counts: Mapping[Kind, int]) -> int:
    """Messages of all kinds."""
    return sum(counts.values())


def _is_possible(kind: Kind, count: int) -> bool:
    numbers = (kind.noise_multiplier, kind.sampling_probability)
    if not all(type(number) is float and math.isfinite(number) and number > 0 for number in numbers):
        return False
    return kind.sampling_probability <= 1 and type(count) is int and count > 0
