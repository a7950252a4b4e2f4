"""Where a part of a gradient lies in the whole."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

from .naming import label

MAX_ELEMENTS = 2**41  # of a whole tensor: at most two words each, at least four words a block, 2^40 blocks


class Shard(NamedTuple):
    """Where a part lies in the whole gradient ``[channels, kernels_per_channel, *kernel_size]``.

    A part that is given its place draws the same noise as that region of the whole.
    """

    first_channel: int
    first_kernel: int
    kernels_per_channel: int


def shard_of(shards: Sequence[int] | None, i: int, kernels: int) -> Shard:
    """Where tensor ``i``, of so many kernels a channel, lies by the ``shards`` of the op: three integers a tensor.

    Without them it is the whole.
    """
    return Shard(0, 0, kernels) if shards is None else Shard(*shards[3 * i : 3 * i + 3])


def as_shard(value: Sequence[int] | None, index: int, names: tuple[str, ...] | None) -> Shard | None:
    """What a user gave for a tensor; raises TypeError unless it is None or three integers."""
    if value is None:
        return None
    try:
        return Shard(*map(operator.index, value))
    except TypeError:
        where = label(index, names)
        raise TypeError(f"expected shards{where} to be a Shard of three integers or None, got {value}") from None


def check_shard(shard: Shard, shape: tuple[int, ...], where: str) -> None:
    """Raises ValueError unless a tensor ``[C, M, *kernel_size]`` can be this part of a whole."""
    if min(shard) < 0 or shard.first_kernel + shape[1] > shard.kernels_per_channel:
        raise ValueError(f"expected shards{where} with room for {shape[1]} kernels a channel, got {tuple(shard)}")
    elements = (shard.first_channel + shape[0]) * shard.kernels_per_channel * math.prod(shape[2:])
    if elements > MAX_ELEMENTS:
        raise ValueError(f"expected grads{where} of at most 2**41 elements in the whole, got {elements}")
