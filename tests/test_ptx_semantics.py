"""The interpreter of PTX computes what the PTX ISA says: against Python's integers, exact fractions and NumPy."""

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
    dtype, digits, lowest, highest = FLOATS[type_name]
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


EXACT = {
    "add.rn": lambda a, b: a + b,
    "sub.rn": lambda a, b: a - b,
    "mul.rn": lambda a, b: a * b,
    "fma.rn": lambda a, b, c: a * b + c,
    "div.rn": lambda a, b: a / b,
}


@pytest.mark.parametrize("type_name", FLOATS)
@pytest.mark.parametrize("name", EXACT)
def test_floats_are_rounded_once(name, type_name):
    function = EXACT[name]
    draw = np.random.default_rng(3)
    arity = function.__code__.co_argcount
    columns = [draw.permutation(some_floats(type_name)) for _ in range(arity)]
    if name == "fma.rn":  # sums that nearly cancel, and ties
        columns[2][::3] = -(columns[0][::3] * columns[1][::3])
        columns[1][1::3] = np.exp2(draw.integers(-30, 3, len(columns[1][1::3])))
    given = {f"%{'abc'[i]}": (type_name, column) for i, column in enumerate(columns)}
    got = compute(f"{name}.{type_name} %result, {', '.join(given)};", type_name, given).view(columns[0].dtype)
    for result, *row in zip(got.tolist(), *[column.tolist() for column in columns], strict=True):
        finite = all(map(math.isfinite, row)) and not (name == "div.rn" and row[1] == 0)
        if finite and (exact := function(*map(Fraction, row))) != 0:
            assert result == rounded(exact, type_name), row
        else:  # where IEEE 754 has rules of its own, Python and NumPy follow them
            with np.errstate(all="ignore"):
                want = function(*map(np.float64, row))
            if name == "fma.rn" and math.isfinite(row[0]) and math.isfinite(row[1]) and math.isinf(row[2]):
                want = row[2]
            assert (result == want and math.copysign(1, result) == math.copysign(1, want)) or (
                math.isnan(result) and math.isnan(want)
            ), row


@pytest.mark.parametrize("name", ["add", "mul", "fma"])
def test_one_nan_and_flushed_subnormal_numbers(name):
    tiny = np.float32(2.0**-127)
    rows = np.array([[np.nan, 1, 1], [tiny, 1, 0], [-tiny, 1, -0.0], [2.0**-126, 0.5, 0], [1, 2, 3]], np.float32)
    given = {f"%{'abc'[i]}": ("f32", rows[:, i]) for i in range(3 if name == "fma" else 2)}
    rn = "rn." if name == "fma" else ""
    got = compute(f"{name}.{rn}ftz.f32 %result, {', '.join(given)};", "f32", given)
    assert got[0] == 0x7FFFFFFF
    normal = got.view(np.float32)[1:]
    assert ((normal == 0) | (np.abs(normal) >= 2.0**-126)).all()
    if name == "mul":
        assert got[1:4].tolist() == [0, 0x80000000, 0]
        kept = compute("mul.f32 %result, %a, %b;", "f32", given)
        assert kept.view(np.float32)[1] == tiny


@pytest.mark.parametrize("type_name", FLOATS)
@pytest.mark.parametrize("name", ["sqrt.rn", "rcp.rn"])
def test_roots_and_reciprocals(name, type_name):
    x = np.abs(some_floats(type_name))
    x = x[(x > 0) & np.isfinite(x)]
    got = compute(f"{name}.{type_name} %result, %a;", type_name, {"%a": (type_name, x)}).view(x.dtype)
    for a, result in zip(x.tolist(), got.tolist(), strict=True):
        if name == "rcp.rn":
            assert result == rounded(1 / Fraction(a), type_name)
            continue
        below, above = (Fraction(float(np.nextafter(x.dtype.type(result), x.dtype.type(end)))) for end in (0, np.inf))
        nearest = Fraction(result)
        assert ((below + nearest) / 2) ** 2 <= Fraction(a) <= ((above + nearest) / 2) ** 2


def test_reciprocal_root_uses_its_error():
    x = np.exp2(np.random.default_rng(0).uniform(-60, 60, 4000)).astype(np.float32)
    got = compute("rsqrt.approx.ftz.f32 %result, %a;", "f32", {"%a": ("f32", x)}).view(np.float32)
    error = np.abs(got * np.sqrt(x.astype(np.float64)) - 1)
    assert error.max() <= 2.0**-22.9
    assert error.max() > 2.0**-23.3
    corners = np.array([0.0, -0.0, np.inf, -1.0, np.nan, 2.0**-130], np.float32)
    got = compute("rsqrt.approx.ftz.f32 %result, %a;", "f32", {"%a": ("f32", corners)}).view(np.float32)
    np.testing.assert_equal(got, np.array([np.inf, -np.inf, 0.0, np.nan, np.nan, np.inf], np.float32))


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
    both = ".reg .pred %x, %y; setp.lt.{}.s32 %x|%y, %a, 2, {}; selp.u32 %result, 2, 0, %x; @%y add.u32 %result, %result, 1;"
    for name, negated, want in (("and", "%p", [2, 1, 0, 0]), ("or", "!%p", [2, 1, 3, 3]), ("xor", "%p", [1, 2, 2, 1])):
        assert compute(both.format(name, negated), "u32", given).tolist() == want


def test_conversions_between_integers():
    bits = np.array(integers(64), np.uint64)
    for target, source in itertools.product(("s64", "u64", "s32", "u32", "s16", "u16"), repeat=2):
        narrow = (bits & np.uint64((1 << width_of(source)) - 1)).astype(f"u{width_of(source) // 8}")
        got = compute(f"cvt.{target}.{source} %result, %a;", target, {"%a": (source, narrow)})
        want = [value(x, source) % (1 << width_of(target)) for x in narrow.tolist()]
        assert got.tolist() == want
    small = np.array(integers(16), np.uint16)
    for source in ("u8", "s8"):
        got = compute(f"cvt.s32.{source} %result, %a;", "s32", {"%a": ("b16", small)})
        assert got.tolist() == [value(x & 255, source) % (1 << 32) for x in small.tolist()]


@pytest.mark.parametrize("target", ["s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("source", FLOATS)
def test_floats_to_integers(source, target):
    x = np.concatenate([some_floats(source), np.array([0.5, 1.5, -2.5, 2.0**31, 2.0**63, 2.0**64, -1.0], FLOATS[source][0])])
    width = width_of(target)
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if target[0] == "s" else (0, (1 << width) - 1)
    for rounding, function in (("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)):
        got = compute(f"cvt.{rounding}.{target}.{source} %result, %a;", target, {"%a": (source, x)})
        nan = 0 if (source, width) == ("f32", 32) else 1 << (width - 1)
        for a, result in zip(x.tolist(), got.tolist(), strict=True):
            if math.isnan(a):
                assert result == nan
            else:
                whole = (high if a > 0 else low) if math.isinf(a) else min(max(function(Fraction(a)), low), high)
                assert value(result, target) == whole


@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("target", FLOATS)
def test_integers_to_floats(target, source):
    bits = np.array(integers(width_of(source), 3000), f"u{width_of(source) // 8}")
    got = compute(f"cvt.rn.{target}.{source} %result, %a;", target, {"%a": (source, bits)}).view(FLOATS[target][0])
    assert got.tolist() == [rounded(Fraction(value(x, source)), target) for x in bits.tolist()]


def test_sixteen_bit_types():
    x = some_floats("f32")
    ties = [np.arange(-2050, 2050, 0.5), 1 + np.arange(4096) * 2.0**-12]
    x = np.concatenate([x, *ties]).astype(np.float32)
    half = compute("cvt.rn.f16.f32 %result, %a;", "f16", {"%a": ("f32", x)})
    brain = compute("cvt.rn.bf16.f32 %result, %a;", "bf16", {"%a": ("f32", x)})
    both = compute("cvt.rn.f16x2.f32 %result, %a, %b;", "b32", {"%a": ("f32", x), "%b": ("f32", x[::-1].copy())})
    assert both.tolist() == (half.astype(np.uint32) << 16 | half[::-1]).tolist()
    both = compute("cvt.rn.bf16x2.f32 %result, %a, %b;", "b32", {"%a": ("f32", x), "%b": ("f32", x[::-1].copy())})
    assert both.tolist() == (brain.astype(np.uint32) << 16 | brain[::-1]).tolist()
    digits = {"f16": (11, -14, 15), "bf16": (8, -126, 127)}
    for name, bits in (("f16", half), ("bf16", brain)):
        back = compute(f"cvt.f32.{name} %result, %a;", "f32", {"%a": (name, bits)}).view(np.float32)
        FLOATS["small"] = (np.float32, *digits[name])
        for a, result in zip(x.tolist(), back.tolist(), strict=True):
            if math.isfinite(a):
                assert result == rounded(Fraction(a), "small"), a
            else:
                assert result == a or (math.isnan(a) and math.isnan(result))
        del FLOATS["small"]


def test_double_to_single_and_back():
    x = np.concatenate([some_floats("f64"), some_floats("f32").astype(np.float64)])
    got = compute("cvt.rn.f32.f64 %result, %a;", "f32", {"%a": ("f64", x)}).view(np.float32)
    for a, result in zip(x.tolist(), got.tolist(), strict=True):
        assert (result == (rounded(Fraction(a), "f32") if math.isfinite(a) else a)) or math.isnan(a)
    single = some_floats("f32")
    wide = compute("cvt.f64.f32 %result, %a;", "f64", {"%a": ("f32", single)}).view(np.float64)
    np.testing.assert_array_equal(wide, single.astype(np.float64))


def test_extremes_of_floats():
    x = some_floats("f32")
    given = {"%a": ("f32", x), "%b": ("f32", x[::-1].copy())}
    for name, function in (("min", min), ("max", max)):
        got = compute(f"{name}.f32 %result, %a, %b;", "f32", given).view(np.float32)
        for a, b, result in zip(x.tolist(), x[::-1].tolist(), got.tolist(), strict=True):
            numbers = [v for v in (a, b) if v == v]
            assert result == function(numbers) if numbers else math.isnan(result)
    zeros = {"%a": ("f32", np.float32([0.0, -0.0])), "%b": ("f32", np.float32([-0.0, 0.0]))}
    assert compute("min.f32 %result, %a, %b;", "f32", zeros).tolist() == [1 << 31] * 2
    assert compute("max.f32 %result, %a, %b;", "f32", zeros).tolist() == [0] * 2


def test_vectors_of_registers():
    given = {"%a": ("b64", np.array([0x8877665544332211], np.uint64))}
    code = (
        ".reg .b32 %x, %y; .reg .b16 %h<4>; mov.b64 {%x, %y}, %a; mov.b64 {%h0, %h1, %h2, %h3}, %a; mov.b32 %x, {%h3, %h0};"
        "mov.b64 %result, {%x, %y};"
    )
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
