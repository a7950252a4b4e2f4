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
    return np.dtype(f"{'u' if (width == 16 and kind == 'f') or 'x2' in type_name else kind}{width // 8}")


def is_float(type_name: str) -> bool:
    return type_name in ("f32", "f64")


_BUILDERS: dict[str, Callable[[str, Words], Operation]] = {}


def builds(*opcodes: str) -> Callable:
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


def only(type_name: str, *known: str) -> None:
    if type_name not in known:
        raise PtxError(f"unknown for .{type_name}")


def _wide(type_name: str) -> str:
    return f"{type_name[0]}{2 * width_of(type_name)}"


INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")
BITS = ("b16", "b32", "b64")


@builds("add", "sub")
def _sum(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    compute = np.add if opcode == "add" else np.subtract
    if is_float(type_name):
        words.has("rn")
        return Operation((type_name,), (type_name,) * 2, finished(words.has("ftz"), compute))
    only(type_name, *INTEGERS)
    return Operation((type_name,), (type_name,) * 2, compute)


@builds("mul", "mad", "fma")
def _product(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if is_float(type_name):
        if opcode == "mul":
            words.has("rn")
            return Operation((type_name,), (type_name,) * 2, finished(words.has("ftz"), np.multiply))
        words.must("rn")
        compute = floats.fma32 if type_name == "f32" else floats.fma64
        return Operation((type_name,), (type_name,) * 3, finished(words.has("ftz"), compute))
    only(type_name, *(() if opcode == "fma" else INTEGERS))
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


@builds("div", "rem")
def _quotient(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if opcode == "div" and type_name == "f32" and words.has("full"):  # off by 2 ulps
        ftz = words.has("ftz")
        return Operation(("f32",), ("f32",) * 2, _approximation(ftz, np.divide, -22.0), True)
    if opcode == "div" and is_float(type_name):
        words.must("rn")
        return Operation((type_name,), (type_name,) * 2, finished(words.has("ftz"), np.divide))
    only(type_name, *INTEGERS)
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


@builds("abs", "neg")
def _sign(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if is_float(type_name):  # the sign bit alone
        ftz = words.has("ftz")
        compute = np.abs if opcode == "abs" else np.negative
        return Operation((type_name,), (type_name,), (lambda a: compute(floats.flush(a))) if ftz else compute)
    only(type_name, "s16", "s32", "s64")
    return Operation((type_name,), (type_name,), np.abs if opcode == "abs" else np.negative)


@builds("min", "max")
def _extreme(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if is_float(type_name):
        ftz, nan = words.has("ftz"), words.has("NaN")
        choices = (np.minimum, np.maximum) if nan else (np.fmin, np.fmax)
        return Operation((type_name,), (type_name,) * 2, finished(ftz, _with_zeros(choices[opcode == "max"], opcode)))
    only(type_name, *INTEGERS)
    return Operation((type_name,), (type_name,) * 2, np.minimum if opcode == "min" else np.maximum)


def _with_zeros(compute: Callable[[Array, Array], Array], opcode: str) -> Callable[[Array, Array], Array]:
    """-0 is less than +0."""

    def choose(a: Array, b: Array) -> Array:
        negative = np.signbit(a) | np.signbit(b) if opcode == "min" else np.signbit(a) & np.signbit(b)
        result = compute(a, b)
        return np.where((a == 0) & (b == 0), np.where(negative, a.dtype.type(-0.0), a.dtype.type(0.0)), result)

    return choose


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


@builds("setp")
def _compare(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    name = words.must("eq", "ne", "lt", "le", "gt", "ge", *_UNSIGNED, *_UNORDERED, "num", "nan")
    joined = words.one_of("and", "or", "xor")
    ftz = words.has("ftz")
    if not is_float(type_name):
        only(type_name, *BITS, *INTEGERS)
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


@builds("selp")
def _select(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    return Operation((type_name,), (type_name, type_name, "pred"), lambda a, b, c: np.where(c, a, b))


@builds("cvt")
def _convert(opcode: str, words: Words) -> Operation:
    source, target = words.type(), words.type()
    rounding = words.one_of("rn", "rz", "rni", "rzi", "rmi", "rpi")
    ftz, saturate = words.has("ftz"), words.has("sat")
    operands, compute = conversion(target, source, rounding, ftz, saturate)
    return Operation((target,), operands, compute)


@builds("sqrt", "rcp")
def _root(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    if opcode == "sqrt" and type_name == "f32" and words.has("approx"):
        return Operation(("f32",), ("f32",), _approximation(words.has("ftz"), np.sqrt, -23.0), True)
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


@builds("rsqrt")
def _reciprocal_root(opcode: str, words: Words) -> Operation:
    words.must("approx")
    ftz = words.has("ftz")
    only(words.type(), "f32")
    return Operation(("f32",), ("f32",), _approximation(ftz, lambda x: 1.0 / np.sqrt(x), -22.9), True)


@builds("copysign")
def _copysign(opcode: str, words: Words) -> Operation:
    type_name = words.type()
    return Operation((type_name,), (type_name,) * 2, lambda sign, value: np.copysign(value, sign))
