"""The noise has the promised distribution, in the promised subspace, and parts of it are independent.

Keys are fixed, so a test gives the same result every time. Each says how improbable its failure would be under a
right implementation with a random key; thresholds are such that the whole file stays below 1e-3.
"""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from released import TINY_FLOOR

import tip_kernels as tip
from tip_kernels.rng import GENERATORS

STD = 0.37
TINY = 1e-7  # probability, on each side, beyond which a statistic is rejected


def _coefficients(backend, shape, cutoff=0.5, seed=1, tensors=1, **options) -> list[torch.Tensor]:
    """What one call adds to zeros, in the real Fourier basis, in float64: per tensor [kernels, K]."""
    grads = [backend.zeros(*shape) for _ in range(tensors)]
    rng = options.pop("rng", None) or tip.NoiseRNG.from_seed(seed, options.pop("generator", "chacha12"))
    options = {"ratio": 1.0, "std": STD, **options}
    backend.perturb_(grads, [backend.scores(shape[0])] * tensors, cutoff=cutoff, rng=rng, **options)
    basis, _ = tip.spectrum.real_basis(shape[2:], tip.spectrum.radial_mask(shape[2:], cutoff))
    return [grad.cpu().double().flatten(2).flatten(0, 1) @ basis for grad in grads]


def _accepts_std(samples: torch.Tensor, std: float) -> bool:
    """Chi-square test of sum (x / std)^2 on len(samples) degrees of freedom, at 2 * TINY."""
    count = samples.numel()
    statistic = (samples / std).square().sum().item()
    return TINY < scipy.stats.chi2.cdf(statistic, count) < 1 - TINY


def _assert_std(samples: torch.Tensor, std: float) -> None:
    """Accepts the right standard deviation and rejects 3% less and more.

    The relative error of an estimate from n samples is 1/sqrt(2 n), so the rejections need n > 5.2^2 / 2 / 0.03^2,
    15,000, plus room for the estimate's own error: 60,000 samples reject with a probability above 1 - 1e-6.
    """
    assert samples.numel() >= 60_000
    assert _accepts_std(samples, std)
    assert not _accepts_std(samples, 0.97 * std)
    assert not _accepts_std(samples, 1.03 * std)


def _assert_identity_covariance(samples: torch.Tensor) -> None:
    """Standard normal samples [n, d]: all d (d + 1) / 2 moments jointly, chi-square at 2 * TINY.

    Off the diagonal n S_ij^2 is chi-square on one degree of freedom, on it n (S_ii - 1)^2 / 2 is.
    """
    count, dims = samples.shape
    moments = samples.T @ samples / count
    upper = torch.triu(moments, 1).square().sum()
    diagonal = (moments.diagonal() - 1).square().sum() / 2
    statistic = (count * (upper + diagonal)).item()
    assert TINY < scipy.stats.chi2.cdf(statistic, dims * (dims + 1) // 2) < 1 - TINY


def _assert_uncorrelated(a: torch.Tensor, b: torch.Tensor) -> None:
    """sqrt(n) times the mean product of independent standard normals is standard normal: 5.2 is 2e-7, two-sided."""
    a, b = a.flatten(), b.flatten()
    assert abs((a * b).mean().item()) * a.numel() ** 0.5 < 5.2


def _assert_no_four_twice(*samples: torch.Tensor) -> None:
    """No four neighboring coefficients come again.

    Rounded to 1e-4, past all float32 rounding, two independent fours of standard normals are equal with probability
    (1e-4 / sqrt(4 pi))^4 < 1e-18, and below there are fewer than 2^33 ways to choose two.
    """
    fours = torch.cat([sample.reshape(-1, 4) for sample in samples]).mul(1e4).round()
    assert len(fours) <= 2**17
    assert len(np.unique(fours.numpy(), axis=0)) == len(fours)


@pytest.mark.parametrize("generator", GENERATORS)
def test_std_in_the_masked_subspace(backend, generator):
    (noise,) = _coefficients(backend, (32, 256, 3, 3), generator=generator)
    _assert_std(noise[:, :8], STD)


@pytest.mark.parametrize(("kernel_size", "cutoff", "high_dim"), [((3, 3), 0.75, 4), ((5,), 0.5, 2), ((4, 4), 0.5, 7)])
def test_nothing_outside_the_masked_subspace(backend, kernel_size, cutoff, high_dim):
    (noise,) = _coefficients(backend, (64, 64, *kernel_size), cutoff=cutoff)
    assert tip.spectrum.real_basis(kernel_size, tip.spectrum.radial_mask(kernel_size, cutoff))[1] == high_dim
    # Each of at most 16 taps carries a float32 error of d products of normals (below 7 STD) with columns.
    assert noise[:, high_dim:].abs().max() < 16 * 7 * STD * 2.0**-23
    assert _accepts_std(noise[:, :high_dim], STD)


def test_std_of_each_coefficient(backend):
    (noise,) = _coefficients(backend, (128, 512, 3, 3))
    for column in range(8):
        _assert_std(noise[:, column], STD)


def test_coefficients_are_jointly_independent(backend):
    (noise,) = _coefficients(backend, (64, 512, 3, 3))
    _assert_identity_covariance(noise[:, :8] / STD)


@pytest.mark.parametrize("kernel_size", [(5, 5), (4, 3), (3, 3, 3)])
def test_coefficients_of_other_kernel_sizes(backend, kernel_size):
    (noise,) = _coefficients(backend, (32, 128, *kernel_size))
    high_dim = tip.spectrum.real_basis(kernel_size, tip.spectrum.radial_mask(kernel_size, 0.5))[1]
    _assert_identity_covariance(noise[:, :high_dim] / STD)


def test_floor_covers_the_rest_independently(backend):
    floor = 2.5
    (noise,) = _coefficients(backend, (64, 512, 3, 3), cutoff=0.75, floor_std=floor)
    _assert_std(noise[:, :4], STD)
    _assert_std(noise[:, 4:], floor)
    _assert_identity_covariance(torch.cat([noise[:, :4] / STD, noise[:, 4:] / floor], 1))


def test_floor_covers_other_channels_in_full(backend):
    floor = 2.5
    (noise,) = _coefficients(backend, (64, 512, 3, 3), ratio=0.0, floor_std=floor)
    _assert_std(noise, floor)
    _assert_identity_covariance(noise / floor)


def test_floor_of_flat_tensors(backend):
    values = backend.zeros(2**18)
    backend.perturb_([values], [None], ratio=0.3, std=1.0, floor_std=STD, rng=tip.NoiseRNG.from_seed(4))
    _assert_std(values.cpu().double(), STD)
    _assert_identity_covariance(values.cpu().double().reshape(-1, 16) / STD)


def test_kernels_are_independent(backend):
    (noise,) = _coefficients(backend, (16, 512, 3, 3))
    unit = noise[:, :8] / STD
    for distance in (1, 2, 3, 4, 8, 511, 512, 1024):
        _assert_uncorrelated(unit[distance:], unit[:-distance])
        _assert_uncorrelated(unit[distance:, 0], unit[:-distance, 7])
    _assert_no_four_twice(unit)


def test_tensors_are_independent(backend):
    tensors = _coefficients(backend, (16, 256, 3, 3), tensors=4)
    units = [noise[:, :8] / STD for noise in tensors]
    for a, b in itertools.combinations(units, 2):
        _assert_uncorrelated(a, b)
    _assert_no_four_twice(*units)


def test_selected_and_other_channels_are_independent(backend):
    """Also one beside another in a call with a floor, where their words are drawn by different code."""
    (noise,) = _coefficients(backend, (64, 128, 3, 3), ratio=0.5, floor_std=STD)
    selected = (backend.scores(64).cpu() >= 32).repeat_interleave(128)
    unit = noise / STD
    assert _accepts_std(unit, 1.0)
    _assert_uncorrelated(unit[selected], unit[~selected])
    _assert_identity_covariance(unit)


def test_steps_are_independent(backend):
    rng = tip.NoiseRNG.from_seed(2)
    units = [_coefficients(backend, (16, 256, 3, 3), rng=rng)[0][:, :8] / STD for _ in range(4)]
    for a, b in itertools.combinations(units, 2):
        _assert_uncorrelated(a, b)
    _assert_no_four_twice(*units)


@pytest.mark.parametrize("generator", GENERATORS)
def test_keys_are_independent(backend, generator):
    """Keys that differ in one bit; philox uses the first eight bytes."""
    keys = [bytes(32), b"\1" + bytes(31), bytes(7) + b"\x80" + bytes(24)]
    rngs = [tip.NoiseRNG(key, generator) for key in keys]
    units = [_coefficients(backend, (16, 256, 3, 3), rng=rng)[0][:, :8] / STD for rng in rngs]
    for a, b in itertools.combinations(units, 2):
        _assert_uncorrelated(a, b)
    _assert_no_four_twice(*units)


@pytest.mark.parametrize("generator", GENERATORS)
def test_shape_of_the_distribution(backend, generator):
    """Histogram, symmetry, kurtosis and tails of 2^20 normals."""
    count = 2**20
    values = backend.zeros(count)
    rng = tip.NoiseRNG.from_seed(3, generator)
    backend.perturb_([values], [None], ratio=0, std=0.0, floor_std=TINY_FLOOR, rng=rng)
    z = values.cpu().double().numpy() / TINY_FLOOR

    bins = 256
    observed = np.bincount((scipy.stats.norm.cdf(z) * bins).astype(int).clip(0, bins - 1), minlength=bins)
    statistic = (np.square(observed - count / bins) / (count / bins)).sum()
    assert TINY < scipy.stats.chi2.cdf(statistic, bins - 1) < 1 - TINY

    # Standard errors of mean, skewness and excess kurtosis of n normals: 1, sqrt(6) and sqrt(24) over sqrt(n).
    for moment, spread in ((z.mean(), 1), ((z**3).mean(), 15**0.5), ((z**4).mean() - 3, 96**0.5)):
        assert abs(moment) < 5.2 * spread / count**0.5

    for threshold in (3.0, 3.5, 4.0, 4.5):
        expected = count * scipy.stats.norm.sf(threshold)
        for tail in (z > threshold, z < -threshold):
            assert scipy.stats.poisson.cdf(tail.sum(), expected) > TINY
            assert scipy.stats.poisson.sf(tail.sum() - 1, expected) > TINY
