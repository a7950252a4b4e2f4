"""What an attacker knows of a defence, as trust in the coefficients of what it saw (``Attack.weights``)."""

from collections.abc import Mapping

import torch
from torch import nn

Weights = list[torch.Tensor | None]


def oracle_mask(model: nn.Module, selected: Mapping[str, torch.Tensor]) -> Weights:
    """Leaves the perturbed channels out, knowing which they are.

    Args:
        model: whose gradient it is.
        selected: bool [C] by parameter name, as ``TIP.selected()`` gives it.
    """
    return [
        (~selected[name]).float().view(-1, 1, 1) if name in selected else None for name, _ in model.named_parameters()
    ]
