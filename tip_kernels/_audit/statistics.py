"""The buffers of a model that tell of its images."""

import torch
from torch import nn

from ..saliency import undisturbed
from .substitution import unwrapped


def changed_by_forward(model: nn.Module, images: torch.Tensor) -> list[str]:
    """Names of the floating buffers that a forward pass changes, such as running statistics; they are put back."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    with undisturbed(model), torch.no_grad():
        unwrapped(model)(images)
        now = dict(model.named_buffers())
        return [name for name, buffer in before.items() if not torch.equal(now[name], buffer)]
