"""Weights that a client sends instead of an update: what they differ by, and how the perturbed difference goes back."""

from collections.abc import Mapping

import torch

from .._distributed.dtensor import local
from .._runtime.tracing import is_dry_run
from .layout import Layout

Weights = Mapping[str, torch.Tensor]


def check_weights(weights: Weights, received: Weights, layout: Layout) -> None:
    """Raises ValueError unless both hold the same names and shapes, of the model's, and finite floating numbers.

    Also if ``received`` can only be what the training has changed since, so that there would be no difference.
    """
    for name in sorted(weights.keys() ^ received.keys()):
        which = "weights and not in received" if name in weights else "received and not in weights"
        raise ValueError(f"expected weights and received of the same names, got {name!r} in {which}")
    for tensors in (weights, received):
        layout.by_index(tensors)
    if is_dry_run():
        return
    for what, tensors in (("weights", weights), ("received", received)):
        check_finite(tensors, what)
        if any(tensor.is_meta for tensor in tensors.values()):
            return
    pairs = {name: (local(tensor), local(received[name])) for name, tensor in weights.items()}
    for name, (new, old) in pairs.items():
        if new.numel() > 0 and new.data_ptr() == old.data_ptr():
            raise _not_copied(f"the same memory for {name!r}")
    own = layout.first_of_the_models(received)
    if own is not None and all(torch.equal(new, old) for new, old in pairs.values()):
        raise _not_copied(f"the model's own {own!r}, with the numbers of weights")


def check_finite(tensors: Weights, what: str = "", when: str = "") -> None:
    """Raises ValueError for a floating tensor with NaN or infinite numbers."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and not local(tensor).isfinite().all():
            place = f"{what}[{name!r}]" if what else repr(name)
            raise ValueError(f"expected {place} to be finite{when}, got NaN or infinite numbers")


def difference(weights: Weights, received: Weights, names: frozenset[str]) -> dict[str, torch.Tensor]:
    """``weights - received`` of these names, in float32 or what is wider."""
    found = {}
    for name in [name for name in weights if name in names]:  # in one order on all ranks, if these are DTensors
        own, other = weights[name].detach(), received[name].detach()
        dtype = torch.promote_types(torch.promote_types(own.dtype, other.dtype), torch.float32)
        found[name] = own.to(dtype) - other.to(own.device, dtype)
    return found


def sum_of(received: Weights, update: Weights, weights: Weights, layout: Layout) -> dict[str, torch.Tensor]:
    """What was received plus ``update``, in the dtypes and on the devices of ``weights``.

    What the update lacks is as it was received. Variances are at least 0: with noise on them they could be negative,
    and the model would give NaN.

    Raises:
        ValueError: a dtype cannot hold a sum.
    """
    sums = {}
    for name, tensor in weights.items():
        base = received[name].detach().to(tensor.device)
        if name in update:
            base = base.to(update[name].dtype) + update[name]
        sums[name] = (base.clamp(min=0) if name in layout.variances else base).to(tensor.dtype)
    if not is_dry_run():
        check_finite(sums, "weights with noise")
    return sums


def put(weights: Weights, values: Weights) -> None:
    """Makes ``weights`` these values, in place."""
    for name, tensor in weights.items():
        with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
            tensor.copy_(values[name])


def _not_copied(got: str) -> ValueError:
    return ValueError(f"expected received to be copies from before the training, got {got}: clone() them on receipt")
