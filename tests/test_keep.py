"""``keep`` in float64: what is left of the high band is what the formula says, to float64 rounding."""

import pytest
import torch

import tip_kernels as tip
from tip_kernels import spectrum

KEEPS = (0.1, 0.0, 1 / 3, 1 - 2.0**-40, 1.0)


def kept(x: torch.Tensor, keep: float) -> torch.Tensor:
    """x with ``keep`` of the high band of cutoff 0.5."""
    kernel_size = tuple(x.shape[2:])
    basis, high = spectrum.real_basis(kernel_size, spectrum.radial_mask(kernel_size, 0.5))
    band = basis[:, :high].to(x.device)
    flat = x.flatten(2)
    return (flat + (keep - 1.0) * (flat @ band) @ band.t()).reshape(x.shape)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 8, 3, 3), (3, 2, 7), (2, 1, 9, 9)], ids=str)
def test_float64_is_not_rounded_to_float32(shape, keep, backend):
    x = backend.gradient(*shape, dtype=torch.float64)
    got = x.clone()
    backend.perturb_([got], [backend.scores(shape[0])], ratio=1.0, std=0.0, keep=keep, rng=tip.NoiseRNG(bytes(32)))
    # Sums of at most 81 products of numbers below 5, in float64.
    torch.testing.assert_close(got, kept(x, keep), rtol=0, atol=1e-12)
