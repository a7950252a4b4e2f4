"""What instructions compute that touch nothing but registers. Operands come as arrays of their types."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import floats
from .convert import conversion
from .parse import PtxError, width_of

Array = np.ndarray


class Operation(NamedTuple):
    """The types of results and operands, and the function; an approximation is handed its source of errors first."""

    results: tuple[str, ...]
    operands: tuple[str, ...]
    compute: Callable[..., Array | tuple[Array, ...]]
    approximate: bool = False


class Words:
    """The words behind an opcode, each of which must be taken by who knows it."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._left = list(words)

    def type(self) -> str:
        """The last word."""
        if not self._left:
            raise PtxError("expected a type")
        width_of(self._left[-1])
        return self._left.pop()

    def one_of(self, *choices: str) -> str | None:
        """The first word that is left, if it is one of these."""
        return self._left.pop(0) if self._left and self._left[0] in choices else None

    def has(self, word: str) -> bool:
        return self.one_of(word) is not None

    def must(self, *choices: str) -> str:
        found = self.one_of(*choices)
        if found is None:
            raise PtxError(f"expected one of {', '.join(choices)}")
        return found

    def done(self) -> None:
        if self._left:
            raise PtxError(f"unknown .{'.'.join(self._left)}")


@functools.cache
def dtype_of(type_name: str) -> np.dtype:
    """The array type of a register that is used as this type; f16 and bf16 are bits."""
    if type_name == "pred":
        return np.dtype(bool)
    kind = {"s": "i", "f": "f"}.get(type_name[0], "u")
    width = width_of(type_name)
    return np.dtype(f"{'u' if width == 16 and kind == 'f' or 'x2' in type_name else kind}{width // 8}")


def is_float(type_name: str) -> bool:
    return type_name in ("f32", "f64")


_BUILDERS: dict[str, Callable[[str, Words], Operation]] = {}


def _builds(*opcodes: str) -> Callable:
    def register(builder: Callable[[str, Words], Operation]) -> Callable[[str, Words], Operation]:
        _BUILDERS.update(dict.fromkeys(opcodes, builder))
        return builder

    return register


@functools.cache
def operation(opcode: str, words: tuple[str, ...]) -> Operation | None:
    """None for an opcode that does more than to compute."""
    if opcode not in _BUILDERS:
        return None
    left = Words(words)
    built = _BUILDERS[opcode](opcode, left)
    left.done()
    return built


def finished(ftz: bool, compute: Callable[..., Array]) -> Callable[..., Array]:
    """A floating-point function with the one NaN, and without subnormal numbers if asked for."""
    if not ftz:
        return lambda *operands: floats.one_nan(compute(*operands))
    return lambda *operands: floats.flush(floats.one_nan(compute(*map(floats.flush, operands))))


def _only(type_name: str, *known: str) -> None:
    if type_name not in known:
        raise PtxError(f"unknown for .{type_name}")


def _wide(type_name: str) -> str:
    return f"{type_name[0]}{2 * width_of(type_name)}"


INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")
BITS = ("b16", "b32", "b64")


@_builds("add", "sub")
def _sum(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    compute = np.add if opcode == "add" else np.subtract
    if is_float(type_name):
        words.has("rn")
        return Operation((type_name,), (type_name,) * 2, finished(words.has("ftz"), compute))
    _only(type_name, *INTEGERS)
    return Operation((type_name,), (type_name,) * 2, compute)


@_builds("mul", "mad", "fma")
def _product(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if is_float(type_name):
        if opcode == "mul":
            words.has("rn")
            return Operation((type_name,), (type_name,) * 2, finished(words.has("ftz"), np.multiply))
        words.must("rn")
        compute = floats.fma32 if type_name == "f32" else floats.fma64
        return Operation((type_name,), (type_name,) * 3, finished(words.has("ftz"), compute))
    _only(type_name, *(() if opcode == "fma" else INTEGERS))
    part = words.must("lo", "hi", "wide")
    result = _wide(type_name) if part == "wide" else type_name
    multiply = _multiplication(type_name, part)
    if opcode == "mul":
        return Operation((result,), (type_name,) * 2, multiply)
    return Operation((result,), (type_name, type_name, result), lambda a, b, c: multiply(a, b) + c)


def _multiplication(type_name: str, part: str) -> Callable[[Array, Array], Array]:
    if part == "lo":
        return np.multiply
    if width_of(type_name) == 64:
        if part == "wide":
            raise PtxError("unknown for 64 bits")
        return _high_signed if type_name[0] == "s" else _high_unsigned
    wide = dtype_of(_wide(type_name))
    if part == "wide":
        return lambda a, b: a.astype(wide) * b.astype(wide)
    shift, narrow = wide.type(width_of(type_name)), dtype_of(type_name)
    return lambda a, b: (a.astype(wide) * b.astype(wide) >> shift).astype(narrow)


def _high_unsigned(a: Array, b: Array) -> Array:
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a1, a0, b1, b0 = a >> half, a & low, b >> half, b & low
    middle = a1 * b0 + (a0 * b0 >> half)
    other = a0 * b1 + (middle & low)
    return a1 * b1 + (middle >> half) + (other >> half)


def _high_signed(a: Array, b: Array) -> Array:
    high = _high_unsigned(a.view(np.uint64), b.view(np.uint64)).view(np.int64)
    return high - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


@_builds("div", "rem")
def _quotient(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if opcode == "div" and type_name == "f32" and words.has("full"):  # off by 2 ulps
        ftz = words.has("ftz")
        return Operation(("f32",), ("f32",) * 2, _approximation(ftz, np.divide, -22.0), True)
    if opcode == "div" and is_float(type_name):
        words.must("rn")
        return Operation((type_name,), (type_name,) * 2, finished(words.has("ftz"), np.divide))
    _only(type_name, *INTEGERS)
    return Operation((type_name,), (type_name,) * 2, _divide if opcode == "div" else _remainder)


def _divide(a: Array, b: Array) -> Array:
    if (b == 0).any():
        raise PtxError("division by zero")
    quotient = a // b
    if a.dtype.kind == "i":  # towards zero
        quotient = quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype)
    return quotient


def _remainder(a: Array, b: Array) -> Array:
    return a - _divide(a, b) * b


@_builds("abs", "neg")
def _sign(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if is_float(type_name):  # the sign bit alone
        ftz = words.has("ftz")
        compute = np.abs if opcode == "abs" else np.negative
        return Operation((type_name,), (type_name,), (lambda a: compute(floats.flush(a))) if ftz else compute)
    _only(type_name, "s16", "s32", "s64")
    return Operation((type_name,), (type_name,), np.abs if opcode == "abs" else np.negative)


@_builds("min", "max")
def _extreme(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if is_float(type_name):
        ftz, nan = words.has("ftz"), words.has("NaN")
        choices = (np.minimum, np.maximum) if nan else (np.fmin, np.fmax)
        return Operation((type_name,), (type_name,) * 2, finished(ftz, _with_zeros(choices[opcode == "max"], opcode)))
    _only(type_name, *INTEGERS)
    return Operation((type_name,), (type_name,) * 2, np.minimum if opcode == "min" else np.maximum)


def _with_zeros(compute: Callable[[Array, Array], Array], opcode: str) -> Callable[[Array, Array], Array]:
    """-0 is less than +0."""

    def choose(a: Array, b: Array) -> Array:
        negative = np.signbit(a) | np.signbit(b) if opcode == "min" else np.signbit(a) & np.signbit(b)
        result = compute(a, b)
        return np.where((a == 0) & (b == 0), np.where(negative, a.dtype.type(-0.0), a.dtype.type(0.0)), result)

    return choose


@_builds("and", "or", "xor", "not")
def _logic(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    _only(type_name, "pred", *BITS)
    compute = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}[opcode]
    return Operation((type_name,), (type_name,) * (1 if opcode == "not" else 2), compute)


@_builds("shl", "shr")
def _shift(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    _only(type_name, *BITS, *(() if opcode == "shl" else INTEGERS))
    width = width_of(type_name)
    most = np.uint32(width - 1)

    def shift(a: Array, count: Array) -> Array:
        amount = np.minimum(count, most).astype(a.dtype)
        if opcode == "shr" and type_name[0] == "s":
            return a >> amount
        result = a << amount if opcode == "shl" else a >> amount
        return np.where(count > most, a.dtype.type(0), result)

    return Operation((type_name,), (type_name, "u32"), shift)


@_builds("shf")
def _funnel(opcode: str, words: Words) -> Operation:
    side, mode = words.must("l", "r"), words.must("wrap", "clamp")
    _only(words.type(), "b32")

    def shift(low: Array, high: Array, count: Array) -> Array:
        count = count & np.uint32(31) if mode == "wrap" else np.minimum(count, np.uint32(32))
        both = high.astype(np.uint64) << np.uint64(32) | low
        if side == "r":
            return (both >> count.astype(np.uint64)).astype(np.uint32)
        return ((both << count.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)

    return Operation(("b32",), ("b32", "b32", "u32"), shift)


@_builds("lop3")
def _lop3(opcode: str, words: Words) -> Operation:
    _only(words.type(), "b32")

    def logic(a: Array, b: Array, c: Array, table: Array) -> Array:
        (bits,) = np.unique(table)
        result = np.zeros_like(a)
        for i in range(8):
            if int(bits) >> i & 1:
                terms = [x if i >> (2 - n) & 1 else ~x for n, x in enumerate((a, b, c))]
                result = result | terms[0] & terms[1] & terms[2]
        return result

    return Operation(("b32",), ("b32",) * 4, logic)


@_builds("prmt")
def _permute(opcode: str, words: Words) -> Operation:
    _only(words.type(), "b32")

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


@_builds("bfe")
def _extract(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    _only(type_name, "u32", "s32", "u64", "s64")
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


@_builds("bfi")
def _insert(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    _only(type_name, "b32", "b64")
    width = width_of(type_name)
    u = dtype_of(type_name).type

    def insert(a: Array, b: Array, start: Array, count: Array) -> Array:
        start, count = start & np.uint32(255), np.minimum(count & np.uint32(255), np.uint32(width))
        ones = np.where(count == width, u(2**width - 1), (u(1) << count.astype(u)) - u(1))
        shift = np.minimum(start, np.uint32(width - 1)).astype(u)
        mask = np.where(start >= width, u(0), ones << shift)
        return b & ~mask | a << shift & mask

    return Operation((type_name,), (type_name, type_name, "u32", "u32"), insert)


@_builds("clz", "popc", "brev")
def _bits(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    _only(type_name, "b32", "b64")
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


_ORDERED = {"eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_UNORDERED = {"equ": "eq", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge", "neu": "ne"}


def _comparison(name: str, type_name: str) -> Callable[[Array, Array], Array]:
    if is_float(type_name):
        if name == "num":
            return lambda a, b: (a == a) & (b == b)
        if name == "nan":
            return lambda a, b: (a != a) | (b != b)
        if name in _UNORDERED:
            plain = _comparison(_UNORDERED[name], type_name)
            return lambda a, b: plain(a, b) | (a != a) | (b != b)
        if name == "ne":
            return lambda a, b: (a < b) | (a > b)
    elif name == "ne":
        return np.not_equal
    elif name in _UNSIGNED and type_name[0] == "u":
        name = _UNSIGNED[name]
    allowed = name in _ORDERED and (type_name[0] != "b" or name == "eq")
    if not allowed:
        raise PtxError(f"unknown comparison .{name} of .{type_name}")
    return _ORDERED[name]


@_builds("setp")
def _compare(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    name = words.must("eq", "ne", "lt", "le", "gt", "ge", *_UNSIGNED, *_UNORDERED, "num", "nan")
    joined = words.one_of("and", "or", "xor")
    ftz = words.has("ftz")
    if not is_float(type_name):
        _only(type_name, *BITS, *INTEGERS)
    compare = _comparison(name, type_name)
    if ftz:
        plain = compare
        compare = lambda a, b: plain(floats.flush(a), floats.flush(b))  # noqa: E731
    if joined is None:
        return Operation(("pred", "pred"), (type_name,) * 2, lambda a, b: ((found := compare(a, b)), ~found))
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[joined]

    def compare_and_combine(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
        found = compare(a, b)
        return combine(found, c), combine(~found, c)

    return Operation(("pred", "pred"), (type_name, type_name, "pred"), compare_and_combine)


@_builds("selp")
def _select(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    return Operation((type_name,), (type_name, type_name, "pred"), lambda a, b, c: np.where(c, a, b))


@_builds("cvt")
def _convert(opcode: str, words: Words) -> Operation:
    source, target = words.type(), words.type()
    rounding = words.one_of("rn", "rz", "rni", "rzi", "rmi", "rpi")
    ftz, saturate = words.has("ftz"), words.has("sat")
    operands, compute = conversion(target, source, rounding, ftz, saturate)
    return Operation((target,), operands, compute)


@_builds("sqrt", "rcp")
def _root(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    words.must("rn")
    compute = np.sqrt if opcode == "sqrt" else np.reciprocal
    return Operation((type_name,), (type_name,), finished(words.has("ftz"), compute))


def _approximation(ftz: bool, exact: Callable[..., Array], log2_error: float) -> Callable[..., Array]:
    """Approximations by their largest relative error, as the PTX ISA has them."""

    def compute(errors: floats.Approximation, *operands: Array) -> Array:
        operands = tuple(floats.flush(x) if ftz else x for x in operands)
        result = errors.relative(exact(*(x.astype(np.float64) for x in operands)), log2_error)
        return floats.one_nan(floats.flush(result) if ftz else result)

    return compute


@_builds("rsqrt")
def _reciprocal_root(opcode: str, words: Words) -> Operation:
    words.must("approx")
    ftz = words.has("ftz")
    _only(words.type(), "f32")
    return Operation(("f32",), ("f32",), _approximation(ftz, lambda x: 1.0 / np.sqrt(x), -22.9), True)


@_builds("copysign")
def _copysign(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    return Operation((type_name,), (type_name,) * 2, lambda sign, value: np.copysign(value, sign))
