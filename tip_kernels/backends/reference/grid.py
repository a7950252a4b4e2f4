"""The grid of what is released with a noise floor: docs/design.md, section 3, "Grid"."""

import torch


def grid_step(
    std: torch.Tensor, floor_std: torch.Tensor | None, tensor_id: int, high_dim: int, amplitudes: torch.Tensor | None
) -> torch.Tensor | None:
    """The step of a tensor's released values, float64 []; see csrc/core/grid.h. ``high_dim`` is 0 without a high band.

    ``amplitudes`` are float32 [2, K].
    """
    if floor_std is None:
        return None
    low_amount, high_amount = floor_std[tensor_id], std[tensor_id]  # float32 []
    if amplitudes is not None:
        low_amount = low_amount * amplitudes.flatten()[high_dim:].amin()
        high_amount = high_amount * amplitudes[0, :high_dim].amin()
    floor = low_amount.view(torch.int32)  # []: bits are in the order of the numbers they stand for
    least = floor
    if high_dim > 0:
        high = high_amount.view(torch.int32)
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
