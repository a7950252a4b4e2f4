"""Values that come of shared memory that nothing has written: they may be computed with, but must decide nothing.

Compilers load before they know whether the value counts, and `a || b` may become a bitwise or. So such values are
random and their registers are marked; a mark spreads to what is computed with it, unless the other operand decides.
In shared memory they stay undefined. To branch on one, to use it as an address or to store it in global memory is an
error.
"""

from typing import TYPE_CHECKING

import numpy as np

from .parse import Address, Instruction, Negated, Operand, Pair, PtxError, Register, Vector

if TYPE_CHECKING:
    from .execute import At, Step
    from .launch import Machine

Array = np.ndarray
_WITHOUT_RESULT = ("st", "red", "bra", "brx", "ret", "exit", "cp", "fence", "membar", "griddepcontrol", "trap")
_USES = ("st", "red", "atom", "bra", "brx", "cp", "bar", "barrier", "shfl", "vote", "redux", "ld")


def registers_of(instruction: Instruction) -> tuple[list[str], list[str]]:
    """(names of the registers that are written, of those that are read)."""
    operands = list(instruction.operands)
    targets = [] if instruction.opcode in _WITHOUT_RESULT or len(operands) < 2 else _names(operands.pop(0))
    if instruction.opcode in ("bar", "barrier") and instruction.words[0] != "red":
        targets = []
    return targets, [name for operand in operands for name in _names(operand)]


def _names(operand: Operand) -> list[str]:
    if isinstance(operand, Register):
        return [operand.name]
    parts = {
        Negated: lambda o: [o.register],
        Address: lambda o: [o.base],
        Vector: lambda o: list(o.elements),
        Pair: lambda o: [o.first, o.second],
    }
    return [name for part in parts.get(type(operand), lambda o: [])(operand) for name in _names(part)]


HALVES = 4  # of 16 bits, of the widest register
WHOLE = np.uint8(2**HALVES - 1)


class Taint:
    """Which halves of 16 bits of which registers of which threads are undefined: a bit for each, the lowest first."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._marks: dict[str, Array] = {}

    def __bool__(self) -> bool:
        return bool(self._marks)

    def mark(self, name: str, at: "At", undefined: Array) -> None:
        if name not in self._marks:
            if not undefined.any():
                return
            self._marks[name] = np.zeros(self._threads, np.uint8)
        self._marks[name][at] = undefined
        if not self._marks[name].any():
            del self._marks[name]

    def check_guard(self, step: "Step", at: "At") -> None:
        guard = step.instruction.guard
        if guard is not None and self._of(_names(guard), at).any():
            raise PtxError("depends on shared memory that nothing has written")

    def spread(self, m: "Machine", step: "Step", at: "At") -> None:
        """Before a step is done."""
        instruction = step.instruction
        targets, sources = registers_of(instruction)
        if instruction.opcode == "st":  # which tells shared memory
            sources = _names(instruction.operands[0])
        undefined = self._of(sources, at)
        if undefined.any():
            if instruction.opcode in _USES:
                raise PtxError("uses shared memory that nothing has written")
            if (parts := self._parts(instruction, at)) is not None:
                for name, part in zip(targets, parts, strict=True):
                    self.mark(name, at, part)
                return
            undefined = (undefined > 0) & ~self._decided(m, instruction, at)
        for name in targets:
            self.mark(name, at, undefined * WHOLE)

    def bytes_of(self, operand: Operand, at: "At", count: int, size: int) -> Array:
        """Which of a register's lowest bytes are undefined: [threads, size]."""
        halves = np.broadcast_to(self._of(_names(operand), at), count)
        return (halves[:, None] >> np.arange(size, dtype=np.uint8) // np.uint8(2) & np.uint8(1)).astype(bool)

    def _of(self, names: list[str], at: "At") -> Array:
        found = [self._marks[name][at] for name in names if name in self._marks]
        return np.bitwise_or.reduce(found) if found else np.zeros(1, np.uint8)

    def _parts(self, instruction: Instruction, at: "At") -> list[Array] | None:
        """The marks of the results of what moves halves about, and computes nothing of two of them."""
        target, *sources = instruction.operands
        if instruction.opcode == "mov":
            width = HALVES if instruction.words[0] in ("b64", "u64", "s64", "f64") else HALVES // 2
            if isinstance(target, Vector):
                part = width // len(target.elements)
                whole = self._of(_names(sources[0]), at)
                return [whole >> np.uint8(i * part) & np.uint8(2**part - 1) for i, e in enumerate(target.elements) if e]
            elements = sources[0].elements if isinstance(sources[0], Vector) else sources
            part = width // len(elements)
            marks = [
                (self._of(_names(e), at) & np.uint8(2**part - 1)) << np.uint8(i * part) for i, e in enumerate(elements)
            ]
            return [np.bitwise_or.reduce(np.broadcast_arrays(*marks))]
        if instruction.opcode == "cvt" and "x2" in instruction.words[-2]:
            upper, lower = (self._of(_names(source), at) > 0 for source in sources)
            return [(upper * np.uint8(2) | lower * np.uint8(1)).astype(np.uint8)]
        return None

    def _decided(self, m: "Machine", instruction: Instruction, at: "At") -> Array:
        """Where an operand that is defined makes up for one that is not."""
        operands = instruction.operands[1:]
        marked = [self._of(_names(operand), at) > 0 for operand in operands]
        if instruction.words == ("pred",) and instruction.opcode in ("and", "or"):
            strong = instruction.opcode == "or"
            found = [(m.predicate(o, at) == strong) & ~mark for o, mark in zip(operands, marked, strict=True)]
            return np.logical_or.reduce(found)
        if instruction.opcode == "selp":
            return ~(np.where(m.predicate(operands[2], at), marked[0], marked[1]) | marked[2])
        return np.zeros(1, bool)
