"""Which channels are selected: the highest scores, NaN above all, the lower index first among equals."""

import torch


def is_selected(scores: torch.Tensor, count: int, first_channel: int, channels: int) -> torch.Tensor:
    """Bool [channels]: which channels, from ``first_channel`` on, are among the ``count`` highest of all scores."""
    if count in (0, len(scores)):
        return torch.full((channels,), count > 0, device=scores.device)
    unknown = scores.isnan()
    order = torch.where(unknown, 0.0, scores).argsort(descending=True, stable=True)  # [all channels]
    order = order[unknown[order].int().argsort(descending=True, stable=True)]  # [all channels], unknown first
    mask = torch.zeros_like(unknown).index_fill_(0, order[:count], True)  # [all channels]
    return mask.narrow(0, first_channel, channels)
