"""Runs a launch: all threads of all its blocks, each with its own registers and place in the program."""

import collections
import copy
from typing import NamedTuple

import numpy as np

from . import access, synchronize  # noqa: F401 they register their instructions
from .execute import At, Reader, Scope, Step, build
from .floats import Approximation
from .global_races import Access, GlobalRaces
from .memory import AccessError, GlobalMemory, check_alignment
from .parse import Kernel, Module, Negated, Operand, PtxError, Variable
from .races import WARP, Order, RaceError
from .shared import SharedMemory
from .synchronize import Together
from .taint import Taint

Array = np.ndarray
Size = tuple[int, int, int]
RUNNING, WAITING, GONE = range(3)
MOST_STEPS = 10_000_000
ALL = slice(None)


class Schedule(NamedTuple):
    """In which order threads run. Without a seed all that can run do, those that are behind first.

    ``errors``: which approximations differ from the exact results, and how.
    """

    seed: int | None = None
    errors: int = 0


LOCKSTEP = Schedule()


class LoadedKernel:
    """A kernel whose every instruction is known, with where its variables lie."""

    def __init__(self, kernel: Kernel, module: Module, addresses: dict[str, int]) -> None:
        self.kernel = kernel
        own = {**module.variables, **kernel.variables}
        shared = {name: variable for name, variable in own.items() if variable.space == "shared"}
        used = " ".join(instruction.text for instruction in kernel.instructions)
        places, self.static_shared, self.dynamic_align = _place_shared(
            {name: variable for name, variable in shared.items() if name in used}
        )
        params = {name: offset for name, (offset, _) in kernel.params.items()}
        self.scope = Scope(kernel, {**addresses, **params, **places})
        self.steps = [build(instruction, self.scope) for instruction in kernel.instructions]
        self.param_bytes = max([0, *(offset + size for offset, size in kernel.params.values())])

    def with_steps(self, steps: list[Step]) -> "LoadedKernel":
        """The same kernel with other steps."""
        other = copy.copy(self)
        other.steps = steps
        return other


class LoadedModule:
    """A module with its global variables."""

    def __init__(self, module: Module) -> None:
        self.memory = GlobalMemory()
        self._variables = {name: v for name, v in module.variables.items() if v.space == "global"}
        addresses = {name: self.memory.allocate(name, v.initial, v.align) for name, v in self._variables.items()}
        self.addresses = addresses
        self.kernels = {name: LoadedKernel(kernel, module, addresses) for name, kernel in module.kernels.items()}

    def reset(self) -> None:
        """Gives the variables their first values."""
        for name, variable in self._variables.items():
            self.memory.store(
                np.array([self.addresses[name]], np.uint64), np.frombuffer(variable.initial, np.uint8)[None]
            )


def _place_shared(variables: dict[str, Variable]) -> tuple[dict[str, int], int, int]:
    """(offsets, bytes in all, alignment of what follows): what the launch sizes comes last."""
    places, end, align = {}, 0, 16
    for name, variable in sorted(variables.items(), key=lambda one: one[1].size is None):
        align = max(align, variable.align)
        end = -(-end // variable.align) * variable.align
        places[name] = end
        end += variable.size or 0
    dynamic = [name for name, variable in variables.items() if variable.size is None]
    if len(dynamic) > 1:
        places.update(dict.fromkeys(dynamic, max(places[name] for name in dynamic)))
    return places, end, align


class Machine:
    """The state of a launch, and how its threads go on."""

    def __init__(
        self, loaded: LoadedKernel, memory: GlobalMemory, grid: Size, block: Size, shared_bytes: int, params: bytes,
        schedule: Schedule = LOCKSTEP, early: bool = False,
    ) -> None:  # fmt: skip
        if len(params) != loaded.param_bytes:
            raise PtxError(f"{loaded.kernel.name} takes {loaded.param_bytes} bytes of parameters, got {len(params)}")
        self._steps = loaded.steps
        self._params = np.frombuffer(params, np.uint8)
        blocks, size = int(np.prod(grid)), int(np.prod(block))
        count = blocks * size
        self.threads = np.arange(count)
        self.special = _special_registers(grid, block)
        self.order = Order(blocks, size)
        self.memory = memory
        self.shared = SharedMemory(self.order, blocks, loaded.static_shared + shared_bytes, schedule.seed or 0)
        self.races = GlobalRaces(self.order, memory)
        self.races.has_waited[:] = not early
        self.approximation = Approximation(schedule.errors)
        self._draw = None if schedule.seed is None else np.random.default_rng(schedule.seed)
        self.taint = Taint(count)
        self._numbers = {name: i for i, name in enumerate(loaded.kernel.registers)}
        self._registers: list[Array | None] = [None] * len(loaded.kernel.registers)
        self._pc = np.zeros(count, np.int64)
        self._state = np.zeros(count, np.int8)
        self._block_size = size
        self.issued: collections.Counter[int] | None = None  # warps by line, if somebody counts
        self._here = 0

    # What steps do with registers and parameters.

    def value(self, number: int) -> Array:
        register = self._registers[number]
        if register is None:
            raise PtxError("reads a register that nothing has written")
        return register

    def assign(self, number: int, at: At, value: Array) -> None:
        old = self._registers[number]
        if at is ALL:
            is_whole = value.shape == self.threads.shape
            self._registers[number] = value if is_whole else np.broadcast_to(value, self.threads.shape)
            return
        new = np.zeros(len(self.threads), value.dtype) if old is None else old.copy()
        new[at] = value
        self._registers[number] = new

    def predicate(self, operand: Operand, at: At) -> Array:
        """The value of a predicate or its negation."""
        if isinstance(operand, Negated):
            return ~self.predicate(operand.register, at)
        return self.value(self._numbers[operand.name])[at]

    def load_params(self, addresses: Array, size: int) -> Array:
        outside = addresses + np.uint64(size) > np.uint64(len(self._params))
        if outside.any():
            raise AccessError("outside of the parameters", addresses, outside)
        check_alignment(addresses, size)
        if len(addresses) and (addresses == addresses[0]).all():
            start = int(addresses[0])
            return np.broadcast_to(self._params[start : start + size], (len(addresses), size))
        return self._params[addresses.astype(np.int64)[:, None] + np.arange(size)]

    def in_some_order(self, count: int) -> list[int]:
        return list(range(count)) if self._draw is None else self._draw.permutation(count).tolist()

    # Where threads go.

    def jump(self, at: At, target: int | Array) -> None:
        self._pc[at] = target

    def leave(self, at: At) -> None:
        if self.shared.have_copies(self.threads[at]):
            raise PtxError("leaves with a copy in flight")
        self._state[at] = GONE

    def wait_for_block(self, at: At) -> list[Array]:
        """Has threads wait; returns the blocks of which all do, and lets them go on."""
        self._state[at] = WAITING
        ready = []
        for block in np.unique(self.order.block[at]):
            own = np.arange(block * self._block_size, (block + 1) * self._block_size)
            if (self._state[own] == GONE).any():
                raise PtxError("a barrier of a block of which threads have gone")
            if (self._state[own] == WAITING).all():
                self._check_same_barrier(own)
                self._go_on(own)
                self.order.pass_block_barrier(own)
                self.races.pass_block_barrier(own)
                ready.append(own)
        return ready

    def _check_same_barrier(self, threads: Array) -> None:
        """A program reaches barriers with whole warps, and each barrier with whole blocks."""
        if (self._pc[threads] != self._here).any():
            raise PtxError("threads of a block wait at different barriers")

    def wait_for_warp(self, at: At, read_mask: Reader, together: Together) -> None:
        """Has threads wait; those of complete masks do what they have come for, and go on."""
        self._state[at] = WAITING
        waiting = np.flatnonzero((self._state == WAITING) & (self._pc == self._here))
        masks = np.broadcast_to(read_mask(self, waiting), waiting.shape)
        lanes = np.uint32(1) << self.order.lane[waiting].astype(np.uint32)
        if not (masks & lanes).all():
            raise PtxError("a thread that its own mask leaves out")
        arrived = np.zeros(int(self.order.warp.max()) + 1, np.uint32)
        np.bitwise_or.at(arrived, self.order.warp[waiting], lanes)
        complete = (arrived[self.order.warp[waiting]] & masks) == masks
        self._refuse_gone(waiting, masks, arrived)
        ready = waiting[complete]
        if len(ready):
            self._go_on(ready)
            together(self, ready, masks[complete])

    def _refuse_gone(self, waiting: Array, masks: Array, arrived: Array) -> None:
        gone = self.threads[self._state == GONE]
        if len(gone) == 0:
            return
        absent = np.zeros(len(arrived), np.uint32)
        np.bitwise_or.at(absent, self.order.warp[gone], np.uint32(1) << self.order.lane[gone].astype(np.uint32))
        if (absent[self.order.warp[waiting]] & masks).any():
            raise PtxError("waits for lanes that have gone")

    def _go_on(self, threads: Array) -> None:
        self._state[threads] = RUNNING
        self._pc[threads] += 1

    # The schedule.

    def run(self) -> list[Access]:
        """Runs all threads to their ends; returns the accesses to writable global memory."""
        with np.errstate(all="ignore"):
            self._run_all()
        return self.races.accesses

    def _run_all(self) -> None:
        steps = 0
        while True:
            ready = np.flatnonzero(self._state == RUNNING)
            if len(ready) == 0:
                break
            steps += self._run_group(self._choose(ready))
            if steps > MOST_STEPS:
                raise PtxError("does not end")
        if (self._state != GONE).any():
            stuck = int(np.flatnonzero(self._state != GONE)[0])
            instruction = self._steps[self._pc[stuck]].instruction
            raise PtxError(f"{self._who(stuck)} waits forever at line {instruction.line}: {instruction.text}")

    def _choose(self, ready: Array) -> Array:
        """All, or in a random schedule some lanes, warps or blocks."""
        if self._draw is None:
            return ready
        by = (ready, self.order.warp[ready], self.order.block[ready])[self._draw.integers(3)]
        kinds = np.unique(by)
        chosen = self._draw.choice(kinds, size=self._draw.integers(1, len(kinds) + 1), replace=False)
        return ready[np.isin(by, chosen)]

    def _run_group(self, group: Array) -> int:
        """Runs threads until each waits or has gone, always those that are behind; returns the number of steps."""
        count = 0
        while True:
            group = group[self._state[group] == RUNNING]
            if len(group) == 0:
                return count
            places = self._pc[group]
            here = places.min()
            chosen = places == here
            ahead = places[~chosen]
            at = ALL if len(group) == len(self.threads) and chosen.all() else group[chosen]
            count += self._run_straight(at, int(here), int(ahead.min()) if len(ahead) else len(self._steps))
            if self._draw is not None and (self._state[group] == WAITING).any():
                return count

    def _run_straight(self, at: At, here: int, end: int) -> int:
        """Runs threads from one place to the next jump or barrier, or to where others are."""
        first = here
        while here < end:
            step = self._steps[here]
            self._here = here
            if self.issued is not None:
                self.issued[step.instruction.line] += len(np.unique(self.order.warp[self.threads[at]]))
            try:
                if step.kind != "plain":
                    self._pc[at] = here
                    self._take(step, at)
                    return here - first + 1
                self._do(step, at)
            except (PtxError, FloatingPointError) as error:
                raise self._located(error, step, at) from error
            here += 1
        self._pc[at] = here
        if here == len(self._steps):
            raise PtxError("runs beyond the end of the kernel")
        return here - first

    def _do(self, step: Step, at: At) -> None:
        if self.taint:
            self.taint.check_guard(step, at)
        if step.guard is not None:
            chosen = step.guard(self, at)
            if not chosen.all():
                at = self.threads[at][chosen]
                if len(at) == 0:
                    return
        if self.taint:
            self.taint.spread(self, step, at)
        step.run(self, at)

    def _take(self, step: Step, at: At) -> None:
        """A jump or barrier; who is not meant goes on behind it."""
        if self.taint:
            self.taint.check_guard(step, at)
            self.taint.spread(self, step, at)
        if step.guard is not None:
            chosen = step.guard(self, at)
            if not chosen.all():
                threads = self.threads[at]
                self._pc[threads[~chosen]] += 1
                at = threads[chosen]
                if len(at) == 0:
                    return
        step.run(self, at)

    def _who(self, thread: int) -> str:
        return f"block {self.order.block[thread]}, thread {thread % self._block_size}"

    def _located(self, error: Exception, step: Step, at: At) -> PtxError:
        position = error.position if isinstance(error, AccessError | RaceError) else 0
        threads = self.threads[at]
        if step.guard is not None and (chosen := step.guard(self, at)).any():
            threads = threads[chosen]
        who = self._who(int(threads[min(position, len(threads) - 1)]))
        return PtxError(f"line {step.instruction.line}, {who}: {error}: {step.instruction.text}")


def _special_registers(grid: Size, block: Size) -> dict[str, Array]:
    count = int(np.prod(block))
    thread = np.tile(np.arange(count), int(np.prod(grid)))
    number = np.repeat(np.arange(int(np.prod(grid))), count)
    registers = {"%laneid": thread % WARP}
    for name, index, sizes in (("tid", thread, block), ("ctaid", number, grid)):
        registers[f"%{name}.x"] = index % sizes[0]
        registers[f"%{name}.y"] = index // sizes[0] % sizes[1]
        registers[f"%{name}.z"] = index // (sizes[0] * sizes[1])
        for axis, size in zip("xyz", sizes, strict=True):
            registers[f"%n{name}.{axis}"] = np.full(len(thread), size)
    return {name: values.astype(np.uint32) for name, values in registers.items()}
