"""Normals of the noise contract (docs/design.md, section 3), by Box and Muller (1958)."""

import math

import torch


def normals(words: torch.Tensor) -> torch.Tensor:
    """Box-Muller pairs (2i, 2i + 1) along the last axis: words [..., even] to float32 of the same shape."""
    u = words[..., 0::2].to(torch.float32) * 2.0**-32 + 2.0**-33  # [..., half], rounded as the contract says
    radius = (-2.0 * u.double().log()).sqrt()  # [..., half]
    angle = words[..., 1::2].double() * (2.0 * math.pi * 2.0**-32)  # [..., half]
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)  # [..., half, 2]
    return pairs.to(torch.float32).flatten(-2)  # [..., even]
