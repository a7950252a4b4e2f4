"""The instructions that touch memory."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .arithmetic import dtype_of
from .execute import PARAM_WINDOW, SHARED_WINDOW, WINDOW, At, Reader, Scope, Step, builds, expect, step
from .memory import check_alignment
from .parse import Address, Immediate, Instruction, Operand, PtxError, Register, Vector, width_of
from .races import WARP
from .synchronize import warp_step
from .taint import WHOLE

if TYPE_CHECKING:
    from .launch import Machine

Array = np.ndarray


class Kind(NamedTuple):
    """What the words of an access say."""

    space: str  # "" for a generic address
    strong: bool
    acquire: bool
    release: bool
    constant: bool
    count: int  # of elements
    type: str


_CACHING = {"ca", "cg", "cs", "lu", "cv", "wb", "wt"}
_HINTS = {
    "L1~evict_first", "L1~evict_last", "L1~evict_normal", "L1~no_allocate", "L2~64B", "L2~128B", "L2~256B",
}  # fmt: skip


def _kind(words: tuple[str, ...]) -> Kind:
    *rest, type_name = words
    left = set(rest)
    if len(left) != len(rest):
        raise PtxError("a word comes twice")
    space = [name for name in ("global", "shared", "param", "const") if name in left]
    count = [int(name[1:]) for name in ("v2", "v4", "v8") if name in left]
    orders = left & {"relaxed", "acquire", "release", "acq_rel", "volatile"}
    scoped = left & {"gpu", "sys"}
    unknown = left - set(space) - {"v2", "v4", "v8", "nc", "weak"} - orders - scoped - _CACHING - _HINTS
    if unknown or len(space) > 1 or len(orders) > 1:
        raise PtxError(f"unknown .{'.'.join(sorted(unknown or left))}")
    return Kind(
        space[0] if space else "",
        bool(orders),
        bool(orders & {"acquire", "acq_rel"}),
        bool(orders & {"release", "acq_rel"}),
        "nc" in left,
        count[0] if count else 1,
        type_name,
    )


def _address_reader(operand: Operand, scope: Scope) -> Reader:
    if not isinstance(operand, Address):
        raise PtxError(f"expected an address, got {operand}")
    if isinstance(operand.base, Register):
        width = scope.width(operand.base)
        read = scope.reader(operand.base, f"u{width}")
        own = np.array([operand.offset % (1 << width)], f"u{width // 8}")
        return lambda m, at: (read(m, at) + own).astype(np.uint64)
    start = 0 if operand.base is None else scope.address(operand.base)
    fixed = np.array([(start + operand.offset) % (1 << 64)], np.uint64)
    return lambda m, at: np.broadcast_to(fixed, m.threads[at].shape)


def _elements(operand: Operand, count: int) -> tuple[Operand, ...]:
    elements = operand.elements if isinstance(operand, Vector) else (operand,)
    if len(elements) != count:
        raise PtxError(f"expected {count} elements")
    return elements


@builds("ld")
def _load(instruction: Instruction, scope: Scope) -> Step:
    target, source = expect(instruction, 2)
    kind = _kind(instruction.words)
    read_address = _address_reader(source, scope)
    elements = _elements(target, kind.count)
    writers = [scope.writer(element, kind.type) for element in elements]
    names = [element.name if isinstance(element, Register) else "" for element in elements]
    size, dtype = width_of(kind.type) // 8, dtype_of(kind.type)
    line = instruction.line

    def run(m: "Machine", at: At) -> None:
        values, undefined = load(m, line, m.threads[at], read_address(m, at), size * kind.count, kind)
        for i, write in enumerate(writers):
            own = slice(i * size, (i + 1) * size)
            write(m, at, np.ascontiguousarray(values[:, own]).view(dtype)[:, 0])
            if undefined is not None:
                m.taint.mark(names[i], at, _halves(undefined[:, own]))

    return step(instruction, scope, run)


@builds("st")
def _store(instruction: Instruction, scope: Scope) -> Step:
    target, source = expect(instruction, 2)
    kind = _kind(instruction.words)
    read_address = _address_reader(target, scope)
    elements = _elements(source, kind.count)
    readers = [scope.reader(element, kind.type, exact=False) for element in elements]
    size, line = width_of(kind.type) // 8, instruction.line

    def run(m: "Machine", at: At) -> None:
        threads = m.threads[at]
        values = np.empty((len(threads), kind.count, size), np.uint8)
        for i, read in enumerate(readers):
            value = np.ascontiguousarray(np.broadcast_to(read(m, at), threads.shape))
            values[:, i] = value.view(np.uint8).reshape(-1, size)
        defined = None
        if m.taint:
            defined = ~np.concatenate([m.taint.bytes_of(e, at, len(threads), size) for e in elements], axis=1)
        store(m, line, threads, read_address(m, at), values.reshape(len(threads), -1), kind, defined)

    return step(instruction, scope, run)


def _halves(undefined: Array) -> Array:
    """A mark for ``Taint`` of bytes [threads, size]."""
    halves = undefined if undefined.shape[1] == 1 else undefined.reshape(len(undefined), -1, 2).any(2)
    if halves.shape[1] == 1:  # which the register may be wider than
        return halves[:, 0] * WHOLE
    return (halves << np.arange(halves.shape[1], dtype=np.uint8)).sum(1, dtype=np.uint8)


def load(
    m: "Machine", line: int, threads: Array, addresses: Array, size: int, kind: Kind
) -> tuple[Array, Array | None]:
    """Bytes [threads, size], and which of them are undefined, if any."""
    check_alignment(addresses, size)
    result = np.empty((len(threads), size), np.uint8)
    undefined = None
    for space, chosen, places in _by_space(addresses, kind.space):
        own = threads[chosen]
        if space == "shared":
            result[chosen], written = m.shared.load(own, places, size)
            if not written.all():
                undefined = np.zeros(result.shape, bool)
                undefined[chosen] = ~written
        elif space == "param":
            result[chosen] = m.load_params(places, size)
        else:
            result[chosen] = m.memory.load(places, size)
            if kind.strong:
                for thread, place in zip(own.tolist(), places.tolist(), strict=True):
                    m.races.atomic(thread, place, True, False, kind.acquire, False)
            m.races.access(line, own, places, size, False, kind.strong, kind.constant)
    return result, undefined


def store(
    m: "Machine", line: int, threads: Array, addresses: Array, values: Array, kind: Kind, defined: Array | None = None
) -> None:
    size = values.shape[1]
    check_alignment(addresses, size)
    for space, chosen, places in _by_space(addresses, kind.space):
        own = threads[chosen]
        if space == "shared":
            m.shared.store(own, places, values[chosen], defined=True if defined is None else defined[chosen])
        elif defined is not None and not defined[chosen].all():
            raise PtxError("stores what comes of shared memory that nothing has written")
        elif space == "param":
            raise PtxError("writes to a parameter")
        else:
            m.races.access(line, own, places, size, True, kind.strong)
            m.memory.store(places, values[chosen])
            if kind.strong:
                for thread, place in zip(own.tolist(), places.tolist(), strict=True):
                    m.races.atomic(thread, place, False, True, False, kind.release)


def _by_space(addresses: Array, space: str) -> list[tuple[str, Array | slice, Array]]:
    """(space, which of the threads, their addresses in it)."""
    if space:
        return [(space, slice(None), addresses)]
    window = addresses >> np.uint64(60)
    parts = []
    for name, start in (("", 0), ("shared", SHARED_WINDOW), ("param", PARAM_WINDOW)):
        chosen = window == start >> 60
        if chosen.any():
            parts.append((name, chosen, addresses[chosen] - np.uint64(start)))
    if sum(int(chosen.sum()) for _, chosen, _ in parts) < len(addresses) or any(
        name and (places >= WINDOW).any() for name, _, places in parts
    ):
        raise PtxError("an address in no space")
    return parts


def _wrap_increment(old: int, value: int) -> int:
    return 0 if old >= value else old + 1


_ATOMICS: dict[str, Callable[[int, int], int]] = {
    "add": lambda old, value: old + value,
    "inc": _wrap_increment,
    "exch": lambda old, value: value,
    "max": max,
    "min": min,
    "or": lambda old, value: old | value,
    "and": lambda old, value: old & value,
}


@builds("atom", "red")
def _atomic(instruction: Instruction, scope: Scope) -> Step:
    *words, name, type_name = instruction.words
    kind = _kind((*words, type_name))
    is_compare = name == "cas" and instruction.opcode == "atom"
    if not (is_compare or name in _ATOMICS) or type_name not in ("u32", "s32", "b32", "u64", "s64", "b64"):
        raise PtxError(f"unknown atomic .{name}.{type_name}")
    operands = expect(instruction, (2 if instruction.opcode == "red" else 3) + is_compare)
    target = operands[0] if instruction.opcode == "atom" else None
    address, *values = operands[instruction.opcode == "atom" :]
    read_address, write = _address_reader(address, scope), scope.writer(target, type_name)
    readers = [scope.reader(value, type_name) for value in values]
    dtype, size = dtype_of(type_name), width_of(type_name) // 8

    def update(old: int, given: list[int]) -> int:
        if is_compare:
            return given[1] if old == given[0] else old
        return _ATOMICS[name](old, given[0])

    def run(m: "Machine", at: At) -> None:
        threads, addresses = m.threads[at], read_address(m, at)
        check_alignment(addresses, size)
        given = [np.broadcast_to(read(m, at), threads.shape) for read in readers]
        found = np.empty(len(threads), dtype)
        for i in m.in_some_order(len(threads)):
            one = slice(i, i + 1)

            def change(old: int, i: int = i) -> int:
                return update(old, [int(column[i]) for column in given])

            found[i] = _change(m, instruction.line, threads[one], addresses[one], dtype, kind, change)
        write(m, at, found)

    return step(instruction, scope, run)


def _change(
    m: "Machine", line: int, thread: Array, address: Array, dtype: np.dtype, kind: Kind, change: Callable[[int], int]
) -> int:
    """The atomic of one thread; returns what was there."""
    ((space, _, place),) = _by_space(address, kind.space)
    if space == "shared":
        old = int(m.shared.load_atomic(thread, place, dtype.itemsize).view(dtype)[0, 0])
    else:
        old = int(m.memory.load(place, dtype.itemsize).view(dtype)[0, 0])
    bits = change(old) % (1 << 8 * dtype.itemsize)
    new = np.frombuffer(bits.to_bytes(dtype.itemsize, "little"), np.uint8)[None]
    if space == "shared":
        m.shared.store(thread, place, new, atomic=True)
    else:
        m.races.atomic(int(thread[0]), int(place[0]), True, True, kind.acquire, kind.release)
        m.races.access(line, thread, place, dtype.itemsize, True, True)
        m.memory.store(place, new)
    return old


@builds("cp")
def _copy(instruction: Instruction, scope: Scope) -> Step:
    words = instruction.words
    if words[0] != "async":
        raise PtxError("unknown copy")
    if words[1:] == ("wait_all",):
        return step(instruction, scope, lambda m, at: m.shared.finish_copies(m.threads[at], None))
    if words[1:] == ("commit_group",):
        return step(instruction, scope, lambda m, at: m.shared.commit_copies(m.threads[at]))
    if words[1:] == ("wait_group",):
        (left,) = instruction.operands
        if not isinstance(left, Immediate):
            raise PtxError("expected a number of groups")
        return step(instruction, scope, lambda m, at: m.shared.finish_copies(m.threads[at], left.bits))
    return _asynchronous_copy(instruction, scope)


def _asynchronous_copy(instruction: Instruction, scope: Scope) -> Step:
    target, source, count = expect(instruction, 3)
    cache, *spaces = instruction.words[1:]
    if cache not in ("ca", "cg") or spaces[:2] != ["shared", "global"] or set(spaces[2:]) - _HINTS:
        raise PtxError("unknown copy")
    if not isinstance(count, Immediate) or count.bits not in ((16,) if cache == "cg" else (4, 8, 16)):
        raise PtxError("unknown size of a copy")
    read_to, read_from = _address_reader(target, scope), _address_reader(source, scope)
    line, size = instruction.line, count.bits
    kind = Kind("global", False, False, False, False, 1, "b8")

    def run(m: "Machine", at: At) -> None:
        threads, to = m.threads[at], read_to(m, at)
        check_alignment(to, size)
        values, _ = load(m, line, threads, read_from(m, at), size, kind)
        m.shared.start_copy(threads, to, values)

    return step(instruction, scope, run)


@builds("ldmatrix")
def _load_matrices(instruction: Instruction, scope: Scope) -> Step:
    """8x8 matrices of 16 bits, whose rows lie where the threads say, eight for each matrix."""
    target, source = expect(instruction, 2)
    *words, count, space, type_name = instruction.words
    if (
        words != ["sync", "aligned", "m8n8"]
        or (space, type_name) != ("shared", "b16")
        or count not in ("x1", "x2", "x4")
    ):
        raise PtxError("unknown matrices")
    read_address = _address_reader(source, scope)
    writers = [scope.writer(element, "b32") for element in _elements(target, int(count[1:]))]
    kind = Kind("shared", False, False, False, False, 1, "b32")

    def together(m: "Machine", threads: Array, masks: Array) -> None:
        lanes = np.arange(WARP)
        rows = read_address(m, threads).reshape(-1, WARP)
        for i, write in enumerate(writers):
            own = rows[:, 8 * i + lanes // 4]
            check_alignment(own.ravel(), 16)
            places = (own + (lanes % 4 * 4).astype(np.uint64)).ravel()
            values, undefined = load(m, instruction.line, threads, places, 4, kind)
            if undefined is not None:
                raise PtxError("loads matrices from shared memory that nothing has written")
            write(m, threads, values.view(np.uint32)[:, 0])

    return warp_step(instruction, scope, scope.reader(Immediate(0xFFFFFFFF, None), "b32"), together)
