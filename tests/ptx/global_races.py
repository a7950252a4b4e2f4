"""Races in global memory, found at the end of a launch in the list of its accesses.

Blocks are ordered by what the PTX ISA calls release and acquire patterns: a fence and then an atomic, or an atomic that
is itself a release, tell of what their thread and, up to its last barrier, its block have done; an atomic and then a
fence, or one that is itself an acquire, learn it. A store waits for the branches that lead to it, so it is after the
reads that its thread has been told of, even without the second fence.
"""

from typing import NamedTuple

import numpy as np

from .memory import GlobalMemory
from .parse import PtxError
from .races import Order

Array = np.ndarray


class Knowledge(NamedTuple):
    """What has happened: all of these blocks before an epoch, all of these threads before a time."""

    blocks: dict[int, int]
    threads: dict[int, int]

    def and_that(self, other: "Knowledge") -> "Knowledge":
        blocks, threads = dict(self.blocks), dict(self.threads)
        for mine, theirs in ((blocks, other.blocks), (threads, other.threads)):
            for key, value in theirs.items():
                mine[key] = max(mine.get(key, 0), value)
        return Knowledge(blocks, threads)


NOTHING = Knowledge({}, {})


class Access(NamedTuple):
    """Of the threads of one instruction."""

    time: int
    line: int
    threads: Array
    addresses: Array
    size: int
    writes: bool
    strong: bool
    constant: bool  # promised to read what no thread of the launch writes
    epoch: Array
    clock: Array
    known: Array  # of other lanes
    learned: list[Knowledge | None]
    told: list[Knowledge | None]
    reads_known: list[Knowledge | None]
    early: Array  # before the thread has waited for the launches before


class GlobalRaces:
    def __init__(self, order: Order, memory: GlobalMemory) -> None:
        self._order, self._memory = order, memory
        self.accesses: list[Access] = []
        self._time = 0
        self._learned: dict[int, Knowledge] = {}
        self._told: dict[int, Knowledge] = {}  # by atomics, before a fence
        self._fenced: dict[int, Knowledge] = {}
        self._published: dict[int, Knowledge] = {}  # by address
        self.reads_precede_atomics = False
        """Whether an atomic without a fence waits for its warp's reads, on which its operand depends: what Triton's
        kernels count on."""
        self._reads_told: dict[int, Knowledge] = {}  # by address: what has been read
        self._reads_known: dict[int, Knowledge] = {}
        self.has_waited = np.zeros(len(order.block), bool)

    def access(
        self, line: int, threads: Array, addresses: Array, size: int, writes: bool, strong: bool, constant: bool = False
    ) -> None:
        writable = self._memory.is_writable(addresses)
        self._time += 1
        if not writable.any():
            return
        order = self._order
        self.accesses.append(Access(
            self._time, line, threads, addresses, size, writes, strong, constant, order.epoch[threads],
            order.clock(threads), order.known[threads], _of(self._learned, threads), _of(self._told, threads),
            _of(self._reads_known, threads), ~self.has_waited[threads],
        ))  # fmt: skip

    def fence(self, threads: Array) -> None:
        for thread in threads.tolist():
            self._learn(thread)
            self._fenced[thread] = self._all_of(thread)

    def atomic(self, thread: int, address: int, reads: bool, writes: bool, acquire: bool, release: bool) -> None:
        """One thread's atomic or other strong access, in the order in which they happen."""
        if reads and address in self._published:
            self._told[thread] = self._told.get(thread, NOTHING).and_that(self._published[address])
        if self.reads_precede_atomics:
            self._tell_reads(thread, address)
        if acquire:
            self._learn(thread)
        tells = self._all_of(thread) if release else self._fenced.get(thread)
        if writes and tells is not None:
            self._published[address] = self._published.get(address, NOTHING).and_that(tells)

    def _tell_reads(self, thread: int, address: int) -> None:
        told = self._reads_told.get(address, NOTHING)
        self._reads_known[thread] = self._reads_known.get(thread, NOTHING).and_that(told)
        warp = np.flatnonzero(self._order.warp == self._order.warp[thread])
        self._reads_told[address] = told.and_that(Knowledge({}, dict.fromkeys(warp.tolist(), self._time)))

    def pass_block_barrier(self, threads: Array) -> None:
        known = [self._learned[thread] for thread in threads.tolist() if thread in self._learned]
        if known:
            together = NOTHING
            for one in known:
                together = together.and_that(one)
            self._learned.update(dict.fromkeys(threads.tolist(), together))

    def _learn(self, thread: int) -> None:
        if thread in self._told:
            self._learned[thread] = self._learned.get(thread, NOTHING).and_that(self._told[thread])

    def _all_of(self, thread: int) -> Knowledge:
        mine = Knowledge({int(self._order.block[thread]): int(self._order.epoch[thread])}, {thread: self._time})
        return self._learned.get(thread, NOTHING).and_that(mine)

    def check(self, earlier: list[Access] | None = None) -> None:
        """Raises where two accesses of this launch race, or one with launches before that it did not wait for."""
        _check_overlap(self.accesses, earlier or [])
        for group in _shared_bytes(self.accesses):
            self._check_group(group)

    def _check_group(self, group: list[tuple[Access, int]]) -> None:
        for write in [one for one in group if one[0].writes]:
            for other in group:
                first, second = sorted((write, other), key=lambda one: one[0].time)
                fine = other is write or self._is_fine(*first, *second) or _has_seen(group, first, second)
                if not fine:
                    raise PtxError(f"race in global memory: {_told(*second)}, and {_told(*first)}, in no order")

    def _is_fine(self, first: Access, a: int, second: Access, b: int) -> bool:
        order, one, two = self._order, int(first.threads[a]), int(second.threads[b])
        if first.constant or second.constant:
            return False
        if one == two or (first.strong and second.strong):
            return True
        if order.block[one] == order.block[two]:
            in_warp = order.warp[one] == order.warp[two]
            has_waited = in_warp and second.known[b, order.lane[one]] >= first.clock[a]
            return bool(has_waited or first.epoch[a] < second.epoch[b])
        sources = [second.learned[b]]
        if second.writes and not first.writes:
            sources += [second.told[b], second.reads_known[b]]
        block = int(order.block[one])
        return any(
            known is not None
            and (known.blocks.get(block, 0) > first.epoch[a] or known.threads.get(one, 0) >= first.time)
            for known in sources
        )


def _has_seen(group: list[tuple[Access, int]], first: tuple[Access, int], second: tuple[Access, int]) -> bool:
    """Whether the second thread has itself done an atomic on the byte after the first one's: coherence orders them."""
    thread = second[0].threads[second[1]]
    return first[0].strong and any(
        access.strong and access.threads[at] == thread and first[0].time < access.time < second[0].time
        for access, at in group
    )


def _told(access: Access, position: int) -> str:
    what = "writes" if access.writes else "reads"
    return f"line {access.line} {what} (thread {access.threads[position]} of the launch)"


def _of(known: dict[int, Knowledge], threads: Array) -> list[Knowledge | None]:
    return [known.get(thread) for thread in threads.tolist()] if known else [None] * len(threads)


def _bytes_of(accesses: list[Access]) -> tuple[Array, Array, Array]:
    """(address, index of the access, position in it) of every byte that is touched."""
    parts = []
    for index, access in enumerate(accesses):
        places = (access.addresses[:, None] + np.arange(access.size, dtype=np.uint64)).ravel()
        parts.append((places, np.full(len(places), index), np.repeat(np.arange(len(access.threads)), access.size)))
    if not parts:
        return (np.zeros(0, np.uint64), np.zeros(0, int), np.zeros(0, int))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _shared_bytes(accesses: list[Access]) -> list[list[tuple[Access, int]]]:
    """The accesses of each byte that several threads touch and one of them writes, without repetitions."""
    places, indices, positions = _bytes_of(accesses)
    if not len(places):
        return []
    writes = np.array([access.writes for access in accesses])[indices]
    threads = np.concatenate([np.repeat(access.threads, access.size) for access in accesses])
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=places[order][0] - np.uint64(1)))
    lowest, highest = (f.reduceat(threads[order], starts) for f in (np.minimum, np.maximum))
    constant = np.array([access.constant for access in accesses])[indices]
    several = (lowest != highest) | np.logical_or.reduceat(constant[order], starts)
    suspect = several & np.logical_or.reduceat(writes[order], starts)
    ends = np.append(starts[1:], len(order))
    groups, last = [], None
    for start, end in zip(starts[suspect], ends[suspect], strict=True):
        own = order[start:end]
        same = last is not None and np.array_equal(indices[own], indices[last])
        if not (same and np.array_equal(positions[own], positions[last])):
            groups.append([(accesses[indices[at]], int(positions[at])) for at in own])
        last = own
    return groups


def _check_overlap(accesses: list[Access], earlier: list[Access]) -> None:
    """Nothing that is early touches what earlier launches write, or writes what they touch."""
    early = [access for access in accesses if access.early.any()]
    if not (early and earlier):
        return
    before, before_index, _ = _bytes_of(earlier)
    written = before[np.array([access.writes for access in earlier])[before_index]]
    for access in early:
        chosen = access.addresses[access.early]
        places = (chosen[:, None] + np.arange(access.size, dtype=np.uint64)).ravel()
        if np.isin(places, before if access.writes else written).any():
            raise PtxError(f"line {access.line} does not wait for the launch before, which accesses the same memory")
