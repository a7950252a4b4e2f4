"""The interpreter of PTX rounds as the PTX ISA says: floating-point numbers against exact fractions."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from ptx.one_instruction import compute
from ptx.parse import width_of
from test_ptx_semantics import FLOATS, integers, rounded, some_floats, value

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy where this file computes with infinities

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
    x = np.concatenate(
        [some_floats(source), np.array([0.5, 1.5, -2.5, 2.0**31, 2.0**63, 2.0**64, -1.0], FLOATS[source][0])]
    )
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
