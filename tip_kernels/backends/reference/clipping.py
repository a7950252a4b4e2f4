"""The factor that clips gradients, in plain PyTorch."""

import torch

from .. import _checks


def clip_scale(
    grads: list[torch.Tensor], grad_scale: torch.Tensor | None, state: torch.Tensor, max_norm: float
) -> torch.Tensor:
    """``grad_scale * min(1, max_norm / norm)`` for the norm of the scaled gradients, a float32 number, rounded down.

    As ``torch.nn.utils.clip_grad_norm_`` computes it, but with sums in float64: those of float32 come out per cents too
    small for tens of millions of elements, and more than ``max_norm`` would be sent.
    """
    _checks.check_clip(grads, grad_scale, state, max_norm)
    dtype = torch.float32 if state.device.type == "mps" else torch.float64  # which mps does not have
    scale = torch.ones((), dtype=torch.float32, device=state.device) if grad_scale is None else grad_scale
    norms = torch._foreach_norm(grads, 2, dtype) if grads else [torch.zeros((), dtype=dtype, device=state.device)]
    norm = torch.stack(norms).norm() * scale.abs()
    factor = (max_norm / (norm + 1e-6) * (1 - 2.0**-24)).clamp(max=1.0)
    return torch.Tensor.float(factor * scale)
