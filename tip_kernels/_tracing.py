"""What ``torch.compile`` has to know of this package's Python."""

import operator
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)
Number = TypeVar("Number", int, float)


def constant_when_traced(function: Function) -> Function:
    """Has Dynamo call the function while it traces, and take the result for a constant of its arguments.

    ``torch.compiler.assume_constant_result`` does the same, but it imports all of ``torch._dynamo``, which takes
    seconds, whether or not anything is ever compiled. Not for a function that is itself wrapped by
    ``functools.lru_cache``: Dynamo looks through that.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def fixed(number: Number) -> Number:
    """The number at hand, where Dynamo may have made it a symbol: what is traced then holds for this number only."""
    if not torch.compiler.is_compiling():
        return number
    return operator.index(number) if isinstance(number, int) else float.fromhex(number.hex())
