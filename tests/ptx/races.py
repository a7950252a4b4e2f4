"""Which accesses are ordered, and those that are not although they should be.

Two accesses of a byte by different threads, one of them a write, are a race unless a barrier of the block lies between
them, or a barrier of their warp, or in global memory a fence and an atomic by which the one's block tells the other's.
That does not depend on the order in which threads happen to run: a missing barrier is found in any.
"""

import numpy as np

from .parse import PtxError

Array = np.ndarray
WARP = 32
NOBODY, MANY = -1, -2


class Order:
    """The clocks of a launch's threads.

    A thread's own clock advances at each barrier of its warp; ``known[t, l]`` is the clock of lane l of its warp up to
    which thread t has waited for it.
    """

    def __init__(self, blocks: int, threads: int) -> None:
        count = blocks * threads
        self.block = np.arange(count) // threads
        self.lane = np.arange(count) % threads % WARP
        self.warp = self.block * -(-threads // WARP) + np.arange(count) % threads // WARP
        self.epoch = np.zeros(count, np.int32)  # barriers that the block has passed
        self.known = np.zeros((count, WARP), np.int32)
        self.known[np.arange(count), self.lane] = 1

    def clock(self, threads: Array) -> Array:
        return self.known[threads, self.lane[threads]]

    def pass_block_barrier(self, threads: Array) -> None:
        self.epoch[threads] += 1

    def pass_warp_barrier(self, threads: Array) -> None:
        """Of whole groups that wait for one another, one for each warp."""
        for warp in np.unique(self.warp[threads]):
            group = threads[self.warp[threads] == warp]
            self.known[group] = self.known[group].max(axis=0)
            self.known[group, self.lane[group]] += 1

    def is_before(self, first: Array, clock: Array, epoch: Array, second: Array) -> Array:
        """Whether what threads of the same blocks did at these clocks is before what the second ones do now."""
        in_warp = (self.warp[first] == self.warp[second]) & (self.known[second, self.lane[first]] >= clock)
        return (first == second) | (epoch < self.epoch[second]) | in_warp


class RaceError(PtxError):
    """``position`` is that of the second thread among those of the instruction."""

    def __init__(self, what: str, first: int, wrong: Array) -> None:
        self.position = int(wrong.any(1).argmax())
        by = "several threads" if first < 0 else f"thread {first} of the launch"
        super().__init__(f"race: {what} what {by} accesses, without a barrier in between")


class SharedRaces:
    """For each byte its last write, and since then the reads of this epoch: of lanes of a warp, or of many."""

    def __init__(self, order: Order, size: int) -> None:
        self._order = order
        self._writer = np.full(size, NOBODY, np.int32)
        self._writer_clock = np.zeros(size, np.int32)
        self._writer_epoch = np.zeros(size, np.int32)
        self._writer_atomic = np.zeros(size, bool)
        self._reader_warp = np.full(size, NOBODY, np.int32)
        self._reader_lanes = np.zeros(size, np.uint32)
        self._reader_clock = np.zeros(size, np.int32)
        self._reader_epoch = np.zeros(size, np.int32)

    def read(self, threads: Array, places: Array) -> None:
        owners = np.broadcast_to(threads[:, None], places.shape)
        self._check_writer(owners, places, "reads")
        order = self._order
        outdated = (self._reader_epoch[places] != order.epoch[owners]) | self._knows_readers(owners, places)
        self._forget_readers(places[outdated])
        self._reader_epoch[places] = order.epoch[owners]
        np.bitwise_or.at(self._reader_lanes, places, np.uint32(1) << order.lane[owners].astype(np.uint32))
        np.maximum.at(self._reader_clock, places, order.known[owners, order.lane[owners]])
        none_yet = self._reader_warp[places] == NOBODY
        self._reader_warp[places[none_yet]] = order.warp[owners[none_yet]]
        several = self._reader_warp[places] != order.warp[owners]
        self._reader_warp[places[several]] = MANY

    def write(
        self, threads: Array, places: Array, atomic: bool, agrees: Array | bool = False, together: Array | bool = False
    ) -> None:
        """``agrees``: where the last write wrote the same; ``together``: where the threads of this one all do."""
        owners = np.broadcast_to(threads[:, None], places.shape)
        self._check_writer(owners, places, "writes", atomic, agrees)
        warps = self._reader_warp[places]
        read_now = (warps != NOBODY) & (self._reader_epoch[places] == self._order.epoch[owners])
        wrong = read_now & ~self._knows_readers(owners, places)
        if wrong.any():
            raise RaceError("writes", MANY, wrong)
        self._forget_readers(places)
        self._writer[places] = owners
        clash = (self._writer[places] != owners) & np.logical_not(together)
        if not atomic and clash.any():
            raise RaceError("writes", MANY, clash)
        self._writer_clock[places] = self._order.clock(threads)[:, None]
        self._writer_epoch[places] = self._order.epoch[owners]
        self._writer_atomic[places] = atomic

    def _check_writer(
        self, owners: Array, places: Array, what: str, atomic: bool = False, agrees: Array | bool = False
    ) -> None:
        writer = self._writer[places]
        clock, epoch = self._writer_clock[places], self._writer_epoch[places]
        wrong = (writer != NOBODY) & ~self._order.is_before(writer, clock, epoch, owners) & np.logical_not(agrees)
        if atomic:
            wrong &= ~self._writer_atomic[places]
        if wrong.any():
            raise RaceError(what, int(writer[wrong][0]), wrong)

    def _knows_readers(self, owners: Array, places: Array) -> Array:
        """Whether the owners have waited for all lanes that have read."""
        order = self._order
        result = self._reader_warp[places] == order.warp[owners]
        others = self._reader_lanes[places] & ~(np.uint32(1) << order.lane[owners].astype(np.uint32))
        asked = result & (others != 0)
        if asked.any():
            waited_for = order.known[owners[asked]] >= self._reader_clock[places[asked]][:, None]
            lanes = (waited_for << np.arange(WARP, dtype=np.uint32)).sum(1, dtype=np.uint32)
            result[asked] = others[asked] & ~lanes == 0
        return result

    def _forget_readers(self, places: Array) -> None:
        self._reader_warp[places] = NOBODY
        self._reader_lanes[places] = 0
        self._reader_clock[places] = 0
