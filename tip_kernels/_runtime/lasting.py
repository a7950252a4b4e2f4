"""What a call reads besides gradients and scores, and may lie in caches, lasts as long as whoever reads it."""

from collections.abc import Iterable

import torch

from .tracing import is_capturing

_CAPTURED: list[list[torch.Tensor]] = []
"""What CUDA graphs read: kept for good, since a graph may be replayed at any time."""


def keep(tensors: Iterable[torch.Tensor], device: torch.device) -> None:
    """Keeps these tensors until the current stream, or the CUDA graph that is being captured, no longer reads them."""
    if device.type != "cuda":
        return
    if is_capturing(device):
        _CAPTURED.append(list(tensors))
        return
    stream = torch.cuda.current_stream(device)
    for tensor in tensors:
        tensor.record_stream(stream)
