"""What a user would otherwise run, written as its authors would: the same noise, or the same bytes, without us.

Every function perturbs ``gradients.tensors`` in place. ``std`` is ours: per coefficient of the orthonormal basis.
"""

import math
from collections.abc import Callable

import torch

from bench.speed.models import Gradients
from tip_kernels import spectrum


def paper_eager(gradients: Gradients, ratio: float, cutoff: float, std: float) -> None:
    """TIP as published (arXiv 2602.11633, section 4): per layer a complex FFT, shifts, masked noise, the real part."""
    for grad, scores in _layers(gradients):
        chosen = torch.topk(scores, math.ceil(ratio * len(scores))).indices
        kernels = grad[chosen]
        shifted = torch.fft.fftshift(torch.fft.fft2(kernels), dim=(-2, -1))
        beta = std * math.sqrt(kernels[0, 0].numel())  # the paper's std, of an unnormalized spectrum
        noise = torch.complex(torch.randn_like(kernels), torch.randn_like(kernels)) * beta
        shifted = shifted + noise * _shifted_mask(grad, cutoff)
        grad[chosen] = torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(-2, -1))).real


def rfft2(gradients: Gradients, ratio: float, cutoff: float, std: float) -> None:
    """The same by real FFTs and Hermitian-symmetric noise: half of the spectrum."""
    for grad, scores in _layers(gradients):
        chosen = torch.topk(scores, math.ceil(ratio * len(scores))).indices
        kernels = grad[chosen]
        half = torch.fft.rfft2(kernels, norm="ortho")
        weights = std * _half_weights(grad, cutoff)
        real = half.real + weights * torch.randn_like(half.real)
        imag = half.imag + weights * torch.randn_like(half.imag)
        grad[chosen] = torch.fft.irfft2(torch.complex(real, imag), s=kernels.shape[-2:], norm="ortho")


def opacus_style(gradients: Gradients, std: float) -> None:
    """DP-SGD's noise: a new normal tensor for every parameter, then an addition."""
    for grad in gradients.tensors:
        noise = torch.empty_like(grad).normal_(0.0, std)
        grad.add_(noise)


def selected_bytes(gradients: Gradients, ratio: float, cutoff: float) -> list[torch.Tensor]:
    """As many channels as ``ratio`` selects of every tensor with a high band: contiguous views for ``multiply``."""
    layers = [(grad, scores) for grad, scores in _layers(gradients) if _shifted_mask(grad, cutoff).any()]
    return [grad[: math.ceil(ratio * len(scores))] for grad, scores in layers]


def multiply(views: list[torch.Tensor]) -> None:
    """Reads and writes each element once: what no in-place perturbation can beat by much."""
    for view in views:
        view.mul_(0.999)


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """``torch.compile`` of a baseline, for the whole model at once."""
    return torch.compile(function, dynamic=False)


def _layers(gradients: Gradients) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(grad, s) for grad, s in zip(gradients.tensors, gradients.scores, strict=True) if s is not None]


_MASKS: dict[tuple, torch.Tensor] = {}


def _shifted_mask(grad: torch.Tensor, cutoff: float) -> torch.Tensor:
    """The high band of the full, shifted spectrum [kH, kW], made once as an implementation would."""
    key = ("shifted", grad.shape[-2:], cutoff, grad.device)
    if key not in _MASKS:
        rows, columns = (torch.fft.fftshift(torch.fft.fftfreq(n)).abs() for n in grad.shape[-2:])
        rows, columns = (f / f.max().clamp_min(1e-12) for f in (rows, columns))
        axes = max(1, sum(n > 1 for n in grad.shape[-2:]))
        radius = (rows[:, None].square() + columns.square()).div(axes).sqrt()
        _MASKS[key] = (radius > cutoff).to(grad.device)
    return _MASKS[key]


def _half_weights(grad: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Std of both parts of each masked bin of ``rfft2``: ``irfft2`` makes columns that it mirrors onto
    themselves real, which halves their power; others stand for two bins each.
    """
    key = ("half", grad.shape[-2:], cutoff, grad.device)
    if key not in _MASKS:
        mask = spectrum.radial_mask(tuple(grad.shape[-2:]), cutoff).float()
        column = torch.arange(mask.shape[-1])
        mirrored = (column == 0) | (2 * column == grad.shape[-1])
        _MASKS[key] = (mask * torch.where(mirrored, 1.0, math.sqrt(0.5))).to(grad.device)
    return _MASKS[key]
