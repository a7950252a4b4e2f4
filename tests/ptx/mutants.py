"""Kernels without one of their barriers, fences or waits, or whose atomics release nothing: tests notice each."""

from collections.abc import Iterator

import numpy as np

from .execute import At, Scope, Step, build
from .launch import LoadedKernel, Machine
from .parse import Instruction


def is_synchronizing(instruction: Instruction) -> bool:
    waits = instruction.opcode == "cp" and instruction.words[1].startswith("wait")
    depends = instruction.opcode == "griddepcontrol" and instruction.words == ("wait",)
    return waits or depends or instruction.opcode in ("bar", "barrier", "fence", "membar")


def mutants_of(kernel: LoadedKernel) -> Iterator[tuple[str, LoadedKernel]]:
    """(which instruction is gone or weaker, the kernel then)."""
    number = 0
    for index, step in enumerate(kernel.steps):
        for change in _changes(step, kernel.scope):
            number += 1
            steps = list(kernel.steps)
            steps[index] = change
            yield f"{number}: {step.instruction.text}, line {step.instruction.line}", kernel.with_steps(steps)


def _changes(step: Step, scope: Scope) -> list[Step]:
    if is_synchronizing(step.instruction):
        return [_without(step, scope)]
    words = step.instruction.words
    if step.instruction.opcode not in ("atom", "red") or "release" not in words:
        return []
    relaxed = tuple("relaxed" if word == "release" else word for word in words)
    return [build(step.instruction._replace(words=relaxed), scope)]


def _without(step: Step, scope: Scope) -> Step:
    """Does nothing; a barrier that reduces gives each thread what it brought."""
    instruction = step.instruction
    if instruction.opcode not in ("bar", "barrier") or instruction.words[0] != "red":
        return Step(instruction, lambda m, at: None, step.guard)
    target, _, value = instruction.operands
    counts = instruction.words[1] == "popc"
    read, write = scope.reader(value, "pred"), scope.writer(target, "u32" if counts else "pred")

    def run(m: Machine, at: At) -> None:
        own = read(m, at)
        write(m, at, own.astype(np.uint32) if counts else own)

    return Step(instruction, run, step.guard)
