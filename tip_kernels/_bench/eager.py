"""What a user would run in eager PyTorch in place of ``perturb_``, written as its authors would, without our code.

Each perturbs ``gradients.tensors`` in place. ``std`` is ours: per coefficient of the orthonormal basis.
"""

import math

import torch

from .. import spectrum
from .parameters import Gradients


def high_band(gradients: Gradients, ratio: float, cutoff: float, std: float) -> None:
    """TIP by real FFTs of the selected kernels and Hermitian-symmetric noise on half of the spectrum.

    Conv layer by conv layer, those of 1x1 kernels too, as in the published method.
    """
    for grad, scores in zip(gradients.tensors, gradients.scores, strict=True):
        if scores is None:
            continue
        chosen = torch.topk(scores, math.ceil(ratio * len(scores))).indices
        # A CPU has no FFTs of 16 bits.
        kernels = grad[chosen].to(torch.promote_types(grad.dtype, torch.float32))
        size, axes = kernels.shape[2:], tuple(range(2, kernels.dim()))
        half = torch.fft.rfftn(kernels, dim=axes, norm="ortho")
        weights = std * _half_weights(tuple(size), cutoff, grad.device)
        real = half.real + weights * torch.randn_like(half.real)
        imag = half.imag + weights * torch.randn_like(half.imag)
        noisy = torch.fft.irfftn(torch.complex(real, imag), s=size, dim=axes, norm="ortho")
        grad[chosen] = noisy.to(grad.dtype)


def gaussian(gradients: Gradients, std: float) -> None:
    """DP-SGD's noise: a new normal tensor for every parameter, then an addition."""
    for grad in gradients.tensors:
        noise = torch.empty_like(grad).normal_(0.0, std)
        grad.add_(noise)


_WEIGHTS: dict[tuple[tuple[int, ...], float, torch.device], torch.Tensor] = {}
"""A dict and no decorator that caches, which ``torch.compile`` would pass over and trace what is behind it."""


def _half_weights(kernel_size: tuple[int, ...], cutoff: float, device: torch.device) -> torch.Tensor:
    """Std of both parts of each masked bin of ``rfftn``: ``irfftn`` makes the last axis's bins that it mirrors onto
    themselves real, which halves their power; others stand for two bins each.
    """
    key = kernel_size, cutoff, device
    if key not in _WEIGHTS:
        mask = spectrum.radial_mask(kernel_size, cutoff).float()
        column = torch.arange(mask.shape[-1])
        mirrored = (column == 0) | (2 * column == kernel_size[-1])
        _WEIGHTS[key] = (mask * torch.where(mirrored, 1.0, math.sqrt(0.5))).to(device)
    return _WEIGHTS[key]
