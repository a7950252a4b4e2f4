"""``channel_saliency``: sums over space in one read, by rows or, in channels_last tensors, by columns."""

import math
from typing import Any

import torch

from .. import _checks
from .device import make_current
from .dtypes import arithmetic_of, in_triton

OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
"""Compiler options of ``row_sums`` and ``column_sums``."""

_TILE = 4096
"""Elements that a program of four warps has in registers at a time: 32 a thread, eight vectors of 16 bytes."""

_PORTION = 2**15
"""Elements that a program reads of a channels_last tensor: enough that the partial sums do not count."""


def channel_saliency(activation_grad: torch.Tensor) -> torch.Tensor:
    """``sum_n |mean_space(activation_grad[n, c])|``: [N, C, *spatial] to float32 [C], in one read."""
    _checks.check_activation_grad(activation_grad)
    activation_grad = _checks.without_repeats(activation_grad)
    images, channels = activation_grad.shape[:2]
    length = math.prod(activation_grad.shape[2:])
    with make_current(activation_grad.device):
        if not activation_grad.is_contiguous() and activation_grad.movedim(1, -1).is_contiguous():
            sums = _column_sums(activation_grad, images, length, channels)  # [N, portions, C]
        else:
            sums = _row_sums(activation_grad.contiguous(), images * channels, length).view(images, 1, channels)
        # Without samples the sum of their means is 0, not 0 / 0.
        return (sums.sum(1).abs_().sum(0) / (length if images else 1)).float()


def row_sum_settings(dtype: torch.dtype, length: int) -> dict[str, Any]:
    """Compile-time arguments of ``row_sums``."""
    return _settings(dtype, length, _TILE)


def column_sum_settings(dtype: torch.dtype, channels: int) -> dict[str, Any]:
    """Compile-time arguments of ``column_sums``."""
    return _settings(dtype, channels, 128)


def _settings(dtype: torch.dtype, columns: int, widest: int) -> dict[str, Any]:
    """Of a kernel that has tiles [ROWS, BLOCK] of a matrix in registers, BLOCK a power of two up to ``widest``."""
    block = min(widest, max(16, 1 << max(columns - 1, 0).bit_length()))
    real = in_triton(arithmetic_of(dtype))
    return {"VECTOR": math.gcd(columns, 8), "ROWS": _TILE // block, "BLOCK": block, "REAL": real}


def _row_sums(x: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    from .kernels import row_sums

    settings = row_sum_settings(x.dtype, length)
    sums = x.new_zeros(rows, dtype=arithmetic_of(x.dtype))
    if x.numel():
        grid = (-(-rows // settings["ROWS"]),)
        row_sums[grid](x, sums, rows, length // settings["VECTOR"], **settings, **OPTIONS)
    return sums


def _column_sums(x: torch.Tensor, images: int, length: int, channels: int) -> torch.Tensor:
    from .kernels import column_sums

    settings = column_sum_settings(x.dtype, channels)
    portion = -(-_PORTION // settings["BLOCK"])
    portions = -(-length // portion)
    sums = x.new_zeros(images, portions, channels, dtype=arithmetic_of(x.dtype))
    if x.numel():
        grid = (images, portions, -(-channels // settings["BLOCK"]))
        column_sums[grid](x, sums, length, portion, channels // settings["VECTOR"], **settings, **OPTIONS)
    return sums
