"""The memory of the process as a device's: only what a test has registered may be touched."""

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from .parse import PtxError

Array = np.ndarray
NOTHING, READ, WRITE, UNWRITTEN = range(4)  # what may be done to a byte; the last: written, and then anything


class Region(NamedTuple):
    name: str
    start: int
    data: Array  # uint8
    rights: Array  # uint8, of each byte
    keep: tuple[object, ...]  # own the memory

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class AccessError(PtxError):
    """An access that is not allowed, by the first of the threads that are ``wrong``."""

    def __init__(self, what: str, addresses: Array, wrong: Array) -> None:
        self.position = int(np.flatnonzero(wrong)[0])
        super().__init__(f"{what}, at address {int(addresses[self.position]):#x}")


class GlobalMemory:
    """Regions that do not overlap, which all launches share; with those of ``others``, which may be longer-lived."""

    def __init__(self, *others: "GlobalMemory") -> None:
        self._regions = list({region.start: region for other in others for region in other._regions}.values())
        self._index()

    def allow(self, name: str, start: int, size: int, right: int, keep: object = None) -> None:
        """Lets kernels touch ``size`` bytes from address ``start`` on."""
        if size:
            self._allow(name, start, np.full(size, right, np.uint8), keep)

    def allow_tensor(self, name: str, tensor: torch.Tensor, right: int) -> None:
        """A tensor's elements, and not what lies between them."""
        if tensor.numel() == 0:
            return
        if tensor.is_contiguous():
            self.allow(name, tensor.data_ptr(), tensor.numel() * tensor.element_size(), right, tensor)
            return
        offsets = np.zeros(1, np.int64)
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            if stride:
                offsets = (offsets[:, None] + np.arange(size) * stride).ravel()
        places = (offsets[:, None] * tensor.element_size() + np.arange(tensor.element_size())).ravel()
        rights = np.zeros(int(places.max()) + 1, np.uint8)
        rights[places] = right
        self._allow(name, tensor.data_ptr(), rights, tensor)

    def allocate(self, name: str, content: bytes, align: int) -> int:
        """The address of new memory that kernels may write."""
        room = np.zeros(len(content) + align, np.uint8)
        start = -(-room.ctypes.data // align) * align
        offset = start - room.ctypes.data
        room[offset : offset + len(content)] = np.frombuffer(content, np.uint8)
        self.allow(name, start, len(content), WRITE, room)
        return start

    def _allow(self, name: str, start: int, rights: Array, keep: object) -> None:
        """Where regions overlap, the greatest right counts."""
        end = start + len(rights)
        touched = [region for region in self._regions if region.start < end and start < region.end]
        low, high = min([start, *(r.start for r in touched)]), max([end, *(r.end for r in touched)])
        together = np.zeros(high - low, np.uint8)
        for first, own in [(start, rights), *((region.start, region.rights) for region in touched)]:
            part = together[first - low : first - low + len(own)]
            np.maximum(part, own, out=part)
        data = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
        keeps = (keep, *(one for region in touched for one in region.keep))
        self._regions = [region for region in self._regions if region not in touched]
        self._regions.append(Region("/".join([name, *(r.name for r in touched)]), low, data, together, keeps))
        self._index()

    def _index(self) -> None:
        self._regions.sort(key=lambda region: region.start)
        self._starts = np.array([region.start for region in self._regions], np.uint64)

    def load(self, addresses: Array, size: int) -> Array:
        """Bytes [threads, size]."""
        result = np.empty((len(addresses), size), np.uint8)
        for region, chosen, places in self._find(addresses, size):
            rights = region.rights[places]
            if not ((rights == READ) | (rights == WRITE)).all():
                what = "reads what nothing has written" if (rights == UNWRITTEN).any() else "reads between elements"
                wrong = _of_those(chosen, ~((rights == READ) | (rights == WRITE)).all(1), len(addresses))
                raise AccessError(f"{what} of {region.name}", addresses, wrong)
            result[chosen] = region.data[places]
        return result

    def store(self, addresses: Array, values: Array) -> None:
        """Bytes [threads, size], in the order of the threads."""
        for region, chosen, places in self._find(addresses, values.shape[1]):
            wrong = region.rights[places] < WRITE
            if wrong.any():
                raise AccessError(
                    f"may not write to {region.name}", addresses, _of_those(chosen, wrong.any(1), len(addresses))
                )
            region.rights[places] = WRITE
            region.data[places] = values[chosen]

    def is_writable(self, addresses: Array) -> Array:
        result = np.zeros(len(addresses), bool)
        for region, chosen, places in self._find(addresses, 1):
            result[chosen] = region.rights[places[:, 0]] >= WRITE
        return result

    def _find(self, addresses: Array, size: int) -> Iterator[tuple[Region, Array, Array]]:
        """(region, which of the addresses, places of their bytes in it)."""
        found = np.searchsorted(self._starts, addresses, side="right") - 1
        reach = np.arange(size, dtype=np.int64)
        for index in np.unique(found):
            chosen = np.flatnonzero(found == index)
            if index < 0:
                raise AccessError("touches memory that is not registered", addresses, found == index)
            region = self._regions[index]
            places = (addresses[chosen] - np.uint64(region.start)).astype(np.int64)
            outside = places + size > len(region.data)
            if outside.any():
                wrong = _of_those(chosen, outside, len(addresses))
                raise AccessError(f"touches memory that is not registered, beyond {region.name}", addresses, wrong)
            yield region, chosen, places[:, None] + reach


def _of_those(chosen: Array, wrong: Array, count: int) -> Array:
    result = np.zeros(count, bool)
    result[chosen[wrong]] = True
    return result


def check_alignment(addresses: Array, size: int) -> None:
    """Every access is at a multiple of its size."""
    wrong = addresses % np.uint64(size) != 0
    if wrong.any():
        raise AccessError(f"{size} bytes, not aligned", addresses, wrong)
