"""One kernel's gradient as a client has it and as a TIP leaves it, for pictures."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

import tip_kernels as tip


class Kernel(NamedTuple):
    """The taps of one output and input channel, float32 [height, width]: clipped, and after a perturb call."""

    before: torch.Tensor
    after: torch.Tensor


def one_kernel(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: Mapping[str, float], layer: str
) -> Kernel:
    """The kernel of a conv layer with the median gradient, of those in selected channels.

    Args:
        model: its ``.grad`` are perturbed afterwards.
        images: one batch.
        labels: theirs.
        settings: of a TIP, with ``max_grad_norm``.
        layer: name of the layer's kernels.
    """
    with tip.TIP(model, **settings, rng=tip.NoiseRNG.from_seed(0)) as defense:  # type: ignore[arg-type]
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        gradient = model.get_parameter(layer).grad
        assert gradient is not None  # after a backward pass
        before = gradient.clone()
        defense.perturb_gradients()
        selected = defense.selected()[layer]
    before, after = (kernels[selected].flatten(0, 1) for kernels in (before, gradient))  # [kernels, height, width]
    place = before.flatten(1).norm(dim=1).median(0).indices
    return Kernel(before[place], after[place])
