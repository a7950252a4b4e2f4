"""The reference backend: the contract in plain PyTorch, on any device, the long way round.

It is the oracle of the tests and the fallback where nothing is compiled. It goes through ``torch.fft`` where the
others multiply by a basis, and computes in float64 from the random words on. It waits for no device.

A call takes its step before it draws anything, works on copies and writes them back at the end by one operation, which
Python cannot interrupt: after an exception all gradients are as they were, and the step is not used again.
"""

import torch

from ..._op import schemas
from .clipping import clip_scale
from .perturb import perturb_
from .saliency import channel_saliency
from .words import words_


def unavailable_reason(device: torch.device) -> str | None:
    """None: the reference runs on every device."""
    return None


schemas.register(
    "reference", perturb_=perturb_, channel_saliency=channel_saliency, words_=words_, clip_scale=clip_scale
)
