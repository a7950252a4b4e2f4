"""What ``docs/design.md`` says, in NumPy float64, by someone who has not read the kernels.

Nothing here comes from ``tip_kernels``: the generators, the masks (by exact fractions), the bases (from complex DFT
matrices), the selection and the addresses are written anew from the contract. ``perturb`` gives for every tensor the
exact result and how far a backend may be from it; ``Expected.check`` compares.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

CHACHA_ROUNDS = {"chacha8": 8, "chacha12": 12, "chacha20": 20}
GENERATORS = (*CHACHA_ROUNDS, "philox")
U32, U64 = 2.0**-24, 2.0**-53


class Format(NamedTuple):
    """A floating-point format: bits of the significand, least exponent of a normal number, largest finite number."""

    precision: int
    least_exponent: int
    largest: float


FORMATS = {
    "float64": Format(53, -1022, float(np.finfo(np.float64).max)),
    "float32": Format(24, -126, float(np.finfo(np.float32).max)),
    "bfloat16": Format(8, -126, float.fromhex("0x1.fep127")),
    "float16": Format(11, -14, 65504.0),
}


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float64 values to the nearest number of a format, ties to even, overflow to infinity."""
    precision, least_exponent, largest = FORMATS[dtype]
    if dtype == "float64":
        return values
    exponents = np.maximum(np.frexp(values)[1] - 1, least_exponent)
    ulps = np.ldexp(1.0, exponents - (precision - 1))
    nearest = np.rint(values / ulps) * ulps
    return np.where(np.abs(nearest) > largest, np.copysign(np.inf, values), nearest)


# Generators: (key of 32 bytes, counters and nonce of 64 bits) to blocks of words.


def _rotated(x: np.ndarray, bits: int) -> np.ndarray:
    return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))


def _quarter_round(x: list[np.ndarray], a: int, b: int, c: int, d: int) -> None:
    for p, q, r, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[p] = x[p] + x[q]
        x[r] = _rotated(x[r] ^ x[p], bits)


def chacha_blocks(key: bytes, counters: np.ndarray, nonce: int, rounds: int) -> np.ndarray:
    """Bernstein's ChaCha with a 64-bit counter and a 64-bit nonce: uint32 [blocks, 16]."""
    start = np.empty((16, len(counters)), np.uint32)
    start[0:4] = np.frombuffer(b"expand 32-byte k", "<u4")[:, None]
    start[4:12] = np.frombuffer(key, "<u4")[:, None]
    start[12], start[13] = _low_high(counters)
    start[14], start[15] = _low_high(np.array([nonce], np.uint64))
    x = list(start)
    for _ in range(rounds // 2):
        for i in range(4):
            _quarter_round(x, i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            _quarter_round(x, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return (np.stack(x) + start).T


def philox_blocks(key: bytes, counters: np.ndarray, nonce: int) -> np.ndarray:
    """Philox4x32-10 (Salmon et al. 2011), keyed by the first two words: uint32 [blocks, 4]."""
    key0, key1 = (int(word) for word in np.frombuffer(key[:8], "<u4"))
    nonces = np.full(len(counters), nonce, np.uint64)
    x0, x1, x2, x3 = (part.astype(np.uint64) for part in (*_low_high(counters), *_low_high(nonces)))
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        p, q = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = (q >> shift) ^ x1 ^ np.uint64(key0), q & low, (p >> shift) ^ x3 ^ np.uint64(key1), p & low
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return np.stack([x0, x1, x2, x3], axis=1).astype(np.uint32)


def _low_high(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers = numbers.astype(np.uint64)
    return numbers.astype(np.uint32), (numbers >> np.uint64(32)).astype(np.uint32)


class Noise(NamedTuple):
    """The noise of one call: key, generator and step."""

    key: bytes
    generator: str
    step: int

    def words(self, tensor_id: int, positions: np.ndarray) -> np.ndarray:
        """The words at these positions of a tensor's stream, uint32 of the positions' shape."""
        size = 4 if self.generator == "philox" else 16
        blocks, where = np.unique(positions // size, return_inverse=True)
        counters = blocks.astype(np.uint64) + np.uint64(tensor_id * 2**40)
        if self.generator == "philox":
            made = philox_blocks(self.key, counters, self.step)
        else:
            made = chacha_blocks(self.key, counters, self.step, CHACHA_ROUNDS[self.generator])
        return made[where.reshape(positions.shape), positions % size]

    def normals(self, tensor_id: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(normals, radii) at these positions, float64; only u is rounded to float32."""
        even = positions - positions % 2
        first = self.words(tensor_id, even).astype(np.float32)  # to nearest even, as both operations here
        u = (first * np.float32(2.0**-32) + np.float32(2.0**-33)).astype(np.float64)
        radii = np.sqrt(-2.0 * np.log(u))
        angles = 2.0 * math.pi * (self.words(tensor_id, even + 1).astype(np.float64) / 2.0**32)
        return radii * np.where(positions % 2 == 0, np.cos(angles), np.sin(angles)), radii


# The high band.


def high_bins(kernel_size: tuple[int, ...], cutoff: float) -> np.ndarray:
    """The full mask of a cutoff, by exact arithmetic: radius > cutoff where radius^2 is a fraction."""
    long_axes = [n for n in kernel_size if n > 1]
    mask = np.zeros(kernel_size, bool)
    for bin_ in np.ndindex(*kernel_size):
        frequencies = [Fraction(min(b, n - b), n // 2) for b, n in zip(bin_, kernel_size, strict=True) if n > 1]
        mask[bin_] = sum(f * f for f in frequencies) > Fraction(cutoff) ** 2 * max(len(long_axes), 1)
    return mask


def conjugate(bin_: tuple[int, ...], kernel_size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((n - b) % n for b, n in zip(bin_, kernel_size, strict=True))


def basis(kernel_size: tuple[int, ...], mask: np.ndarray) -> tuple[np.ndarray, int]:
    """(Q, d) from the rows of the orthonormal complex DFT: of coefficients a = X, or a, c where X = (a - ic)/sqrt 2."""
    dft = np.ones((1, 1), complex)
    for n in kernel_size:
        turns = np.outer(np.arange(n), np.arange(n)) % n / n
        dft = np.kron(dft, np.exp(-2j * np.pi * turns) / np.sqrt(n))
    columns: dict[bool, list[np.ndarray]] = {True: [], False: []}
    done = set()
    for row, bin_ in zip(dft, np.ndindex(*kernel_size), strict=True):
        partner = conjugate(bin_, kernel_size)
        if bin_ == partner:
            columns[bool(mask[bin_])].append(row.real)
        elif partner not in done:
            columns[bool(mask[bin_])] += [np.sqrt(2) * row.real, -np.sqrt(2) * row.imag]
        done.add(bin_)
    return np.stack(columns[True] + columns[False], axis=1), len(columns[True])


# Selection.


def selected_channels(scores: Sequence[float], ratio: float) -> set[int]:
    """Fewer than k outrank them; NaN above all, then the higher score, then the lower index."""
    count = math.ceil(round(ratio * len(scores), 9))

    def outranks(a: int, b: int) -> bool:
        x, y = scores[a], scores[b]
        if math.isnan(x) or math.isnan(y):
            return (math.isnan(x), -a) > (math.isnan(y), -b)
        return x > y or (x == y and a < b)

    return {c for c in range(len(scores)) if sum(outranks(other, c) for other in range(len(scores))) < count}


# The call.


def pitch(used: int) -> int:
    """W: the smallest power of two, or beyond 16 the smallest multiple of 16, that is not below ``used``."""
    if used > 16:
        return next(w for w in itertools.count(16, 16) if w >= used)
    return next(w for w in (1, 2, 4, 8, 16) if w >= used)


class Tensor(NamedTuple):
    """One tensor of a call: float64 values, and what the contract lets vary between tensors."""

    values: np.ndarray
    dtype: str = "float32"
    scores: Sequence[float] | None = None
    ratio: float = 0.0
    std: float = 0.0
    floor_std: float | None = None  # None: the call has no floor
    grad_scale: float | None = None
    keep: float = 1.0
    mask: np.ndarray | None = None  # of all bins
    shard: tuple[int, int, int] | None = None
    amplitudes: tuple[np.ndarray, np.ndarray] | None = None  # [K] of selected channels, of others; exact in float32


class Expected(NamedTuple):
    """The exact result before what is done at the store, and how far from it the arithmetic may end."""

    exact: np.ndarray
    tolerance: np.ndarray
    dtype: str
    grid: float | None

    def check(self, got: np.ndarray) -> None:
        """Raises AssertionError unless ``got`` lies between the releases of exact - tolerance and + tolerance.

        Rounding to a grid and to a format never change the order of two numbers, so nothing more need be allowed.
        Where the tolerance is infinite the contract says nothing.
        """
        low, high = (self._released(self.exact + side * self.tolerance) for side in (-1, 1))
        good = ((low <= got) & (got <= high)) | (np.isnan(got) & np.isnan(self.exact)) | np.isinf(self.tolerance)
        if good.all():
            return
        worst = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{(~good).sum()} of {good.size} values are wrong, first {worst}: {got[worst]!r}, "
            f"expected {self.exact[worst]!r} within {self.tolerance[worst]:.3g} ({self.dtype}, grid {self.grid})"
        )

    def _released(self, values: np.ndarray) -> np.ndarray:
        if self.grid is None:
            return rounded(values, self.dtype)
        bits = 52 if self.dtype == "float64" else 23
        on_grid = np.rint(values / self.grid) * self.grid
        return rounded(np.where(np.abs(values) >= 2.0**bits * self.grid, values, on_grid), self.dtype)


def perturb(noise: Noise, tensors: Sequence[Tensor | None]) -> list[Expected | None]:
    """The contract's result for every tensor that has data; a tensor's place in the list is its ``tensor_id``."""
    with np.errstate(invalid="ignore"):  # gradients may be infinite or NaN
        return [
            None if t is None or t.values.size == 0 else _perturbed(noise, place, t) for place, t in enumerate(tensors)
        ]


def _perturbed(noise: Noise, place: int, tensor: Tensor) -> Expected:
    shape = tensor.values.shape
    kernel_size = shape[2:]
    channels, kernels = (*shape, 1, 1)[:2]
    taps = math.prod(kernel_size)
    x = tensor.values.reshape(channels, kernels, taps)
    mask = tensor.mask if tensor.scores is not None else None
    q, high = basis(kernel_size, mask) if mask is not None and mask.any() else (np.eye(taps), 0)

    first_channel, first_kernel, per_channel = tensor.shard or (0, 0, kernels)
    chosen = selected_channels(tensor.scores, tensor.ratio) if high else set()
    index = (first_channel + np.arange(channels))[:, None] * per_channel + first_kernel + np.arange(kernels)
    distance = pitch(taps if tensor.floor_std is not None else high) if high else taps
    positions = index[:, :, None] * distance + np.arange(taps)
    normals, radii = noise.normals(place, positions)

    is_chosen = np.array([first_channel + c in chosen for c in range(channels)])
    other = _other(tensor, x, normals, radii) if tensor.amplitudes is None else _colored(tensor, x, normals, radii, q)
    parts = [other, _selected(tensor, x, normals, radii, q, high)]
    exact, tolerance = (np.where(is_chosen[:, None, None], b, a).reshape(shape) for a, b in zip(*parts, strict=True))
    return Expected(exact, tolerance, tensor.dtype, _grid(tensor, high))


# Tolerances. U is the unit roundoff of the arithmetic; second orders and the roundings of subnormal numbers are in
# _whole. A normal may be off by 8 U32 of its radius (tests/test_normals.py says why).
#
# * Other channels: s x, floor zeta and their sum are rounded once each, so every term by U of itself.
#   Without a floor s x is all, and is exact. What is infinite or NaN is so after it.
# * Selected channels: let A = |s x| + |noise|, the norms of a kernel's taps and coefficients. Each of the K
#   coefficients of Q' s x is a sum of K products in which entries of Q, s x and products are rounded: off by at most
#   (K + 6) U A, by Cauchy and Schwarz with columns of norm 1; keep - 1, its product, the sum with the noise and the
#   products with amplitudes are among the 6. A tap is a sum of K such coefficients, with rows of norm 1:
#   sqrt(K) (K + 6) U A inherited, and (K + 6) U A of its own. The noise of other channels has the second part alone,
#   where there are amplitudes.
#   A kernel with an infinite or NaN tap may become anything.


def _other(tensor: Tensor, x: np.ndarray, normals: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and tolerances of channels that are not selected."""
    if tensor.floor_std is None and tensor.grad_scale is None:
        return x, np.zeros_like(x)
    scale = 1.0 if tensor.grad_scale is None else tensor.grad_scale
    floor = tensor.floor_std or 0.0
    scaled, noise = scale * x, floor * normals
    if floor == 0.0:  # one product has one right result
        return rounded(scaled, "float64" if tensor.dtype == "float64" else "float32"), np.zeros_like(x)
    unit = U64 if tensor.dtype == "float64" else U32
    tolerance = unit * (np.abs(scaled) + np.abs(noise) + np.abs(scaled + noise)) + 8 * U32 * floor * radii
    return scaled + noise, np.where(np.isfinite(scaled), _whole(tolerance, tensor.dtype), 0.0)


def _colored(
    tensor: Tensor, x: np.ndarray, normals: np.ndarray, radii: np.ndarray, q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same of a tensor with amplitudes, whose channels that are not selected have noise in the basis, too."""
    if not tensor.floor_std:
        return _other(tensor, x, normals, radii)
    taps = x.shape[-1]
    scaled = (1.0 if tensor.grad_scale is None else tensor.grad_scale) * x
    amounts = tensor.floor_std * tensor.amplitudes[1]
    unit = U64 if tensor.dtype == "float64" else U32
    exact = scaled + (amounts * normals) @ q.T
    size = _norm(amounts * radii)
    tolerance = unit * (np.abs(scaled) + np.abs(exact)) + ((taps + 6) * unit + 8 * U32) * size
    return exact, np.where(np.isfinite(scaled), _whole(tolerance, tensor.dtype), 0.0)


def _selected(
    tensor: Tensor, x: np.ndarray, normals: np.ndarray, radii: np.ndarray, q: np.ndarray, high: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values and tolerances of selected channels."""
    taps = x.shape[-1]
    scaled = (1.0 if tensor.grad_scale is None else tensor.grad_scale) * x
    amounts = np.array([tensor.std] * high + [tensor.floor_std or 0.0] * (taps - high))
    if tensor.amplitudes is not None:
        amounts = amounts * tensor.amplitudes[0]
    is_high = np.arange(taps) < high
    coefficients = (tensor.keep - 1.0) * (scaled @ q) * is_high + amounts * normals
    unit = U64 if tensor.dtype == "float64" else U32
    size = _norm(scaled) + _norm(amounts * radii)
    tolerance = (math.sqrt(taps) + 1) * (taps + 6) * unit * size + 8 * U32 * _norm(amounts * radii)
    exact = scaled + coefficients @ q.T
    finite = np.isfinite(scaled).all(axis=-1, keepdims=True)
    tolerance = np.where(finite, _whole(tolerance, tensor.dtype), np.inf)
    return exact, np.broadcast_to(tolerance, exact.shape)


def _norm(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(np.square(vectors), axis=-1, keepdims=True))


def _whole(tolerance: np.ndarray, dtype: str) -> np.ndarray:
    return 1.01 * tolerance + (2.0**-1070 if dtype == "float64" else 2.0**-140)


def _grid(tensor: Tensor, high: int) -> float | None:
    if not tensor.floor_std:
        return None
    amounts = [tensor.floor_std] + [tensor.std] * (high > 0)
    if tensor.amplitudes is not None:
        selected, others = tensor.amplitudes
        least_of = [min([*selected[high:], *others]), min(selected[:high])]
        amounts = [float(np.float32(amount) * np.float32(of)) for amount, of in zip(amounts, least_of, strict=True)]
        if amounts[0] == 0.0:
            return None
    least = min(amount for amount in amounts if amount > 0)
    has_step = 2.0**-116 <= least < 2.0**115  # with 2^23 times it a normal float32 number
    return 2.0 ** (math.floor(math.log2(least)) - 10) if has_step else None
