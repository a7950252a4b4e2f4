"""The interpreter of PTX computes what the PTX ISA says: integers, bits and comparisons against Python's."""

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from ptx.one_instruction import compute
from ptx.parse import PtxError, width_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy where this file computes with infinities

FLOATS = {"f32": (np.float32, 24, -126, 127), "f64": (np.float64, 53, -1022, 1023)}


def integers(width: int, count: int = 400) -> list[int]:
    """Bits: corners, and random ones."""
    corners = [0, 1, 2, 3, 31, 32, 33, 255, (1 << width) - 1, 1 << (width - 1), (1 << (width - 1)) - 1]
    draw = random.Random(width)
    return [c % (1 << width) for c in corners] + [draw.getrandbits(draw.randint(1, width)) for _ in range(count)]


def signed(bits: int, width: int) -> int:
    return bits - (1 << width) if bits >> (width - 1) else bits


def value(bits: int, type_name: str) -> int:
    return signed(bits, width_of(type_name)) if type_name[0] == "s" else bits


def operands(types: list[str]) -> dict[str, tuple[str, np.ndarray]]:
    """Columns of pairwise combined corners and of random numbers."""
    columns = [integers(1 if t == "pred" else width_of(t)) for t in types]
    corners = list(itertools.product(*[column[:8] for column in columns]))
    draw = random.Random(1)
    rows = corners + [[draw.choice(column) for column in columns] for _ in range(600)]
    names = [f"%{'abcd'[i]}" for i in range(len(types))]
    return {
        name: (t, np.array(column, f"u{max(width_of(t), 8) // 8}"))
        for name, t, column in zip(names, types, zip(*rows, strict=True), strict=True)
    }


def clamp_shift(count: int, width: int) -> int:
    return min(count, width)


def permuted(a: int, b: int, selector: int) -> int:
    pool = (b << 32 | a).to_bytes(8, "little")
    result = 0
    for i in range(4):
        choice = selector >> 4 * i & 15
        byte = pool[choice & 7]
        result |= (255 if byte >> 7 else 0) << 8 * i if choice & 8 else byte << 8 * i
    return result


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def extracted(a: int, start: int, count: int, type_name: str) -> int:
    width = width_of(type_name)
    start, count = start & 255, count & 255
    if type_name[0] == "u":
        return a % (1 << width) >> start & (1 << count) - 1
    bits = a % (1 << width)
    sign = bits >> min(start + count - 1, width - 1) & 1 if count else 0
    return sum(((bits >> start + i & 1) if i < count and start + i < width else sign) << i for i in range(width))


def inserted(a: int, b: int, start: int, count: int, width: int) -> int:
    start, count = start & 255, count & 255
    for i in range(count):
        if start + i < width:
            b = b & ~(1 << start + i) | (a >> i & 1) << start + i
    return b


INTEGER_CASES = {
    "add.s32": lambda a, b: a + b,
    "add.u64": lambda a, b: a + b,
    "add.s16": lambda a, b: a + b,
    "sub.s32": lambda a, b: a - b,
    "sub.u64": lambda a, b: a - b,
    "mul.lo.s32": lambda a, b: a * b,
    "mul.lo.u64": lambda a, b: a * b,
    "mul.hi.u32": lambda a, b: a * b >> 32,
    "mul.hi.s32": lambda a, b: a * b >> 32,
    "mul.hi.u64": lambda a, b: a * b >> 64,
    "mul.hi.s64": lambda a, b: a * b >> 64,
    "mul.wide.u32": lambda a, b: a * b,
    "mul.wide.s32": lambda a, b: a * b,
    "mul.wide.u16": lambda a, b: a * b,
    "mad.lo.s32": lambda a, b, c: a * b + c,
    "mad.wide.u32": lambda a, b, c: a * b + c,
    "mad.hi.u32": lambda a, b, c: (a * b >> 32) + c,
    "min.s32": min,
    "max.u64": max,
    "and.b32": lambda a, b: a & b,
    "or.b64": lambda a, b: a | b,
    "xor.b16": lambda a, b: a ^ b,
    "not.b32": lambda a: ~a,
    "neg.s32": lambda a: -a,
    "abs.s64": abs,
    "shl.b32": lambda a, b: a << clamp_shift(b, 32),
    "shl.b64": lambda a, b: a << clamp_shift(b, 64),
    "shr.u32": lambda a, b: a >> clamp_shift(b, 32),
    "shr.s32": lambda a, b: a >> clamp_shift(b, 32),
    "shr.u64": lambda a, b: a >> clamp_shift(b, 64),
    "shr.s64": lambda a, b: a >> clamp_shift(b, 64),
    "shr.u16": lambda a, b: a >> clamp_shift(b, 16),
    "shf.l.wrap.b32": lambda a, b, c: (b << 32 | a) << (c & 31) >> 32,
    "shf.r.wrap.b32": lambda a, b, c: (b << 32 | a) >> (c & 31),
    "shf.l.clamp.b32": lambda a, b, c: (b << 32 | a) << min(c, 32) >> 32,
    "shf.r.clamp.b32": lambda a, b, c: (b << 32 | a) >> min(c, 32),
    "prmt.b32": permuted,
    "bfe.u32": lambda a, b, c: extracted(a, b, c, "u32"),
    "bfe.s32": lambda a, b, c: extracted(a, b, c, "s32"),
    "bfe.u64": lambda a, b, c: extracted(a, b, c, "u64"),
    "bfi.b32": lambda a, b, c, d: inserted(a, b, c, d, 32),
    "bfi.b64": lambda a, b, c, d: inserted(a, b, c, d, 64),
    "clz.b32": lambda a: 32 - a.bit_length(),
    "clz.b64": lambda a: 64 - a.bit_length(),
    "popc.b32": lambda a: a.bit_count(),
    "brev.b32": lambda a: int(f"{a:032b}"[::-1], 2),
}
COUNTS = {"shl": 1, "shr": 1, "bfe": 1, "bfi": 2, "shf": 2}  # operands from this one on are u32


@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integers(name):
    function, (opcode, *_, type_name) = INTEGER_CASES[name], name.split(".")
    arity = function.__code__.co_argcount if hasattr(function, "__code__") else {min: 2, max: 2, abs: 1}[function]
    types = [type_name if i < COUNTS.get(opcode, 9) else "u32" for i in range(arity)]
    result = f"{type_name[0]}{width_of(type_name) * 2}" if ".wide" in name else type_name
    if opcode == "mad" and ".wide" in name:
        types[2] = result
    result = "u32" if opcode in ("clz", "popc") else result
    given = operands(types)
    got = compute(f"{name} %result, {', '.join(given)};", result, given)
    rows = zip(*[column.tolist() for _, column in given.values()], strict=True)
    want = [function(*[value(x, t) for x, t in zip(row, types, strict=True)]) % (1 << width_of(result)) for row in rows]
    assert got.tolist() == want


@pytest.mark.parametrize("type_name", ["s32", "u32", "s64", "u64"])
def test_division(type_name):
    given = operands([type_name] * 2)
    a, b = (column for _, column in given.values())
    b[b == 0] = 7
    for name, function in (("div", truncated), ("rem", lambda x, y: x - truncated(x, y) * y)):
        got = compute(f"{name}.{type_name} %result, %a, %b;", type_name, given)
        pairs = zip(a.tolist(), b.tolist(), strict=True)
        want = [function(value(x, type_name), value(y, type_name)) % (1 << width_of(type_name)) for x, y in pairs]
        assert got.tolist() == want


@pytest.mark.parametrize("table", [0x00, 0x96, 0xE8, 0xCA, 0x3F, 0x80, 0x01, 0xFF])
def test_lop3(table):
    given = operands(["b32"] * 3)
    got = compute(f"lop3.b32 %result, %a, %b, %c, {table};", "b32", given)
    for i in (0, 5, 31):
        bits = [(column >> np.uint32(i)) & 1 for _, column in given.values()]
        assert ((got >> np.uint32(i)) & 1 == table >> (bits[0] * 4 + bits[1] * 2 + bits[2]) & 1).all()


def some_floats(type_name: str, count: int = 700) -> np.ndarray:
    """Random bits, numbers of like sizes, and special ones."""
    dtype, digits, lowest, _ = FLOATS[type_name]
    draw = np.random.default_rng(digits)
    bits = draw.integers(0, 1 << width_of(type_name), count, dtype=np.uint64).astype(f"u{width_of(type_name) // 8}")
    tiny = np.ldexp(dtype(1), lowest)
    special = [0.0, -0.0, 1.0, -1.0, 1.5, np.inf, -np.inf, np.nan, tiny, -tiny, tiny / 8, np.finfo(dtype).max]
    like = draw.standard_normal(count) * np.exp2(draw.integers(-2, 3, count))
    small = np.ldexp(draw.standard_normal(count), lowest + 3)
    return np.concatenate([np.array(special, dtype), bits.view(dtype), like.astype(dtype), small.astype(dtype)])


def rounded(exact: Fraction, type_name: str) -> float:
    """To nearest even."""
    _, digits, lowest, highest = FLOATS[type_name]
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent += (size >= Fraction(2) ** (exponent + 1)) - (size < Fraction(2) ** exponent)
    unit = Fraction(2) ** (max(exponent, lowest) - digits + 1)
    units = round(exact / unit)  # to even
    result = units * unit
    if abs(result) >= Fraction(2) ** (highest + 1):
        return math.inf if exact > 0 else -math.inf
    return float(result)


COMPARISONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@pytest.mark.parametrize("type_name", ["s32", "u32", "s64", "u64", "s16", "u16", "f32", "f64"])
def test_comparisons(type_name):
    if type_name in FLOATS:
        a, b = some_floats(type_name), some_floats(type_name)[::-1].copy()
        b[::4] = a[::4]
        given = {"%a": (type_name, a), "%b": (type_name, b)}
        rows = list(zip(a.tolist(), b.tolist(), strict=True))
    else:
        given = operands([type_name] * 2)
        columns = [column.tolist() for _, column in given.values()]
        rows = [(value(a, type_name), value(b, type_name)) for a, b in zip(*columns, strict=True)]
    for name, function in COMPARISONS.items():
        is_nan = [a != a or b != b for a, b in rows]
        got = compute(f"setp.{name}.{type_name} %result, %a, %b;", "pred", given)
        assert got.tolist() == [function(a, b) and not nan for (a, b), nan in zip(rows, is_nan, strict=True)]
        if type_name in FLOATS:
            got = compute(f"setp.{name}u.{type_name} %result, %a, %b;", "pred", given)
            assert got.tolist() == [function(a, b) or nan for (a, b), nan in zip(rows, is_nan, strict=True)]


def test_compared_and_combined():
    given = {"%a": ("s32", np.array([1, 2, 1, 2])), "%p": ("pred", np.array([1, 1, 0, 0], np.uint8))}
    given["%a"] = ("s32", np.array([1, 2, 1, 2], np.uint32))
    both = """.reg .pred %x, %y; setp.lt.{}.s32 %x|%y, %a, 2, {};
    selp.u32 %result, 2, 0, %x; @%y add.u32 %result, %result, 1;"""
    for name, negated, want in (("and", "%p", [2, 1, 0, 0]), ("or", "!%p", [2, 1, 3, 3]), ("xor", "%p", [1, 2, 2, 1])):
        assert compute(both.format(name, negated), "u32", given).tolist() == want


def test_vectors_of_registers():
    given = {"%a": ("b64", np.array([0x8877665544332211], np.uint64))}
    code = """.reg .b32 %x, %y; .reg .b16 %h<4>; mov.b64 {%x, %y}, %a; mov.b64 {%h0, %h1, %h2, %h3}, %a;
    mov.b32 %x, {%h3, %h0}; mov.b64 %result, {%x, %y};"""
    assert compute(code, "b64", given).tolist() == [0x8877665522118877]


@pytest.mark.parametrize(
    "code",
    [
        "add.sat.s32 %result, %a, %a;",
        "add.rz.f32 %result, %a, %a;",
        "fma.f32 %result, %a, %a, %a;",
        "sin.approx.f32 %result, %a;",
        "prmt.b32.f4e %result, %a, %a, %a;",
        "cvt.rn.satfinite.f32.s32 %result, %a;",
        "cvt.f32.s32 %result, %a;",
        "setp.foo.s32 %p, %a, %a;",
        "add.s32 %result, %a;",
        "add.s64 %result, %a, %a;",
        "mov.u32 %result, %clock;",
        "mov.u32 %result, %unknown;",
        "add.f32 %result, %a, 1;",
        "ld.global.v3.u32 {%result, %result, %result}, [%at];",
        "ld.local.u32 %result, [%at];",
        "atom.global.frob.u32 %result, [%at], %a;",
        "bar.arrive 0, 32;",
        "fence.proxy.async;",
        "cp.async.bulk.wait_group 0;",
        "call.uni f;",
        "@%q add.s32 %result, %a, %a;",
    ],
)
def test_what_is_unknown_is_refused_with_its_line(code):
    given = {"%a": ("b32", np.zeros(1, np.uint32))}
    with pytest.raises(PtxError, match=r"line 11: "):
        compute(f".reg .pred %p;\n{code}", "b32", given)
