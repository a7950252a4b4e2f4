"""The instructions that make threads wait for one another, or order their accesses."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .execute import At, Reader, Scope, Step, builds, expect, step
from .parse import Immediate, Instruction, Negated, Pair, PtxError, Register

if TYPE_CHECKING:
    from .launch import Machine

Array = np.ndarray
FULL = np.uint32(0xFFFFFFFF)


@builds("bar", "barrier")
def _barrier(instruction: Instruction, scope: Scope) -> Step:
    words = [word for word in instruction.words if word not in ("cta", "aligned")]
    if words == ["warp", "sync"]:
        (mask,) = expect(instruction, 1)
        return warp_step(instruction, scope, scope.reader(mask, "b32"), _pass_warp_barrier)
    if words == ["sync"]:
        (number,) = expect(instruction, 1)
        _check_number(number)
        return step(instruction, scope, lambda m, at: m.wait_for_block(at), "block")
    if words[0] == "red" and words[1] in ("popc", "and", "or"):
        return _reducing_barrier(instruction, scope, words[1])
    raise PtxError("unknown barrier")


def _check_number(number: object) -> None:
    if not isinstance(number, Immediate):
        raise PtxError("unknown form of a barrier")


def _reducing_barrier(instruction: Instruction, scope: Scope, name: str) -> Step:
    target, number, value = expect(instruction, 3)
    _check_number(number)
    if not isinstance(value, Register | Negated):
        raise PtxError("expected a predicate")
    read = scope.reader(value, "pred")
    write = scope.writer(target, "u32" if name == "popc" else "pred")
    reduce = {"popc": lambda x: x.sum(dtype=np.uint32), "and": np.all, "or": np.any}[name]

    def run(m: "Machine", at: At) -> None:
        for block in m.wait_for_block(at):
            write(m, block, np.atleast_1d(reduce(read(m, block))))

    return step(instruction, scope, run, "block")


Together = Callable[["Machine", Array, Array], None]
"""What the threads of whole groups do together, given their masks: one group or none of each warp."""


def warp_step(instruction: Instruction, scope: Scope, mask: Reader, together: Together) -> Step:
    def run(m: "Machine", at: At) -> None:
        m.wait_for_warp(at, mask, together)

    return step(instruction, scope, run, "warp")


def _pass_warp_barrier(m: "Machine", threads: Array, masks: Array) -> None:
    m.order.pass_warp_barrier(threads)


def _by_warp(m: "Machine", threads: Array) -> list[Array]:
    """The positions of each warp's threads."""
    warps = m.order.warp[threads]
    return [np.flatnonzero(warps == warp) for warp in np.unique(warps)]


@builds("redux")
def _reduce(instruction: Instruction, scope: Scope) -> Step:
    sync, name, type_name = instruction.words
    target, value, mask = expect(instruction, 3)
    known = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
             "xor": np.bitwise_xor}  # fmt: skip
    if sync != "sync" or name not in known or type_name not in ("s32", "u32", "b32"):
        raise PtxError("unknown reduction")
    read, write, reduce = scope.reader(value, type_name), scope.writer(target, type_name), known[name].reduce

    def together(m: "Machine", threads: Array, masks: Array) -> None:
        values = np.array(np.broadcast_to(read(m, threads), threads.shape))
        for group in _by_warp(m, threads):
            values[group] = reduce(values[group])
        write(m, threads, values)

    return warp_step(instruction, scope, scope.reader(mask, "b32"), together)


@builds("vote")
def _vote(instruction: Instruction, scope: Scope) -> Step:
    sync, name, type_name = instruction.words
    target, value, mask = expect(instruction, 3)
    if sync != "sync" or (name, type_name) not in (("ballot", "b32"), ("any", "pred"), ("all", "pred")):
        raise PtxError("unknown vote")
    read, write = scope.reader(value, "pred"), scope.writer(target, type_name)

    def together(m: "Machine", threads: Array, masks: Array) -> None:
        votes = np.broadcast_to(read(m, threads), threads.shape)
        result = np.zeros(len(threads), np.uint32 if name == "ballot" else bool)
        for group in _by_warp(m, threads):
            if name == "ballot":
                lanes = m.order.lane[threads[group]][votes[group]]
                result[group] = np.uint32(sum(1 << int(lane) for lane in lanes))
            else:
                result[group] = votes[group].any() if name == "any" else votes[group].all()
        write(m, threads, result)

    return warp_step(instruction, scope, scope.reader(mask, "b32"), together)


@builds("shfl")
def _shuffle(instruction: Instruction, scope: Scope) -> Step:
    sync, mode, type_name = instruction.words
    target, value, by, clamp, mask = expect(instruction, 5)
    if sync != "sync" or mode not in ("bfly", "down", "up", "idx") or type_name != "b32":
        raise PtxError("unknown shuffle")
    targets = [target.first, target.second] if isinstance(target, Pair) else [target, None]
    read, read_by, read_clamp = (scope.reader(x, "b32") for x in (value, by, clamp))
    write, write_inside = scope.writer(targets[0], "b32"), scope.writer(targets[1], "pred")

    def together(m: "Machine", threads: Array, masks: Array) -> None:
        lane = m.order.lane[threads]
        steps, limits = (np.broadcast_to(read(m, threads), threads.shape).astype(int) for read in (read_by, read_clamp))
        source, inside = shuffle_source(mode, lane, steps, limits)
        if not (masks >> source.astype(np.uint32) & np.uint32(1)).all():
            raise PtxError("shuffles from a lane that takes no part")
        values = np.broadcast_to(read(m, threads), threads.shape)
        places = {(int(w), int(n)): i for i, (w, n) in enumerate(zip(m.order.warp[threads], lane, strict=True))}
        warps = m.order.warp[threads]
        order = [places[int(w), int(s)] for w, s in zip(warps, source, strict=True)]
        write(m, threads, values[order])
        write_inside(m, threads, inside)

    return warp_step(instruction, scope, scope.reader(mask, "b32"), together)


def shuffle_source(mode: str, lane: Array, steps: Array, limits: Array) -> tuple[Array, Array]:
    """(lane that is read, whether it is in range) as the PTX ISA has it."""
    steps, clamp, segment = steps & 31, limits & 31, limits >> 8 & 31
    most = lane & segment | clamp & ~segment
    least = lane & segment
    source = {"up": lane - steps, "down": lane + steps, "bfly": lane ^ steps, "idx": least | steps & ~segment}[mode]
    inside = source >= most if mode == "up" else source <= most
    return np.where(inside, source, lane), inside


@builds("fence", "membar")
def _fence(instruction: Instruction, scope: Scope) -> Step:
    words = instruction.words
    scopes = {("gl",), ("sys",), ("acq_rel", "gpu"), ("acq_rel", "sys"), ("sc", "gpu"), ("sc", "sys")}
    if words not in scopes:
        raise PtxError(f"unknown fence .{'.'.join(words)}")
    return step(instruction, scope, lambda m, at: m.races.fence(m.threads[at]))


@builds("griddepcontrol")
def _depend(instruction: Instruction, scope: Scope) -> Step:
    if instruction.words == ("launch_dependents",):
        return step(instruction, scope, lambda m, at: None)
    if instruction.words != ("wait",):
        raise PtxError("unknown dependence")

    def run(m: "Machine", at: At) -> None:
        m.races.has_waited[m.threads[at]] = True

    return step(instruction, scope, run)


@builds("activemask")
def _active(instruction: Instruction, scope: Scope) -> Step:
    raise PtxError("what activemask gives depends on the schedule")
