"""The factor that clips gradients, in plain PyTorch."""

import torch

from ..._op.norm import factor, norm_of
from ..._op.schemas import ClipArguments
from .. import _checks


def clip_scale(given: ClipArguments) -> torch.Tensor:
    """``grad_scale * min(1, max_norm / norm)`` for the norm of the scaled gradients, a float32 number, rounded down.

    As ``torch.nn.utils.clip_grad_norm_`` computes it, but with sums in float64: those of float32 come out per cents too
    small for tens of millions of elements, and more than ``max_norm`` would be sent.
    """
    _checks.check_clip(given)
    device = given.state.device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which mps does not have
    ids = given.form_ids or [-1] * len(given.grads)
    norm = norm_of(given.grads, [None if i < 0 else given.forms[i] for i in ids], dtype, device)
    return factor(norm, given.grad_scale, given.max_norm)
