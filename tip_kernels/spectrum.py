"""Frequency masks, and the real orthonormal bases in which a masked DFT is a small matrix."""

import itertools
import math

import torch

from ._runtime.tracing import cached


def radial_mask(kernel_size: tuple[int, ...], cutoff: float) -> torch.Tensor:
    """The high band of a kernel: the bins whose normalized radius exceeds ``cutoff``.

    Frequencies of each axis are divided by that axis's largest, so they span 0..1; the radius is their
    Euclidean norm over the square root of the number of axes. Axes of length 1 are left out.
    (TIP, arXiv 2602.11633, section 4; normalized per axis so that one cutoff serves every kernel size.)

    Args:
        kernel_size: taps along each spatial axis.
        cutoff: in [0, 1). For 3x3, 0.5 keeps all but DC (8 of 9 dimensions), 0.75 the corners (4 of 9).

    Returns:
        bool tensor in ``rfftn`` layout, ``[*kernel_size[:-1], kernel_size[-1] // 2 + 1]``, on the CPU.

    Raises:
        ValueError: cutoff is outside [0, 1), or an axis is shorter than 1.
    """
    if not 0.0 <= cutoff < 1.0:
        raise ValueError(f"expected cutoff in [0, 1), got {cutoff}")
    _check_kernel_size(kernel_size)
    return bin_radii(tuple(kernel_size)) > cutoff


def bin_radii(kernel_size: tuple[int, ...]) -> torch.Tensor:
    """The normalized radius, as of :func:`radial_mask`, of each bin in ``rfftn`` layout, float64 on the CPU."""
    return _radii(kernel_size)[..., : kernel_size[-1] // 2 + 1].clone()


def check_mask(mask: torch.Tensor, kernel_size: tuple[int, ...]) -> None:
    """Raises unless ``mask`` is a bool mask in ``rfftn`` layout that a real signal can have.

    A real kernel's bins at (u, 0) and (-u, 0) are conjugates, so the mask must treat them alike; the same
    holds for the last column when the last axis is even.

    Raises:
        TypeError: the mask is not a bool tensor.
        ValueError: its shape is wrong, conjugate bins differ, or an axis is shorter than 1.
    """
    _check_kernel_size(kernel_size)
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"expected mask to be a bool tensor, got {got}")
    shape = (*kernel_size[:-1], kernel_size[-1] // 2 + 1)
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"expected mask of shape {shape} (rfftn layout) for kernel size {kernel_size}, got {tuple(mask.shape)}"
        )
    check_conjugates("a mask", mask, kernel_size)


def check_conjugates(what: str, values: torch.Tensor, kernel_size: tuple[int, ...]) -> None:
    """Raises ValueError unless values in ``rfftn`` layout, as ``what`` has them, are equal at conjugate bins."""
    for bin_ in itertools.product(*map(range, values.shape)):
        partner = _conjugate(bin_, kernel_size)
        if partner[-1] < values.shape[-1] and values[bin_].item() != values[partner].item():
            raise ValueError(f"expected {what} equal at the conjugate bins {bin_} and {partner}, got different values")


def real_basis(kernel_size: tuple[int, ...], mask: torch.Tensor) -> tuple[torch.Tensor, int]:
    """An orthonormal real Fourier basis of R^K whose first d columns span the masked bins.

    Adding Hermitian-symmetric Gaussian noise of standard deviation ``std`` to the masked bins of the
    orthonormal DFT is the same as adding ``std * B @ xi``, with ``B`` the first d columns, xi ~ N(0, I_d).

    Columns: the masked bins in row-major order of the full DFT, one of each conjugate pair (the first), then the
    other bins in the same order. A pair gives a cosine and then a sine column, sqrt(2/K) cos(phase) and
    sqrt(2/K) sin(phase); a bin that is its own conjugate gives one, cos(phase)/sqrt(K). phase is
    2 pi sum_i(bin_i * tap_i / kernel_size_i), and taps are row-major.

    Args:
        kernel_size: taps along each spatial axis, K in all.
        mask: bool, ``rfftn`` layout, see :func:`radial_mask`.

    Returns:
        Q, a float64 tensor [K, K] on the CPU, and d, the number of masked columns.

    Raises:
        TypeError, ValueError: see :func:`check_mask`.
    """
    kernel_size = tuple(kernel_size)
    check_mask(mask, kernel_size)
    high: list[tuple[int, ...]] = []
    low: list[tuple[int, ...]] = []
    for bin_ in itertools.product(*map(range, kernel_size)):
        partner = _conjugate(bin_, kernel_size)
        if bin_ <= partner:
            stored = bin_ if bin_[-1] < mask.shape[-1] else partner
            (high if mask[stored] else low).append(bin_)
    columns = [_columns(bins, kernel_size) for bins in (high, low)]
    return torch.cat(columns, dim=1), columns[0].shape[1]


def column_radii(basis: torch.Tensor, kernel_size: tuple[int, ...]) -> torch.Tensor:
    """The normalized radius, as of :func:`radial_mask`, of each column of a :func:`real_basis`, float64 [K].

    A column is a wave of one bin and its conjugate, whose radii are equal.
    """
    return _radii(tuple(kernel_size)).flatten()[_peaks(basis, kernel_size)]


def column_bins(basis: torch.Tensor, kernel_size: tuple[int, ...]) -> torch.Tensor:
    """Which bin each column of a :func:`real_basis` is a wave of: places in the flat ``rfftn`` layout, int64 [K]."""
    shape = (*kernel_size[:-1], kernel_size[-1] // 2 + 1)
    found = []
    for bin_ in zip(*torch.unravel_index(_peaks(basis, kernel_size), tuple(kernel_size)), strict=True):
        stored = tuple(int(b) for b in bin_)
        if stored[-1] >= shape[-1]:
            stored = _conjugate(stored, kernel_size)
        found.append(sum(b * math.prod(shape[axis + 1 :]) for axis, b in enumerate(stored)))
    return torch.tensor(found, dtype=torch.int64, device="cpu")


def _peaks(basis: torch.Tensor, kernel_size: tuple[int, ...]) -> torch.Tensor:
    """The loudest bin of each column, or the first of two alike, as places in the flat DFT, int64 [K]."""
    waves = basis.T.reshape(-1, *kernel_size).to(torch.complex128)
    power = torch.fft.fftn(waves, dim=tuple(range(1, waves.dim())), norm="ortho").abs().square()
    peaks: torch.Tensor = power.flatten(1).argmax(1)
    return peaks


def _check_kernel_size(kernel_size: tuple[int, ...]) -> None:
    if not kernel_size or min(kernel_size) < 1:
        raise ValueError(f"expected a kernel size of positive lengths, got {tuple(kernel_size)}")


def _columns(bins: list[tuple[int, ...]], kernel_size: tuple[int, ...]) -> torch.Tensor:
    """The one or two unit vectors of each bin and its conjugate, [K, columns]."""
    taps = _grid(kernel_size)  # [K, axes]
    lengths = torch.tensor(kernel_size, dtype=torch.float64, device="cpu")
    frequencies = torch.tensor(bins, dtype=torch.float64, device="cpu").reshape(-1, len(kernel_size))  # [bins, axes]
    turns = (taps.unsqueeze(1) * frequencies % lengths / lengths).sum(2)  # [K, bins]
    phase = 2 * math.pi * turns
    pairs = math.sqrt(2 / len(taps)) * torch.stack([phase.cos(), phase.sin()], dim=2)  # [K, bins, 2]
    alone = torch.tensor([bin_ == _conjugate(bin_, kernel_size) for bin_ in bins], dtype=torch.bool, device="cpu")
    pairs[:, alone] /= math.sqrt(2)  # their sine is zero, and left out
    kept = torch.stack([torch.ones_like(alone), ~alone], dim=1).flatten()
    return pairs.flatten(1)[:, kept]


def _conjugate(bin_: tuple[int, ...], kernel_size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-b % n for b, n in zip(bin_, kernel_size, strict=True))


def _grid(kernel_size: tuple[int, ...]) -> torch.Tensor:
    """Tap coordinates [K, axes], row-major, float64."""
    axes = [torch.arange(n, dtype=torch.float64, device="cpu") for n in kernel_size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))


@cached(maxsize=256)
def _radii(kernel_size: tuple[int, ...]) -> torch.Tensor:
    """Normalized radius of every bin of the full DFT, [*kernel_size], float64."""
    frequencies = _grid(kernel_size)  # of the bins, which are counted as the taps are
    lengths = torch.tensor(kernel_size, dtype=torch.float64, device="cpu")
    frequencies = torch.minimum(frequencies, lengths - frequencies) / (lengths / 2).floor().clamp(min=1)
    axes = max(sum(n > 1 for n in kernel_size), 1)
    return (frequencies.square().sum(1) / axes).sqrt().reshape(kernel_size)
