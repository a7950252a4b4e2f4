"""Extents and overlaps of tensors: from shapes and strides, and, in ``check_disjoint``, from addresses.

That one is not asked in a dry run, in which tensors have no memory.
"""

from collections.abc import Callable, Iterator, Sequence

import torch


def extent(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes from the first to the last element of a tensor that is not empty."""
    return (sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1) * dtype.itemsize


def overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """True unless sorted strides step over one another, which every view of dense memory satisfies."""
    reach = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def check_disjoint(tensors: Sequence[torch.Tensor], extents: Sequence[int], where: Callable[[int], str]) -> None:
    """Raises ValueError if two tensors share an element.

    Args:
        tensors: strided tensors, none of them empty.
        extents: of each, see :func:`extent`.
        where: what the error says of tensor ``i`` after the word "grads".
    """
    starts = [tensor.data_ptr() for tensor in tensors]
    if _is_clearly_disjoint(starts, extents):
        return
    ranges = sorted((start, start + size, i) for i, (start, size) in enumerate(zip(starts, extents, strict=True)))
    for i, j in _interleaved(ranges):
        if _share_elements(tensors[i], tensors[j]):
            raise ValueError(
                f"expected gradients without shared memory, got an overlap of grads{where(i)} and grads{where(j)}"
            )


def _is_clearly_disjoint(starts: Sequence[int], extents: Sequence[int]) -> bool:
    """Whether no tensor reaches the next one's start."""
    reach = 0
    for start, size in sorted(zip(starts, extents, strict=True)):
        if start < reach:
            return False
        reach = start + size
    return True


def _interleaved(ranges: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """The pairs whose ranges (start, end, index), sorted, meet."""
    reaching: list[tuple[int, int]] = []  # (end, index) of those that reach past the start at hand
    for start, end, i in ranges:
        reaching = [pair for pair in reaching if pair[0] > start]
        for _, j in reaching:
            yield j, i
        reaching.append((end, i))


def _share_elements(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors with interleaved ranges, such as slices of one matrix, really share an element."""
    return bool(torch.isin(_addresses(a), _addresses(b)).any())


def _addresses(tensor: torch.Tensor) -> torch.Tensor:
    address = torch.full((), tensor.data_ptr(), dtype=torch.int64, device="cpu")
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        address = address.unsqueeze(-1) + torch.arange(size, device="cpu") * (stride * tensor.element_size())
    return address.flatten()
