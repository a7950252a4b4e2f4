"""Where a part of a gradient lies in the whole."""

from collections.abc import Sequence
from typing import NamedTuple


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
