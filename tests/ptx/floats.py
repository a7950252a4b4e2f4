"""Floating-point arithmetic on arrays, rounded once as IEEE 754 and the PTX ISA want it."""

import ctypes
import ctypes.util

import numpy as np

NAN32, NAN64 = np.uint32(0x7FFFFFFF), np.uint64(0x7FF8000000000000)
NAN16 = np.uint16(0x7FFF)  # of f16 and of bf16

_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_libm.fma.restype = ctypes.c_double
_libm.fma.argtypes = [ctypes.c_double] * 3
_fma_one_by_one = np.frompyfunc(_libm.fma, 3, 1)


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormal float32 numbers become zeros of their sign."""
    small = np.abs(x) < np.finfo(np.float32).tiny
    return np.where(small, np.copysign(np.float32(0), x), x) if small.any() else x


def one_nan(x: np.ndarray) -> np.ndarray:
    """NaN of any bits become the one that the GPU makes."""
    nan = x != x
    if not nan.any():
        return x
    only = {2: NAN16, 4: NAN32, 8: NAN64}[x.dtype.itemsize].view(x.dtype)
    return np.where(nan, only, x)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b rounded, and what the rounding left."""
    total = a + b
    rest = total - a
    return total, (a - (total - rest)) + (b - rest)


def to_odd(total: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """total + rest rounded to odd: rounded again, to fewer bits, it is as if it had been rounded once."""
    is_even = (total.view(np.uint64) & np.uint64(1)) == 0
    inexact = (rest != 0) & np.isfinite(total) & np.isfinite(rest)
    return np.where(is_even & inexact, np.nextafter(total, np.where(rest > 0, np.inf, -np.inf)), total)


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The product is exact in float64; the sum is rounded to odd there."""
    product = a.astype(np.float64) * b.astype(np.float64)
    return to_odd(*two_sum(product, c.astype(np.float64))).astype(np.float32)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    product = a * b
    (a1, a0), (b1, b0) = _halves(a), _halves(b)
    return product, a0 * b0 - (((product - a1 * b1) - a0 * b1) - a1 * b0)


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = x * np.float64(2**27 + 1)
    high = scaled - (scaled - x)
    return high, x - high


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """By the way of Boldo and Melquiond (2008) where nothing can overflow or underflow on it, else by the C library."""
    a, b, c = np.broadcast_arrays(a, b, c)
    high, low = _two_product(a, b)
    upper, lower = two_sum(c, low)
    total, rest = two_sum(high, upper)
    result = total + to_odd(*two_sum(rest, lower))
    sizes = [np.abs(a), np.abs(b), np.abs(high), np.abs(c)]
    tame = np.logical_and.reduce([(x > 2.0**-400) & (x < 2.0**400) for x in sizes[:3]]) & (sizes[3] < 2.0**400)
    tame &= (sizes[3] > 2.0**-400) | (c == 0)
    tame &= np.abs(result) > 2.0**-400  # no zero either, whose sign has rules of its own
    if tame.all():
        return result
    wild = ~tame
    return np.where(wild, _fma_where(wild, a, b, c), result)


def _fma_where(chosen: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    result = np.zeros(a.shape)
    result[chosen] = _fma_one_by_one(a[chosen], b[chosen], c[chosen]).astype(np.float64)
    return result


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers, rounded to nearest even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    low = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + low) >> np.uint32(16)
    return np.where(np.isnan(x), NAN16, rounded.astype(np.uint16))


class Approximation:
    """Results with an error as large as the PTX ISA allows: any, often the largest, the same for the same operand."""

    def __init__(self, seed: int) -> None:
        self._seed = np.uint64(seed)

    def relative(self, exact: np.ndarray, log2_error: float) -> np.ndarray:
        """float64 numbers to float32 ones, off by at most 2^log2_error of themselves."""
        return self._moved(exact, np.abs(exact) * (2.0**log2_error - 2.0**-24))

    def _moved(self, exact: np.ndarray, most: np.ndarray) -> np.ndarray:
        bits = _scrambled(exact.view(np.uint64) + self._seed)
        error = np.clip(bits.astype(np.int64) * (1.5 * 2.0**-63), -1.0, 1.0)
        with_error = exact + np.where(np.isfinite(most), most, 0.0) * error
        return np.where(np.isfinite(exact), with_error, exact).astype(np.float32)


def _scrambled(bits: np.ndarray) -> np.ndarray:
    for factor in (0x9E3779B97F4A7C15, 0xD1342543DE82EF95):
        bits = (bits ^ bits >> np.uint64(32)) * np.uint64(factor)
    return bits ^ bits >> np.uint64(32)
