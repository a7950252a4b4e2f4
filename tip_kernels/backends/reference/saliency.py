"""Channel saliency in plain PyTorch, with sums in float64."""

import torch

from .. import _checks


def channel_saliency(activation_grad: torch.Tensor) -> torch.Tensor:
    """``sum_n |mean_space(activation_grad[n, c])|``: [N, C, *spatial] to float32 [C]."""
    _checks.check_activation_grad(activation_grad)
    activation_grad = _checks.without_repeats(activation_grad)
    spatial = tuple(range(2, activation_grad.dim()))
    alpha = activation_grad.double() if not spatial else activation_grad.mean(spatial, dtype=torch.float64)  # [N, C]
    return alpha.abs().sum(0).float()  # [C]
