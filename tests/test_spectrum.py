"""Masks and bases against torch.fft."""

import contextlib
import itertools
import math

import pytest
import torch

from tip_kernels import spectrum

KERNEL_SIZES = [
    (1, 1),
    (2,),
    (9,),
    (3, 3),
    (5, 5),
    (4, 4),
    (3, 5),
    (1, 7),
    (7, 1),
    (2, 3),
    (11, 11),
    (3, 3, 3),
    (2, 4, 3),
]
CUTOFFS = [0.0, 0.5, 0.75, 0.99]
UNIT = 2.0**-53  # float64 unit roundoff


def dft(columns, kernel_size):
    """Orthonormal spectra of columns [K, n]: complex [n, *kernel_size]."""
    axes = tuple(range(1, len(kernel_size) + 1))
    return torch.fft.fftn(columns.T.reshape(-1, *kernel_size), dim=axes, norm="ortho")


def high_band(columns, kernel_size, mask):
    """Columns [K, n] with all but the masked bins removed, the long way."""
    axes = tuple(range(1, len(kernel_size) + 1))
    half = torch.fft.rfftn(columns.T.reshape(-1, *kernel_size), dim=axes)
    return torch.fft.irfftn(half * mask, s=kernel_size, dim=axes).flatten(1).T


def random_mask(kernel_size, seed):
    """Any mask a real signal can have: what a real random signal's spectrum exceeds in magnitude."""
    signal = torch.randn(kernel_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    power = torch.fft.rfftn(signal).abs()
    return power > power.median() * (1 + 1e-9)  # above the rounding that separates conjugate bins


@pytest.mark.parametrize("kernel_size", KERNEL_SIZES, ids=str)
@pytest.mark.parametrize("cutoff", [*CUTOFFS, "custom"])
def test_basis_is_orthonormal_and_spans_the_masked_bins(kernel_size, cutoff):
    mask = random_mask(kernel_size, 0) if cutoff == "custom" else spectrum.radial_mask(kernel_size, cutoff)
    basis, d = spectrum.real_basis(kernel_size, mask)
    taps = math.prod(kernel_size)
    assert basis.shape == (taps, taps)
    assert basis.dtype == torch.float64
    # Entries are good to a few roundoffs of 1, and each comparison sums K products of them.
    error = 16 * taps * UNIT
    eye = torch.eye(taps, dtype=torch.float64)
    assert (basis.T @ basis - eye).abs().max() <= error
    high = basis[:, :d]
    assert (high @ high.T - high_band(eye, kernel_size, mask)).abs().max() <= error


@pytest.mark.parametrize("kernel_size", KERNEL_SIZES, ids=str)
def test_columns_come_in_the_contract_order(kernel_size):
    """Masked bins in row-major order of the full DFT, then the others; a cosine and then a sine for each pair."""
    mask = spectrum.radial_mask(kernel_size, 0.5)
    basis, d = spectrum.real_basis(kernel_size, mask)
    spectra = iter(dft(basis, kernel_size))
    full = (
        dft(high_band(torch.eye(len(basis), dtype=torch.float64), kernel_size, mask), kernel_size).abs().sum(0) > 1e-6
    )
    columns = 0
    for wanted in (True, False):
        for bin_ in itertools.product(*map(range, kernel_size)):
            conjugate = tuple(-b % n for b, n in zip(bin_, kernel_size, strict=True))
            if conjugate < bin_ or bool(full[bin_]) != wanted:
                continue
            for value in [1.0] if conjugate == bin_ else [math.sqrt(0.5), -1j * math.sqrt(0.5)]:
                want = torch.zeros(kernel_size, dtype=torch.complex128)
                want[conjugate] = complex(value).conjugate()
                want[bin_] = value
                assert (next(spectra) - want).abs().max() <= 16 * len(basis) * UNIT
                columns += 1
        assert columns == (d if wanted else len(basis))


@pytest.mark.parametrize(
    ("kernel_size", "cutoff", "rows"),
    [
        ((3, 3), 0.5, ["01", "11", "11"]),  # all but DC
        ((3, 3), 0.75, ["00", "01", "01"]),  # the corners
        ((5, 5), 0.5, ["001", "001", "111", "111", "001"]),  # frequencies 0, 1/2, 1, 1, 1/2; a tie is low
        ((4, 4), 0.75, ["000", "001", "011", "001"]),  # 0, 1/2, 1, 1/2 down and 0, 1/2, 1 across
        ((9,), 0.5, ["00011"]),
        ((10,), 0.6, ["000011"]),  # 3/5 is a tie
        ((1, 7), 0.5, ["0011"]),  # the axis of length 1 is left out
        ((7, 1), 0.5, ["0", "0", "1", "1", "1", "1", "0"]),
        ((3, 5), 0.75, ["000", "011", "011"]),  # each axis by its own largest frequency: sqrt(5/8) = 0.79
        ((1, 1), 0.0, ["0"]),
    ],
)
def test_radial_masks_by_hand(kernel_size, cutoff, rows):
    want = torch.tensor([[digit == "1" for digit in row] for row in rows])
    mask = spectrum.radial_mask(kernel_size, cutoff)
    assert torch.equal(mask, want if len(kernel_size) > 1 else want[0])


def test_of_3x3_only_all_but_dc_has_eight_columns():
    """By which the compiled backends and Triton know it."""
    found = []
    for bins in itertools.product([False, True], repeat=6):
        mask = torch.tensor(bins).reshape(3, 2)
        with contextlib.suppress(ValueError):  # no real signal has it
            found.append((spectrum.real_basis((3, 3), mask)[1], mask))
    assert len(found) == 2**5
    (only,) = [mask for high_dim, mask in found if high_dim == 8]
    assert torch.equal(only, spectrum.radial_mask((3, 3), 0.5))


@pytest.mark.parametrize("kernel_size", KERNEL_SIZES, ids=str)
def test_radial_masks_are_ones_a_real_signal_can_have(kernel_size):
    for cutoff in CUTOFFS:
        spectrum.check_mask(spectrum.radial_mask(kernel_size, cutoff), kernel_size)


@pytest.mark.parametrize(
    ("kernel_size", "bin_", "partner"),
    [
        ((3, 3), (1, 0), (2, 0)),
        ((4, 4), (1, 2), (3, 2)),  # the last column of an even axis is its own conjugate too
        ((3, 3, 3), (0, 1, 0), (0, 2, 0)),
    ],
)
def test_a_mask_that_no_real_signal_has_is_refused(kernel_size, bin_, partner):
    mask = torch.zeros(*kernel_size[:-1], kernel_size[-1] // 2 + 1, dtype=torch.bool)
    mask[bin_] = True
    message = rf"equal at the conjugate bins \({', '.join(map(str, bin_))}\) and"
    with pytest.raises(ValueError, match=message):
        spectrum.check_mask(mask, kernel_size)
    mask[partner] = True
    spectrum.check_mask(mask, kernel_size)


def test_other_bad_arguments():
    square = torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"mask of shape \(3, 2\) \(rfftn layout\) for kernel size \(3, 3\), got \(3, 3\)"
    ):
        spectrum.real_basis((3, 3), square)
    with pytest.raises(TypeError, match=r"mask to be a bool tensor, got torch\.float32"):
        spectrum.real_basis((3, 3), torch.ones(3, 2))
    with pytest.raises(TypeError, match="mask to be a bool tensor, got list"):
        spectrum.check_mask([True], (1,))
    for cutoff in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"cutoff in \[0, 1\)"):
            spectrum.radial_mask((3, 3), cutoff)
    for kernel_size in ((), (3, 0)):
        with pytest.raises(ValueError, match="kernel size of positive lengths"):
            spectrum.radial_mask(kernel_size, 0.5)


def test_results_do_not_depend_on_default_device_and_dtype():
    size = (3, 6)  # not used elsewhere, so nothing of it is cached
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            basis, d = spectrum.real_basis(size, spectrum.radial_mask(size, 0.5))
    finally:
        torch.set_default_dtype(torch.float32)
    assert basis.device.type == "cpu"
    again, d_again = spectrum.real_basis(size, spectrum.radial_mask(size, 0.5))
    assert torch.equal(basis, again)
    assert d == d_again


def test_a_returned_mask_is_the_callers_own():
    spectrum.radial_mask((3, 3), 0.5).zero_()
    assert spectrum.radial_mask((3, 3), 0.5).any()
