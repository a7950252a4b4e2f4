"""How the memory of a tensor is accessed."""

import numpy as np

from .facts import TensorFacts
from .table import CONTIGUOUS, INTERLEAVED, STRIDED


def access_of(tensor: TensorFacts) -> int:
    """The access that the strides allow, if the address is aligned."""
    offsets = tap_offsets(tensor)
    expected = 1
    contiguous = True
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        contiguous &= size == 1 or stride == expected
        expected *= size
    if contiguous:
        return CONTIGUOUS
    interleaved = len(tensor.shape) > 1 and tensor.strides[1] == 1 and tensor.strides[0] % 4 == 0
    return INTERLEAVED if interleaved and not (offsets % 4).any() else STRIDED


def tap_offsets(tensor: TensorFacts) -> np.ndarray:
    """Offset of every tap from its kernel's first, in elements: int64 [taps]."""
    offsets = np.zeros(1, dtype=np.int64)
    for size, stride in zip(tensor.shape[2:], tensor.strides[2:], strict=True):
        offsets = (offsets[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return offsets
