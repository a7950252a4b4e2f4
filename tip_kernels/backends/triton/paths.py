"""Which way the kernels take through a tensor."""

from collections.abc import Sequence

from .address import pitch
from .facts import TensorFacts
from .table import ANY_KERNEL, ELEMENTS, IDLE, SMALL_KERNELS, SmallKind

MAX_SMALL_TAPS = 9
"""Four kernels of nine taps fill about half of the registers that a thread can have."""


def choose_small_kind(tensors: Sequence[TensorFacts], floor: bool) -> SmallKind:
    """Of the kinds of kernels that fit into registers the one with the most elements."""
    sizes: dict[SmallKind, int] = {}
    for tensor in tensors:
        if _is_small(tensor, floor):
            kind = _small_kind_of(tensor)
            sizes[kind] = sizes.get(kind, 0) + tensor.size
    return max(sizes, key=sizes.__getitem__, default=SmallKind())


def path_of(tensor: TensorFacts, small_kind: SmallKind, floor: bool, scale: bool) -> int:
    """The path of a tensor in a launch that has kernels of ``small_kind`` in registers."""
    if tensor.size == 0:
        return IDLE
    if not (floor or scale) and (tensor.high_dim == 0 or tensor.selected == 0):
        return IDLE
    if tensor.high_dim == 0:
        return ELEMENTS
    is_small = _is_small(tensor, floor) and small_kind == _small_kind_of(tensor)
    return SMALL_KERNELS if is_small else ANY_KERNEL


def _small_kind_of(tensor: TensorFacts) -> SmallKind:
    """Of the masks of a real 3x3 spectrum only that of all bins but DC has eight columns."""
    return SmallKind(tensor.taps, tensor.high_dim, tensor.shape[2:] == (3, 3) and tensor.high_dim == 8)


def _is_small(tensor: TensorFacts, floor: bool) -> bool:
    """Whether kernels are small, and whole fours of them lie within channels and begin where a group begins."""
    _, first_kernel, kernels_per_channel = tensor.shard
    return (
        tensor.high_dim > 0
        and tensor.taps <= MAX_SMALL_TAPS
        and pitch(tensor.used_words(floor)) >= 4
        and tensor.kernels % 4 == first_kernel % 4 == kernels_per_channel % 4 == 0
    )
