"""Instructions on bits: logic, shifts, and parts of registers."""

import numpy as np

from .arithmetic import BITS, INTEGERS, Array, Operation, Words, builds, dtype_of, only
from .parse import width_of


@builds("and", "or", "xor", "not")
def _logic(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    only(type_name, "pred", *BITS)
    compute = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}[opcode]
    return Operation((type_name,), (type_name,) * (1 if opcode == "not" else 2), compute)


@builds("shl", "shr")
def _shift(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    only(type_name, *BITS, *(() if opcode == "shl" else INTEGERS))
    width = width_of(type_name)
    most = np.uint32(width - 1)

    def shift(a: Array, count: Array) -> Array:
        amount = np.minimum(count, most).astype(a.dtype)
        if opcode == "shr" and type_name[0] == "s":
            return a >> amount
        result = a << amount if opcode == "shl" else a >> amount
        return np.where(count > most, a.dtype.type(0), result)

    return Operation((type_name,), (type_name, "u32"), shift)


@builds("shf")
def _funnel(opcode: str, words: Words) -> Operation:
    side, mode = words.must("l", "r"), words.must("wrap", "clamp")
    only(words.type(), "b32")

    def shift(low: Array, high: Array, count: Array) -> Array:
        count = count & np.uint32(31) if mode == "wrap" else np.minimum(count, np.uint32(32))
        both = high.astype(np.uint64) << np.uint64(32) | low
        if side == "r":
            return (both >> count.astype(np.uint64)).astype(np.uint32)
        return ((both << count.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)

    return Operation(("b32",), ("b32", "b32", "u32"), shift)


@builds("lop3")
def _lop3(opcode: str, words: Words) -> Operation:
    only(words.type(), "b32")

    def logic(a: Array, b: Array, c: Array, table: Array) -> Array:
        (bits,) = np.unique(table)
        result = np.zeros_like(a)
        for i in range(8):
            if int(bits) >> i & 1:
                terms = [x if i >> (2 - n) & 1 else ~x for n, x in enumerate((a, b, c))]
                result = result | terms[0] & terms[1] & terms[2]
        return result

    return Operation(("b32",), ("b32",) * 4, logic)


@builds("prmt")
def _permute(opcode: str, words: Words) -> Operation:
    only(words.type(), "b32")

    def permute(a: Array, b: Array, selector: Array) -> Array:
        both = b.astype(np.uint64) << np.uint64(32) | a
        result = np.uint32(0)
        for i in range(4):
            choice = selector >> np.uint32(4 * i) & np.uint32(15)
            byte = (both >> (choice & np.uint32(7)).astype(np.uint64) * np.uint64(8)).astype(np.uint32) & np.uint32(255)
            signs = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            result = result | np.where(choice & np.uint32(8), signs, byte) << np.uint32(8 * i)
        return result

    return Operation(("b32",), ("b32", "b32", "b32"), permute)


@builds("bfe")
def _extract(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    only(type_name, "u32", "s32", "u64", "s64")
    width = width_of(type_name)

    def extract(a: Array, start: Array, count: Array) -> Array:
        start, count = (start & np.uint32(255)).astype(int), (count & np.uint32(255)).astype(int)
        is_signed = type_name[0] == "s"
        bits = np.zeros(np.broadcast_shapes(a.shape, start.shape, count.shape), a.dtype)
        unsigned = a.view(f"u{width // 8}")
        last = np.minimum(start + count - 1, width - 1)
        sign = (unsigned >> last.astype(unsigned.dtype) & unsigned.dtype.type(1)) * ((count > 0) & is_signed)
        for i in range(int(count.max()) if not is_signed else width):
            inside = (i < count) & (start + i < width)
            bit = unsigned >> np.minimum(start + i, width - 1).astype(unsigned.dtype) & unsigned.dtype.type(1)
            if i < width:
                bits = bits | (np.where(inside, bit, sign) << unsigned.dtype.type(i)).view(a.dtype)
        return bits

    return Operation((type_name,), (type_name, "u32", "u32"), extract)


@builds("bfi")
def _insert(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    only(type_name, "b32", "b64")
    width = width_of(type_name)
    u = dtype_of(type_name).type

    def insert(a: Array, b: Array, start: Array, count: Array) -> Array:
        start, count = start & np.uint32(255), np.minimum(count & np.uint32(255), np.uint32(width))
        ones = np.where(count == width, u(2**width - 1), (u(1) << count.astype(u)) - u(1))
        shift = np.minimum(start, np.uint32(width - 1)).astype(u)
        mask = np.where(start >= width, u(0), ones << shift)
        return b & ~mask | a << shift & mask

    return Operation((type_name,), (type_name, type_name, "u32", "u32"), insert)


@builds("clz", "popc", "brev")
def _bits(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    only(type_name, "b32", "b64")
    width = width_of(type_name)

    def digits(a: Array) -> Array:  # the highest first
        return a[..., None] >> np.arange(width - 1, -1, -1).astype(a.dtype) & a.dtype.type(1)

    if opcode == "popc":
        return Operation(("u32",), (type_name,), lambda a: digits(a).sum(-1).astype(np.uint32))
    if opcode == "clz":
        return Operation(
            ("u32",), (type_name,), lambda a: np.where(a == 0, width, digits(a).argmax(-1)).astype(np.uint32)
        )
    powers = np.array([1 << i for i in range(width)], dtype_of(type_name))
    return Operation((type_name,), (type_name,), lambda a: (digits(a) * powers).sum(-1, dtype=a.dtype))
