"""The grid of what is released with a noise floor: docs/design.md, section 3, "Grid"."""

import torch


def grid_step(std: torch.Tensor | None, floor_std: torch.Tensor | None, tensor_id: int) -> torch.Tensor | None:
    """The step of a tensor's released values, float64 []; see csrc/core/grid.h. ``std`` is None without a high band."""
    if floor_std is None:
        return None
    floor = floor_std[tensor_id].view(torch.int32)  # []: bits are in the order of the numbers they stand for
    least = floor
    if std is not None:
        high = std[tensor_id].view(torch.int32)
        least = torch.where((high > 0) & (high < floor), high, floor)
    exponent = (least >> 23) - 10
    is_normal = (floor > 0) & (exponent >= 1) & (exponent <= 254 - 23)
    return torch.where(is_normal, exponent << 23, 0).view(torch.float32).double()


def to_grid(values: torch.Tensor, step: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float64 values at the nearest multiples of a step, ties to even and zeros positive.

    The arithmetic of float64 gradients has 53 bits, that of the others 24: where these reach no further than the step,
    values stay what they are. Tests replace this function to see what was rounded.
    """
    limit = step * 2.0 ** (52 if dtype == torch.float64 else 23)  # 0 without a step
    return torch.where(values.abs() < limit, (values / step).round() * step + 0.0, values)
