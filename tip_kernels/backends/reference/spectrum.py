"""Spectra for the reference backend: masks and coefficients on the half spectrum of ``torch.fft.rfftn``."""

import itertools
import math
from typing import NamedTuple

import torch

from ..._runtime.tracing import cached


class Band(NamedTuple):
    """A mask and the order of the coefficients of its spectrum, on the half spectrum of ``rfftn`` (H bins)."""

    kernel_size: tuple[int, ...]
    high_dim: int
    mask: torch.Tensor  # bool [*half]
    real_column: torch.Tensor  # int64 [H]: which coefficient is the real part of a bin
    imag_column: torch.Tensor  # int64 [H]
    real_factor: torch.Tensor  # float64 [H]
    imag_factor: torch.Tensor  # float64 [H]

    def synthesize(self, coefficients: torch.Tensor) -> torch.Tensor:
        """The kernels [R, m, *kernel_size] of real Fourier coefficients [R, m, K]."""
        real = coefficients[..., self.real_column] * self.real_factor  # [R, m, H]
        imag = coefficients[..., self.imag_column] * self.imag_factor  # [R, m, H]
        half = torch.complex(real, imag).reshape(*real.shape[:2], *self.mask.shape)  # [R, m, *half]
        return self._inverse(half)

    def filter(self, kernels: torch.Tensor) -> torch.Tensor:
        """The high band of kernels [R, m, *kernel_size]."""
        axes = tuple(range(2, kernels.dim()))
        half = torch.fft.rfftn(kernels, dim=axes, norm="ortho")  # [R, m, *half]
        return self._inverse(half * self.mask)

    def _inverse(self, half: torch.Tensor) -> torch.Tensor:
        axes = tuple(range(2, half.dim()))
        kernels: torch.Tensor = torch.fft.irfftn(half, s=self.kernel_size, dim=axes, norm="ortho")
        return kernels  # [R, m, *kernel_size]


def make_band(basis: torch.Tensor, high_dim: int, kernel_size: tuple[int, ...]) -> Band:
    """The mask is where the basis's first columns have their spectrum; the order follows from it."""
    bins = _bins(kernel_size, basis.device)
    columns = basis[:, :high_dim].t().reshape(high_dim, *kernel_size)  # [d, *kernel_size]
    spectra = torch.fft.fftn(columns, dim=tuple(range(1, columns.dim())), norm="ortho")  # [d, *kernel_size]
    high = (spectra.abs().amax(0) > 0.5).flatten()  # [K]: 1 or sqrt(1/2) where a column has its bin, else 0
    high_first = torch.where(high, bins.width, 0)  # [K]
    low_first = torch.where(high, 0, bins.width)  # [K]
    column = torch.where(  # [K]: the first coefficient of a representative bin
        high, high_first.cumsum(0) - high_first, high_dim + low_first.cumsum(0) - low_first
    )
    column = column.clamp(0, len(column) - 1)  # of a matrix that is no such basis, too
    half_shape = (*kernel_size[:-1], kernel_size[-1] // 2 + 1)
    real_column = column[bins.representative]  # [H]
    return Band(
        kernel_size=kernel_size,
        high_dim=high_dim,
        mask=high[bins.half].reshape(half_shape),  # [*half]
        real_column=real_column,
        imag_column=torch.where(bins.imag_factor == 0, real_column, (real_column + 1) % len(column)),  # [H]
        real_factor=bins.real_factor,
        imag_factor=bins.imag_factor,
    )


class _Bins(NamedTuple):
    """The conjugate pairs of the DFT of a kernel size; flat row-major indices into its K bins."""

    width: torch.Tensor  # int64 [K]: coefficients of a bin: 1, 2, or 0 for the second of a pair
    half: torch.Tensor  # int64 [H]: the bins of the half spectrum
    representative: torch.Tensor  # int64 [H]: the first of their pairs
    real_factor: torch.Tensor  # float64 [H]
    imag_factor: torch.Tensor  # float64 [H]: 0 for a bin that is its own conjugate


@cached(maxsize=64)
def _bins(kernel_size: tuple[int, ...], device: torch.device) -> _Bins:
    all_bins = list(itertools.product(*map(range, kernel_size)))
    flat = {bin_: i for i, bin_ in enumerate(all_bins)}
    partner = [flat[tuple(-b % n for b, n in zip(bin_, kernel_size, strict=True))] for bin_ in all_bins]
    half = [i for i, bin_ in enumerate(all_bins) if bin_[-1] <= kernel_size[-1] // 2]
    root = math.sqrt(0.5)
    return _Bins(
        width=torch.tensor([(i <= p) + (i < p) for i, p in enumerate(partner)], device=device),
        half=torch.tensor(half, device=device),
        representative=torch.tensor([min(i, partner[i]) for i in half], device=device),
        real_factor=torch.tensor([1.0 if partner[i] == i else root for i in half], dtype=torch.float64, device=device),
        imag_factor=torch.tensor(
            [root * ((partner[i] < i) - (i < partner[i])) for i in half], dtype=torch.float64, device=device
        ),
    )
