"""Statistical tests of a large sample of normals in the order of their stream, and faults that they must find.

    python tests/normal_statistics.py chacha12 100000000

``p_values`` gives, for each test, the probability with which a right generator with a random key is so far off or
farther: it falls below REJECT once in a billion tests at most.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from released import TINY_FLOOR

import tip_kernels as tip
from tip_kernels._op import dispatch
from tip_kernels.rng import GENERATORS

REJECT = 1e-9
LONGEST = math.sqrt(2 * 33 * math.log(2))
"""No normal is longer, by the noise contract."""

TAILS = (4.0, 5.0, 6.0)
LAGS = range(1, 9)
_CHUNK = 2**15


def draw(generator: str, count: int, seed: int = 3, std: float = 1.0) -> np.ndarray:
    """Float32 [count]: the normals that the floor of one call adds to zeros, times ``std``; before any grid."""
    values = torch.zeros(count)
    floor_std = std * TINY_FLOOR
    tip.perturb_([values], [None], ratio=0, std=0.0, floor_std=floor_std, rng=tip.NoiseRNG.from_seed(seed, generator))
    return values.div_(TINY_FLOOR).numpy()


def words_of(generator: str, count: int, seed: int = 3) -> np.ndarray:
    """The uint32 words of the same call."""
    rng = tip.NoiseRNG.from_seed(seed, generator)
    out = torch.empty(count, dtype=torch.int32)
    dispatch.words_op(None, out.device)(out, rng.state(out.device), 0, 0, rng.generator_id)
    return out.numpy().view(np.uint32)


class Measured(NamedTuple):
    """Statistics of a sample."""

    count: int
    power_means: dict[int, float]
    tails: dict[str, tuple[int, float]]  # (found, expected)
    products: dict[str, float]  # of neighbors, in standard errors
    smirnov: float  # sqrt(n) D of Kolmogorov and Smirnov
    darling: float  # A^2 of Anderson and Darling


def measure(z: np.ndarray) -> Measured:
    """Of values [an even number]."""
    return Measured(len(z), power_means(z), tail_counts(z), neighbor_products(z), *distances(z))


def p_values(sample: Measured) -> dict[str, float]:
    """By the name of the test."""
    result = {f"moment {k}": chernoff(k, mean, sample.count) for k, mean in sample.power_means.items()}
    result.update({name: _poisson(*counts) for name, counts in sample.tails.items()})
    result.update({name: float(2 * scipy.stats.norm.sf(abs(size))) for name, size in sample.products.items()})
    result["Kolmogorov-Smirnov"] = float(scipy.stats.kstwobign.sf(sample.smirnov))
    # Zolotarev's tail of the limit distribution: right to 5 % below 0.01, too large above.
    result["Anderson-Darling"] = float(min(1.0, math.sqrt(3) * scipy.stats.chi2.sf(2 * sample.darling, 1)))
    return result


def rejected(z: np.ndarray) -> dict[str, float]:
    return {name: p for name, p in p_values(measure(z)).items() if p < REJECT}


def _chunks(z: np.ndarray, overlap: int = 0) -> Iterator[np.ndarray]:
    """Float64 pieces that begin a chunk apart and end ``overlap`` values later, where there are any."""
    for begin in range(0, len(z), _CHUNK):
        yield z[begin : begin + _CHUNK + overlap].astype(np.float64)


def power_means(z: np.ndarray) -> dict[int, float]:
    """The mean of z^k by k."""
    sums = dict.fromkeys(range(1, 9), 0.0)
    for part in _chunks(z):
        power = np.ones_like(part)
        for k in sums:
            power *= part
            sums[k] += float(power.sum())
    return {k: total / len(z) for k, total in sums.items()}


def power_mean(k: int) -> float:
    """What the mean of z^k should be."""
    return float(scipy.special.factorial2(k - 1)) if k % 2 == 0 else 0.0


def power_variance(k: int) -> float:
    """Of z^k."""
    return float(scipy.special.factorial2(2 * k - 1)) - power_mean(k) ** 2


def standard_errors(sample: Measured) -> list[float]:
    """By how many of them each mean of powers is off."""
    return [
        (mean - power_mean(k)) / math.sqrt(power_variance(k) / sample.count) for k, mean in sample.power_means.items()
    ]


def chernoff(k: int, mean: float, count: int) -> float:
    """A bound on the probability that the mean of z^k is so far off on either side.

    Powers have long tails, on which the central limit theorem is no guide at a billionth.
    """
    x = np.linspace(-LONGEST, LONGEST, 20_001)
    log_weights = scipy.stats.norm.logpdf(x) + math.log(x[1] - x[0])
    expected = power_mean(k)
    distance = abs(mean - expected)
    centered = (x**k - expected) * (1 if mean > expected else -1)

    def log_bound(theta: float) -> float:
        return count * (scipy.special.logsumexp(log_weights + theta * centered) - theta * distance)

    far = 4 * distance / power_variance(k)
    best = scipy.optimize.minimize_scalar(log_bound, bounds=(0, far), method="bounded", options={"xatol": 1e-6 * far})
    return min(1.0, 2 * math.exp(min(0.0, best.fun)))


def _poisson(observed: int, expected: float) -> float:
    below, above = scipy.stats.poisson.cdf(observed, expected), scipy.stats.poisson.sf(observed - 1, expected)
    return float(min(1.0, 2 * min(below, above)))


def tail_counts(z: np.ndarray) -> dict[str, tuple[int, float]]:
    """(how many were found, how many are expected) beyond each tail, on each side, and of radii of pairs."""
    found: dict[str, int] = {}
    for part in _chunks(z):
        radius = np.hypot(part[0::2], part[1::2])
        for t in TAILS:
            for name, beyond in (("above ", part > t), ("below -", part < -t), ("radius above ", radius > t)):
                found[f"{name}{t:g}"] = found.get(f"{name}{t:g}", 0) + int(beyond.sum())
    expected = {}
    for t in TAILS:
        expected[f"above {t:g}"] = expected[f"below -{t:g}"] = len(z) * scipy.stats.norm.sf(t)
        expected[f"radius above {t:g}"] = len(z) / 2 * math.exp(-t * t / 2)
    return {name: (count, float(expected[name])) for name, count in found.items()}


def neighbor_products(z: np.ndarray) -> dict[str, float]:
    """Sums of products of neighbors, and of their squares less one, in standard errors."""
    sums: dict[str, float] = {}

    def add(name: str, a: np.ndarray, b: np.ndarray) -> None:
        sums[name] = sums.get(name, 0.0) + float(a @ b)

    for part in _chunks(z, overlap=max(LAGS)):
        square = (part**2 - 1) / math.sqrt(2)
        pairs = min(_CHUNK, len(part))
        add("pairs", part[0:pairs:2], part[1:pairs:2])
        for lag in LAGS:
            last = min(len(part), _CHUNK + lag)
            add(f"lag {lag}", part[lag:last], part[: last - lag])
            add(f"squares, lag {lag}", square[lag:last], square[: last - lag])
    return {name: total / math.sqrt(len(z) / 2 if name == "pairs" else len(z)) for name, total in sums.items()}


def distances(z: np.ndarray) -> tuple[float, float]:
    """(sqrt(n) D, A^2) of all values, without bins."""
    count, largest, total = len(z), 0.0, 0.0
    ordered = np.sort(z)
    for begin in range(0, count, _CHUNK):
        x = ordered[begin : begin + _CHUNK].astype(np.float64)
        rank = np.arange(begin, begin + len(x), dtype=np.float64)
        phi = scipy.special.ndtr(x)
        largest = max(largest, float((phi - rank / count).max()), float(((rank + 1) / count - phi).max()))
        total += float(((2 * rank + 1) * np.log(phi) + (2 * (count - rank) - 1) * scipy.special.log_ndtr(-x)).sum())
    return math.sqrt(count) * largest, -count - total / count


# Faults. Each makes other values of the right ones and their words.


def _pairs(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    copy = z.copy()
    return copy[0::2], copy[1::2]


def _joined(even: np.ndarray, odd: np.ndarray) -> np.ndarray:
    return np.stack([even, odd], 1).ravel()


def _low_bits_lost(z: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The low 16 bits of the first word are zero."""
    even, odd = _pairs(z)

    def radius(word: np.ndarray) -> np.ndarray:
        u = word.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
        return np.sqrt(-2 * np.log(u.astype(np.float64)))

    right = radius(words[0::2])
    wrong = radius(words[0::2] & np.uint32(0xFFFF0000))
    ratio = np.divide(wrong, right, out=np.ones_like(right), where=right > 0).astype(np.float32)
    return _joined(even * ratio, odd * ratio)


def _sine_flipped(quadrants: tuple[int, ...]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def fault(z: np.ndarray, words: np.ndarray) -> np.ndarray:
        even, odd = _pairs(z)
        odd[np.isin(words[1::2] >> 30, quadrants)] *= -1
        return _joined(even, odd)

    return fault


def _echo(lag: int, share: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Each value has a share of the one that came ``lag`` before, at the same variance."""

    def fault(z: np.ndarray, words: np.ndarray) -> np.ndarray:
        return (math.sqrt(1 - share**2) * z + share * np.roll(z, lag)).astype(z.dtype)

    return fault


def _loudness(lag: int, share: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A value is larger after a large one: uncorrelated, but not independent."""

    def fault(z: np.ndarray, words: np.ndarray) -> np.ndarray:
        return (z * np.sqrt(1 + share * (np.roll(z, lag) ** 2 - 1))).astype(z.dtype)

    return fault


def _every_25000th(value: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def fault(z: np.ndarray, words: np.ndarray) -> np.ndarray:
        wrong = z.copy()
        wrong[::25_000] = value
        return wrong

    return fault


def _radius_clamped(z: np.ndarray, words: np.ndarray) -> np.ndarray:
    even, odd = _pairs(z)
    shorter = np.minimum(1, 4 / np.hypot(even, odd).clip(1e-30))
    return _joined(even * shorter, odd * shorter)


def _odd_with_even(z: np.ndarray, words: np.ndarray) -> np.ndarray:
    even, odd = _pairs(z)
    return _joined(even, (math.sqrt(1 - 0.02**2) * odd + 0.02 * even).astype(z.dtype))


FAULTS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], tuple[str, ...]]] = {
    "std 1 % too large": (lambda z, _: z * np.float32(1.01), ("moment 2", "moment 4", "moment 6")),
    "std 1 % too small": (lambda z, _: z * np.float32(0.99), ("moment 2",)),
    "mean off by 0.01": (lambda z, _: z + np.float32(0.01), ("moment 1", "Kolmogorov-Smirnov", "Anderson-Darling")),
    "skewed": (lambda z, _: z + np.float32(0.01) * (z**2 - 1), ("moment 3", "moment 5", "moment 7")),
    "long-tailed": (lambda z, _: z + np.float32(0.003) * (z**3 - 3 * z), ("moment 4", "moment 6", "moment 8")),
    "clamped at 4": (lambda z, _: z.clip(-4, 4), ("above 4", "below -4")),
    "radius clamped at 4": (_radius_clamped, ("radius above 4",)),
    "low 16 bits of the first word zero": (_low_bits_lost, ("radius above 6", "moment 8")),
    "sine flipped in one quadrant": (_sine_flipped((0,)), ("moment 1", "Kolmogorov-Smirnov")),
    "sine flipped in two quadrants": (_sine_flipped((0, 2)), ("pairs", "lag 1")),
    "odd values with a part of the even": (_odd_with_even, ("pairs",)),
    "rounded to multiples of 1/64": (lambda z, _: np.round(z * 64) / np.float32(64), ("Kolmogorov-Smirnov",)),
    **{f"echo of {lag} before": (_echo(lag, 0.01), (f"lag {lag}",)) for lag in LAGS},
    **{f"louder {lag} after a loud one": (_loudness(lag, 0.02), (f"squares, lag {lag}",)) for lag in LAGS},
    "one in 25,000 is 7": (_every_25000th(7), ("above 5", "above 6", "radius above 5", "radius above 6")),
    "one in 25,000 is -7": (_every_25000th(-7), ("below -5", "below -6")),
}
"""By name: the faulty values of (right values, their words), and tests that must reject them among 10^6 values."""

FAINT: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], tuple[str, ...]]] = {
    "std 0.06 % too large": (lambda z, _: z * np.float32(1.0006), ("moment 2",)),
    "mean off by 0.001": (lambda z, _: z + np.float32(0.001), ("moment 1", "Kolmogorov-Smirnov")),
    "clamped at 5": (lambda z, _: z.clip(-5, 5), ("above 5", "below -5")),
    "low 16 bits of the first word zero": (_low_bits_lost, ("above 6", "below -6", "radius above 6")),
    "odd values with 0.2 % of the even": (
        lambda z, _: _joined(_pairs(z)[0], _pairs(z)[1] + np.float32(0.002) * _pairs(z)[0]),
        ("pairs",),
    ),
}
"""The same among 10^8 values."""


def missed(z: np.ndarray, words: np.ndarray, faults: dict) -> list[str]:
    """The tests that did not find a fault which they should."""
    result = []
    for name, (fault, tests) in faults.items():
        found = p_values(measure(fault(z, words)))
        result += [f"{name}: {test}, p = {found[test]:.2g}" for test in tests if found[test] >= REJECT]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("generator", choices=GENERATORS)
    parser.add_argument("count", type=int)
    parser.add_argument("--faults", action="store_true", help="plant faults that are visible only among so many")
    given = parser.parse_args()
    z = draw(given.generator, given.count)
    sample = measure(z)
    result = {
        "generator": given.generator,
        "variant": torch.ops.tip_kernels.cpu_variant(),
        "p": p_values(sample),
        "standard errors": standard_errors(sample),
        **sample._asdict(),
    }
    if given.faults:
        result["missed"] = missed(z, words_of(given.generator, given.count), FAINT)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
