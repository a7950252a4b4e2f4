"""What a user would otherwise run, written as its authors would: the same noise, or the same bytes, without us.

More of it is in tip_kernels/_bench/eager.py. Every function perturbs ``gradients.tensors`` in place. ``std`` is ours:
per coefficient of the orthonormal basis.
"""

import functools
import math
from collections.abc import Callable

import torch

from tip_kernels._bench.parameters import Gradients


def paper_eager(gradients: Gradients, ratio: float, cutoff: float, std: float) -> None:
    """TIP as published (arXiv 2602.11633, section 4): per layer a complex FFT, shifts, masked noise, the real part."""
    for grad, scores in _layers(gradients):
        chosen = torch.topk(scores, math.ceil(ratio * len(scores))).indices
        kernels = grad[chosen]
        shifted = torch.fft.fftshift(torch.fft.fft2(kernels), dim=(-2, -1))
        beta = std * math.sqrt(kernels[0, 0].numel())  # the paper's std, of an unnormalized spectrum
        noise = torch.complex(torch.randn_like(kernels), torch.randn_like(kernels)) * beta
        shifted = shifted + noise * _shifted_mask(tuple(grad.shape[-2:]), cutoff, grad.device)
        grad[chosen] = torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(-2, -1))).real


def selected_bytes(gradients: Gradients, ratio: float, cutoff: float) -> list[torch.Tensor]:
    """As many channels as ``ratio`` selects of every tensor with a high band: contiguous views for ``multiply``."""
    layers = [
        (grad, scores)
        for grad, scores in _layers(gradients)
        if _shifted_mask(tuple(grad.shape[-2:]), cutoff, grad.device).any()
    ]
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


@functools.cache
def _shifted_mask(kernel_size: tuple[int, int], cutoff: float, device: torch.device) -> torch.Tensor:
    """The high band of the full, shifted spectrum [kH, kW], made once as an implementation would."""
    rows, columns = (torch.fft.fftshift(torch.fft.fftfreq(n)).abs() for n in kernel_size)
    rows, columns = (f / f.max().clamp_min(1e-12) for f in (rows, columns))
    axes = max(1, sum(n > 1 for n in kernel_size))
    radius = (rows[:, None].square() + columns.square()).div(axes).sqrt()
    return (radius > cutoff).to(device)
