"""Weights that a client sends instead of an update: what they differ by, and how the perturbed difference goes back."""

from collections.abc import Mapping

import torch

from ._dtensor import local
from ._layout import Layout

Weights = Mapping[str, torch.Tensor]


def check_weights(weights: Weights, received: Weights, layout: Layout) -> None:
    """Raises unless both hold the same names and shapes, of the model's, and finite floating numbers."""
    for name in sorted(weights.keys() ^ received.keys()):
        which = "weights and not in received" if name in weights else "received and not in weights"
        raise ValueError(f"expected weights and received of the same names, got {name!r} in {which}")
    for what, tensors in (("weights", weights), ("received", received)):
        layout.by_index(tensors)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not local(tensor).isfinite().all():
                raise ValueError(f"expected {what}[{name!r}] to be finite, got NaN or infinite numbers")


def difference(weights: Weights, received: Weights, names: frozenset[str]) -> dict[str, torch.Tensor]:
    """``weights - received`` of these names, in float32 or what is wider."""
    found = {}
    for name in [name for name in weights if name in names]:  # in one order on all ranks, if these are DTensors
        own, other = weights[name].detach(), received[name].detach()
        dtype = torch.promote_types(torch.promote_types(own.dtype, other.dtype), torch.float32)
        found[name] = own.to(dtype) - other.to(own.device, dtype)
    return found


def put_back(weights: Weights, received: Weights, update: Weights, layout: Layout) -> None:
    """Makes ``weights`` in place what was received plus ``update``; what the update lacks becomes what was received.

    Variances are at least 0: with noise on them they could be negative, and the model would give NaN.
    """
    for name, tensor in weights.items():
        base = received[name].detach().to(tensor.device)
        if name in update:
            base = base.to(update[name].dtype) + update[name]
        if name in layout.variances:
            base = base.clamp(min=0)
        with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
            tensor.copy_(base)
