"""What belongs together of what a program is told. Registers, as single values would be."""

from typing import Any, NamedTuple


class Stream(NamedTuple):
    """What the words of all tensors depend on."""

    key: Any  # its eight words, uint32
    step: Any  # int64
    columns: Any  # uint32: ChaCha's columns 2 and 3 after its first round, in which the counter has no part


class Amounts(NamedTuple):
    """Of noise and of gradient, in the type of the arithmetic."""

    std: Any
    floor: Any
    limit: Any  # of the grid, see grid.py
    scale: Any
    keep: Any


class Addresses(NamedTuple):
    """Where a tensor lies."""

    grad: Any  # int64
    scores: Any  # pointer
    sums: Any  # int64: of memory in the type of the arithmetic, where kernels take several chunks
    access: Any
