"""Laplacian smoothing of a gradient (arXiv 2005.00218): all its coordinates are one ring, so one FFT solves it."""

import torch

from bench.privacy.client.gradients import Gradient


def solve(gradient: Gradient, sigma: float) -> Gradient:
    """Solves (I - sigma L) x = gradient for x, with the discrete Laplacian L of the ring."""
    return _filter(gradient, eigenvalues(sum(g.numel() for g in gradient), sigma).reciprocal())


def apply(gradient: Gradient, sigma: float) -> Gradient:
    """(I - sigma L) gradient: undoes :func:`solve`."""
    return _filter(gradient, eigenvalues(sum(g.numel() for g in gradient), sigma))


def eigenvalues(size: int, sigma: float) -> torch.Tensor:
    """Of I - sigma L by frequency, all of the DFT's: float64 [size]."""
    return 1 + 2 * sigma * (1 - torch.cos(2 * torch.pi * torch.arange(size, dtype=torch.float64) / size))


def _filter(gradient: Gradient, response: torch.Tensor) -> Gradient:
    flat = torch.cat([g.flatten() for g in gradient])
    spectrum = torch.fft.rfft(flat.double()) * response[: len(flat) // 2 + 1]
    filtered = torch.fft.irfft(spectrum, n=len(flat)).to(flat.dtype)
    parts = filtered.split([g.numel() for g in gradient])
    return [part.view_as(g) for part, g in zip(parts, gradient, strict=True)]
