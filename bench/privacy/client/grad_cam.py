"""Which kernels APG noises, and how much of the noise each of their channels gets."""

import torch
from torch import nn

import tip_kernels as tip


def channel_weights(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Grad-CAM of the class logits by the names of the kernels that APG noises: [C], 1 for each layer's highest."""
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    logits = model(images)
    for handle in handles:
        handle.remove()
    last = last_convs(model, {name: output.shape[2:] for name, output in outputs.items()})
    slopes = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), [outputs[name] for name in last])
    scores = [tip.channel_saliency(slope) for slope in slopes]
    return {
        f"{name}.weight": score / score.max().clamp(min=torch.finfo().tiny)
        for name, score in zip(last, scores, strict=True)
    }


def last_convs(model: nn.Module, resolutions: dict[str, torch.Size]) -> list[str]:
    """The names of the last conv of each residual block, or without such blocks, of each resolution.

    A block is a module other than a ``Sequential`` and the whole model that has several convs of its own; convs of its
    shortcut, a module within it, do not count.

    Args:
        model: the net.
        resolutions: output size by the names of its convs, in the order of their use.
    """
    blocks = {}
    for name in resolutions:
        parent, _, _ = name.rpartition(".")
        if parent and not isinstance(model.get_submodule(parent), nn.Sequential):
            blocks.setdefault(parent, []).append(name)
    last = [names[-1] for names in blocks.values() if len(names) > 1]
    return last or list({size: name for name, size in resolutions.items()}.values())
