"""From an instruction to a step: a function that does it for some threads of a launch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import bits  # noqa: F401 it registers its instructions
from .arithmetic import Operation, dtype_of, operation
from .parse import Immediate, Instruction, Kernel, Negated, Operand, Pair, PtxError, Register, Symbol, Vector, width_of

if TYPE_CHECKING:
    from .launch import Machine

Array = np.ndarray
At = Any  # an array of threads, or the slice of all of them
Reader = Callable[["Machine", At], Array]
Writer = Callable[["Machine", At, Array], None]

SHARED_WINDOW, PARAM_WINDOW, WINDOW = 1 << 60, 1 << 61, 1 << 32
"""Where generic addresses of shared memory and of parameters begin: where no pointer of a process can be."""


class Step(NamedTuple):
    instruction: Instruction
    run: Callable[["Machine", At], None]
    guard: Reader | None
    kind: str = "plain"  # or what the threads do next: branch, exit, block, warp


class Scope:
    """What the names in a kernel stand for."""

    def __init__(self, kernel: Kernel, addresses: dict[str, int]) -> None:
        self.kernel = kernel
        self.addresses = addresses  # in the space of each
        self.numbers = {name: i for i, name in enumerate(kernel.registers)}

    def width(self, register: Register) -> int:
        return self.kernel.registers[register.name]

    def address(self, symbol: Symbol) -> int:
        if symbol.name not in self.addresses:
            raise PtxError(f"unknown name {symbol.name}")
        return self.addresses[symbol.name]

    def label(self, operand: Operand) -> int:
        if not isinstance(operand, Symbol) or operand.name not in self.kernel.labels:
            raise PtxError(f"unknown label {operand}")
        return self.kernel.labels[operand.name]

    def reader(self, operand: Operand, type_name: str, exact: bool = True) -> Reader:
        """Reads an operand as an array of a type; ``exact``: a register must be as wide as the type."""
        dtype = dtype_of(type_name)
        if isinstance(operand, Negated):
            plain = self.reader(operand.register, "pred")
            return lambda m, at: ~plain(m, at)
        if isinstance(operand, Register) and operand.name in self.numbers:
            return self._register_reader(operand, dtype, width_of(type_name), exact)
        if isinstance(operand, Register):
            name = operand.name
            if name not in SPECIAL or width_of(type_name) != 32:
                raise PtxError(f"unknown register {name}")
            return lambda m, at: m.special[name][at].view(dtype)
        value = constant(self.address(operand) if isinstance(operand, Symbol) else operand, type_name)
        return lambda m, at: value

    def _register_reader(self, operand: Register, dtype: np.dtype, width: int, exact: bool) -> Reader:
        number, own = self.numbers[operand.name], self.width(operand)
        if own < width or (own > width and (exact or own == 1)):
            raise PtxError(f"{operand.name} has {own} bits, expected {width}")
        if own == width:
            return lambda m, at: m.value(number)[at].view(dtype)
        low = np.dtype(f"u{width // 8}")
        return lambda m, at: m.value(number)[at].astype(low).view(dtype)

    def writer(self, operand: Operand, type_name: str) -> Writer:
        """Writes a result; a register that is wider than the type gets it extended, by its sign if it has one."""
        if operand is None:
            return lambda m, at, value: None
        if not isinstance(operand, Register) or operand.name not in self.numbers:
            raise PtxError(f"expected a register to write to, got {operand}")
        number, own, width = self.numbers[operand.name], self.width(operand), width_of(type_name)
        if own < width or (own != width and own == 1):
            raise PtxError(f"{operand.name} has {own} bits, expected {width}")
        kept = np.dtype(bool) if own == 1 else np.dtype(f"u{own // 8}")
        if own == width:
            return lambda m, at, value: m.assign(number, at, value.view(kept))
        wide = np.dtype(f"{'i' if type_name[0] == 's' else 'u'}{own // 8}")
        return lambda m, at, value: m.assign(number, at, value.astype(wide).view(kept))


SPECIAL = (
    *(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"),
    "%laneid",
)  # fmt: skip


def constant(operand: Any, type_name: str) -> Array:
    """An array of one element."""
    dtype = dtype_of(type_name)
    width = width_of(type_name)
    if isinstance(operand, Immediate):
        if operand.width not in (None, width) or (operand.width is None and dtype.kind == "f"):
            raise PtxError(f"a literal of another type than .{type_name}")
        operand = operand.bits
    if not isinstance(operand, int):
        raise PtxError(f"expected a value of .{type_name}, got {operand}")
    if dtype.kind == "b":
        return np.array([bool(operand)])
    if not -(1 << (width - 1)) <= operand < 1 << width:
        raise PtxError(f"{operand} has more than {width} bits")
    return np.array([operand % (1 << width)], f"u{width // 8}").view(dtype)


_BUILDERS: dict[str, Callable[[Instruction, Scope], Step]] = {}


def builds(*opcodes: str) -> Callable:
    """Registers who makes the steps of these opcodes."""

    def register(builder: Callable[[Instruction, Scope], Step]) -> Callable[[Instruction, Scope], Step]:
        _BUILDERS.update(dict.fromkeys(opcodes, builder))
        return builder

    return register


def build(instruction: Instruction, scope: Scope) -> Step:
    """The step of an instruction; raises for what is not known."""
    try:
        if (known := operation(instruction.opcode, instruction.words)) is not None:
            return _arithmetic_step(instruction, scope, known)
        if instruction.opcode not in _BUILDERS:
            raise PtxError(f"unknown opcode {instruction.opcode}")
        return _BUILDERS[instruction.opcode](instruction, scope)
    except PtxError as error:
        raise PtxError(f"line {instruction.line}: {error}: {instruction.text}") from None


def step(instruction: Instruction, scope: Scope, run: Callable[["Machine", At], None], kind: str = "plain") -> Step:
    guard = instruction.guard
    return Step(instruction, run, None if guard is None else scope.reader(guard, "pred"), kind)


def expect(instruction: Instruction, *counts: int) -> tuple[Operand, ...]:
    """The operands, of which there must be so many."""
    if len(instruction.operands) not in counts:
        raise PtxError(f"expected {counts} operands")
    return instruction.operands


def _arithmetic_step(instruction: Instruction, scope: Scope, known: Operation) -> Step:
    target, *sources = expect(instruction, 1 + len(known.operands))
    relaxed = instruction.opcode == "cvt"
    readers = [scope.reader(s, t, exact=not relaxed) for s, t in zip(sources, known.operands, strict=True)]
    targets = [target.first, target.second] if isinstance(target, Pair) else [target]
    if len(targets) > len(known.results):
        raise PtxError("expected one result")
    writers = [scope.writer(t, name) for t, name in zip(targets, known.results, strict=False)]
    compute, approximate, several = known.compute, known.approximate, len(known.results) > 1
    if not several and not approximate:
        (write,) = writers

        def run_one(m: "Machine", at: At) -> None:
            write(m, at, compute(*[read(m, at) for read in readers]))

        return step(instruction, scope, run_one)

    def run(m: "Machine", at: At) -> None:
        values = [read(m, at) for read in readers]
        results = compute(m.approximation, *values) if approximate else compute(*values)
        for write, result in zip(writers, results if several else (results,), strict=False):
            write(m, at, result)

    return step(instruction, scope, run)


@builds("mov")
def _move(instruction: Instruction, scope: Scope) -> Step:
    target, source = expect(instruction, 2)
    (type_name,) = instruction.words
    if isinstance(target, Vector) or isinstance(source, Vector):
        return _pack(instruction, scope, type_name, target, source)
    read, write = scope.reader(source, type_name), scope.writer(target, type_name)
    return step(instruction, scope, lambda m, at: write(m, at, read(m, at)))


def _pack(instruction: Instruction, scope: Scope, type_name: str, target: Operand, source: Operand) -> Step:
    """A register to a vector of its parts, the lowest first, or back."""
    vector = target if isinstance(target, Vector) else source
    if not isinstance(vector, Vector) or isinstance(target, Vector) == isinstance(source, Vector):
        raise PtxError("expected one vector")
    part = f"b{width_of(type_name) // len(vector.elements)}"
    dtype, whole = dtype_of(part), dtype_of(type_name)
    if vector is source:
        readers, write = [scope.reader(e, part) for e in vector.elements], scope.writer(target, type_name)

        def pack(m: "Machine", at: At) -> None:
            parts = np.broadcast_arrays(*[read(m, at) for read in readers])
            write(m, at, np.stack(parts, axis=-1).view(whole)[..., 0])

        return step(instruction, scope, pack)
    read, writers = scope.reader(source, type_name), [scope.writer(e, part) for e in vector.elements]

    def unpack(m: "Machine", at: At) -> None:
        parts = np.ascontiguousarray(read(m, at))[..., None].view(dtype)
        for i, write in enumerate(writers):
            write(m, at, np.ascontiguousarray(parts[..., i]))

    return step(instruction, scope, unpack)


@builds("cvta")
def _convert_address(instruction: Instruction, scope: Scope) -> Step:
    target, source = expect(instruction, 2)
    words = list(instruction.words)
    type_name = words.pop()
    back = words[0] == "to"
    (space,) = words[back:]
    window = {"shared": SHARED_WINDOW, "param": PARAM_WINDOW, "global": 0}.get(space)
    if window is None or type_name != "u64":
        raise PtxError(f"unknown space .{space}")
    read, write = scope.reader(source, type_name), scope.writer(target, type_name)
    shift = np.uint64(window)

    def run(m: "Machine", at: At) -> None:
        address = read(m, at)
        if back and window and not ((address >= shift) & (address < shift + np.uint64(WINDOW))).all():
            raise PtxError(f"not an address in .{space}")
        write(m, at, address - shift if back else address + shift)

    return step(instruction, scope, run)


@builds("isspacep")
def _is_in_space(instruction: Instruction, scope: Scope) -> Step:
    target, source = expect(instruction, 2)
    (space,) = instruction.words
    if space not in ("global", "shared"):
        raise PtxError(f"unknown space .{space}")
    read, write = scope.reader(source, "u64"), scope.writer(target, "pred")

    def run(m: "Machine", at: At) -> None:
        window = read(m, at) >> np.uint64(60)
        write(m, at, window == (0 if space == "global" else 1))

    return step(instruction, scope, run)


@builds("bra", "ret", "exit", "brx")
def _jump(instruction: Instruction, scope: Scope) -> Step:
    if instruction.opcode in ("ret", "exit"):
        expect(instruction, 0)
        return step(instruction, scope, lambda m, at: m.leave(at), "exit")
    if instruction.opcode == "brx":
        return _indexed_jump(instruction, scope)
    (label,) = expect(instruction, 1)
    if set(instruction.words) - {"uni"}:
        raise PtxError(f"unknown .{'.'.join(instruction.words)}")
    target = scope.label(label)
    return step(instruction, scope, lambda m, at: m.jump(at, target), "branch")


def _indexed_jump(instruction: Instruction, scope: Scope) -> Step:
    index, table = expect(instruction, 2)
    if not isinstance(table, Symbol) or table.name not in scope.kernel.targets or instruction.words[0] != "idx":
        raise PtxError("unknown table of labels")
    targets = np.array([scope.kernel.labels[name] for name in scope.kernel.targets[table.name]])
    read = scope.reader(index, "u32")
    return step(instruction, scope, lambda m, at: m.jump(at, targets[read(m, at)]), "branch")


@builds("trap")
def _trap(instruction: Instruction, scope: Scope) -> Step:
    def run(m: "Machine", at: At) -> None:
        raise PtxError("trap")

    return step(instruction, scope, run)
