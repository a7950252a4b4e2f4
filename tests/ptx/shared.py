"""The shared memory of all blocks of a launch.

Bytes that nothing has written are undefined, and those that a copy is in flight to must not be touched.
"""

import numpy as np

from .memory import AccessError
from .races import Order, SharedRaces

Array = np.ndarray


class SharedMemory:
    """``size`` bytes a block."""

    agreed_writes = False
    """Whether several threads may write the same to a byte, as in Triton's kernels all that hold a value do."""

    def __init__(self, order: Order, blocks: int, size: int, seed: int) -> None:
        self._order = order
        self._size = size
        self._data = np.random.default_rng(seed).integers(0, 256, blocks * size, np.uint8)
        self._written = np.zeros(blocks * size, bool)
        self._in_flight = np.zeros(blocks * size, bool)
        self._races = SharedRaces(order, blocks * size)
        self._copies: list[Copy] = []

    def load(self, threads: Array, addresses: Array, size: int) -> tuple[Array, Array]:
        """Bytes [threads, size], random ones where nothing was written, and whether it was."""
        places = self._places(threads, addresses, size)
        self._races.read(threads, places)
        return self._data[places], self._written[places]

    def load_atomic(self, threads: Array, addresses: Array, size: int) -> Array:
        """What an atomic finds; its store afterwards is what can race."""
        places = self._places(threads, addresses, size)
        self._refuse(~self._written[places], "reads shared memory that nothing has written", addresses)
        return self._data[places]

    def store(
        self, threads: Array, addresses: Array, values: Array, atomic: bool = False, defined: Array | bool = True
    ) -> None:
        """``defined``: which bytes do not come of undefined ones."""
        places = self._places(threads, addresses, values.shape[1])
        self._write(threads, places, values, atomic)
        self._written[places] = defined

    def start_copy(self, threads: Array, addresses: Array, values: Array) -> None:
        """These bytes are there after a wait of the same threads."""
        places = self._places(threads, addresses, values.shape[1])
        self._races.write(threads, places, False)
        self._in_flight[places] = True
        self._copies.append(Copy(threads, places, values))

    def commit_copies(self, threads: Array) -> None:
        """What the threads have started since the last time becomes a group."""
        for copy in self._copies:
            copy.groups_after += np.isin(copy.threads, threads)

    def finish_copies(self, threads: Array, groups_left: int | None) -> None:
        """All copies of these threads, or all but those of the last few groups."""
        for copy in self._copies:
            ready = np.isin(copy.threads, threads)
            if groups_left is not None:
                ready &= copy.groups_after > groups_left
            self._in_flight[copy.places[ready]] = False
            self._write(copy.threads[ready], copy.places[ready], copy.values[ready], False)
            copy.keep(~ready)
        self._copies = [copy for copy in self._copies if len(copy.threads)]

    def have_copies(self, threads: Array) -> bool:
        return any(np.isin(threads, copy.threads).any() for copy in self._copies)

    def _write(self, threads: Array, places: Array, values: Array, atomic: bool) -> None:
        before = self.agreed_writes & self._written[places] & (self._data[places] == values)
        self._data[places] = values
        together = self.agreed_writes & (self._data[places] == values)
        self._races.write(threads, places, atomic, before, together)
        self._written[places] = True

    def _places(self, threads: Array, addresses: Array, size: int) -> Array:
        outside = addresses + np.uint64(size) > np.uint64(self._size)
        if outside.any():
            raise AccessError(f"outside of {self._size} bytes of shared memory", addresses, outside)
        first = self._order.block[threads] * self._size + addresses.astype(np.int64)
        places = first[:, None] + np.arange(size)
        self._refuse(self._in_flight[places], "touches shared memory that a copy is in flight to", addresses)
        return places

    @staticmethod
    def _refuse(wrong: Array, what: str, addresses: Array) -> None:
        if wrong.any():
            raise AccessError(what, addresses, wrong.any(1))


class Copy:
    """An asynchronous copy of several threads."""

    def __init__(self, threads: Array, places: Array, values: Array) -> None:
        self.threads, self.places, self.values = threads, places, values
        self.groups_after = np.zeros(len(threads), np.int64)  # groups that were committed since

    def keep(self, chosen: Array) -> None:
        self.threads, self.places, self.values = self.threads[chosen], self.places[chosen], self.values[chosen]
        self.groups_after = self.groups_after[chosen]
