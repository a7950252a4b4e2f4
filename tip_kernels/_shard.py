"""Where a part of a gradient lies in the whole."""

from typing import NamedTuple


class Shard(NamedTuple):
    """Where a part lies in the whole gradient ``[channels, kernels_per_channel, *kernel_size]``.

    A part that is given its place draws the same noise as that region of the whole.
    """

    first_channel: int
    first_kernel: int
    kernels_per_channel: int
