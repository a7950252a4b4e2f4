"""Checks of the numbers that users give: their errors say what was expected and what came."""

import math
import numbers
from collections.abc import Sequence

import torch

from .._runtime.tracing import specialize

FLOAT32_MAX = torch.finfo(torch.float32).max

_NUMBER = (float, int, numbers.Real)  # the first two are found without a search for abstract classes


def check_number(name: str, value: object) -> None:
    """Raises TypeError unless ``value`` is a real number."""
    if not isinstance(value, _NUMBER):
        raise TypeError(f"expected {name} to be a number, got {type(value).__name__}")


def numbers_of(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Several numbers as a tuple that is hashable and that a trace can hold.

    Raises TypeError if they are no sequence, or for a list among them; what else is no number, or out of range, is
    found by those who know the range.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"expected {name} to be a sequence of numbers, got {type(values).__name__}")
    found = tuple(values)
    traces = torch.compiler.is_compiling()
    if traces or not _is_hashable(found):
        for j, value in enumerate(found):
            check_number(f"{name}[{j}]", value)
    return tuple(map(specialize, found)) if traces else found


def _is_hashable(value: tuple[object, ...]) -> bool:
    """As numbers are: asked instead of each number's type, since calls ask it for every tensor."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless ``value`` is in [low, high], and TypeError if it is no number."""
    check_number(name, value)
    if not low <= value <= high:
        raise ValueError(f"expected {name} in [{low:g}, {high:g}], got {value}")


def check_amount(name: str, value: float) -> None:
    """Raises ValueError unless ``value`` can be a standard deviation, and TypeError if it is no number."""
    check_number(name, value)
    if not 0 <= value <= FLOAT32_MAX:
        raise ValueError(f"expected {name} to be finite and at least 0, got {value}")


def check_max_grad_norm(value: float | None) -> None:
    """Raises ValueError unless ``value`` is None or positive and finite, and TypeError if it is no number."""
    if value is None:
        return
    check_number("max_grad_norm", value)
    if not 0 < value < math.inf:
        raise ValueError(f"expected max_grad_norm to be None or positive and finite, got {value}")
