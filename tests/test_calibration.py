"""Scalar noise mathematics against independent computations."""

import math

import mpmath
import pytest
import torch

from tip_kernels import calibration, spectrum

mpmath.mp.dps = 50


def exact_delta(epsilon, std):
    """Balle & Wang 2018, theorem 8, for sensitivity 1, to 50 digits."""
    epsilon, std = mpmath.mpf(epsilon), mpmath.mpf(std)
    a, b = 1 / (2 * std), epsilon * std
    return mpmath.ncdf(a - b) - mpmath.exp(epsilon) * mpmath.ncdf(-a - b)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-9, 1e-5, 1e-3, 0.1, 0.5, 0.999])
def test_analytic_gaussian_is_tight(epsilon, delta):
    """The std is the root of the exact condition to 1e-10 of itself, where delta falls as std grows."""
    std = calibration.analytic_gaussian_std(epsilon, delta)
    assert exact_delta(epsilon, std * (1 - 1e-10)) > delta > exact_delta(epsilon, std * (1 + 1e-10))


def test_analytic_gaussian_scales_with_sensitivity():
    one = calibration.analytic_gaussian_std(2.0, 1e-5)
    assert calibration.analytic_gaussian_std(2.0, 1e-5, sensitivity=0.25) == 0.25 * one


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 0.99])
def test_classical_gaussian_is_private_where_its_proof_holds(epsilon):
    std = calibration.classical_gaussian_std(epsilon, 1e-5)
    assert std == pytest.approx(math.sqrt(2 * math.log(1.25e5)) / epsilon, rel=1e-15)
    assert exact_delta(epsilon, std) < 1e-5
    assert std > calibration.analytic_gaussian_std(epsilon, 1e-5)


def test_classical_gaussian_is_not_private_far_beyond():
    """Why it is not the default: at epsilon 10 its noise gives a larger delta than promised."""
    assert exact_delta(10.0, calibration.classical_gaussian_std(10.0, 1e-5)) > 1e-5


def test_local_update_sensitivity():
    assert calibration.local_update_sensitivity(steps=5, lr=0.1, max_grad_norm=2.0, batch_size=10) == pytest.approx(0.1)


@pytest.mark.parametrize("kernel_size", [(3, 3), (5, 5), (4, 4), (1, 7), (3, 5)])
@pytest.mark.parametrize("cutoff", [0.5, 0.75])
def test_paper_noise_is_our_noise(kernel_size, cutoff):
    """The covariance, over the taps, of the paper's complex noise procedure and of std * B @ xi, exactly."""
    beta, taps = 0.7, math.prod(kernel_size)
    half = spectrum.radial_mask(kernel_size, cutoff)
    basis, d = spectrum.real_basis(kernel_size, half)
    full = torch.fft.fftn(torch.fft.irfftn(half.double(), s=kernel_size)).real > 0.5  # the mask of all bins
    unit = torch.eye(taps, dtype=torch.float64).reshape(taps, *kernel_size)
    # The procedure is linear in its real and imaginary unit normals: one row for each of the 2K.
    normals = torch.cat([unit + 0j, 1j * unit]) * full
    rows = beta * torch.fft.ifft2(normals).real.flatten(1)
    std = calibration.spectrum_std(beta, taps)
    want = std**2 * basis[:, :d] @ basis[:, :d].T
    assert (rows.T @ rows - want).abs().max() <= 1e-14  # products of numbers below 1, in float64
    assert want.diagonal().sum() == pytest.approx(std**2 * d)  # so a tap has variance std^2 d / K


def test_relative_std():
    grads = [torch.tensor([3.0, -4.0]), torch.full((2, 2), 0.5, dtype=torch.bfloat16), torch.zeros(0)]
    std = calibration.relative_std(grads, 0.1)
    assert std.dtype == torch.float32
    assert std.tolist() == pytest.approx([0.1 * math.sqrt(12.5), 0.05, 0.0])


BAD = [
    (calibration.analytic_gaussian_std, (0.0, 1e-5), "epsilon to be positive and finite, got 0.0"),
    (calibration.analytic_gaussian_std, (math.inf, 1e-5), "epsilon to be positive and finite, got inf"),
    (calibration.analytic_gaussian_std, (1.0, 0.0), r"delta in \(0, 1\), got 0.0"),
    (calibration.analytic_gaussian_std, (1.0, math.nan), r"delta in \(0, 1\), got nan"),
    (calibration.classical_gaussian_std, (1.0, 1e-5, -1.0), "sensitivity to be positive and finite, got -1.0"),
    (calibration.classical_gaussian_std, (1.0, 1.0), r"delta in \(0, 1\), got 1.0"),
    (calibration.local_update_sensitivity, (0, 0.1, 1.0, 1), "steps to be positive and finite, got 0"),
    (calibration.local_update_sensitivity, (1, math.nan, 1.0, 1), "lr to be positive and finite, got nan"),
    (calibration.spectrum_std, (-1.0, 9), "beta to be finite and at least 0, got -1.0"),
    (calibration.spectrum_std, (1.0, 0), "taps to be positive and finite, got 0"),
    (calibration.relative_std, ([torch.ones(1)], -0.1), "fraction to be finite and at least 0, got -0.1"),
    (calibration.relative_std, ([], 0.1), "at least one gradient, got none"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), BAD)
def test_bad_arguments(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
