"""Types of the arithmetic, and torch's types in Triton."""

from typing import Any

import torch


def arithmetic_of(dtype: torch.dtype) -> torch.dtype:
    """The type of the arithmetic for tensors of ``dtype``."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def in_triton(dtype: torch.dtype) -> Any:
    """Triton's name of a type."""
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))
