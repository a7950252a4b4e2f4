"""What the kernel ``perturb_portions`` is compiled for."""

from typing import Any, NamedTuple

import torch

from .dtypes import arithmetic_of, in_triton
from .table import SmallKind

OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
"""Compiler options of ``perturb_portions`` and ``write_words``. No loop is worth pipelining through shared memory."""


class Variant(NamedTuple):
    """One compiled kernel."""

    dtype: torch.dtype
    generator: int
    floor: bool
    scale: bool
    keep: bool  # whether some of the high band is taken away
    shaped: bool  # whether some tensor has amplitudes
    small_kind: SmallKind
    small_accesses: tuple[int, ...]  # how the path SMALL_KERNELS accesses memory
    chunk: int  # of the path ANY_KERNEL
    elements: bool
    lanes: int

    @property
    def real(self) -> torch.dtype:
        """The type of the arithmetic."""
        return arithmetic_of(self.dtype)

    def constants(self) -> dict[str, Any]:
        """The compile-time arguments of the kernel."""
        return {
            "SMALL_TAPS": self.small_kind.taps,
            "SMALL_HIGH_DIM": self.small_kind.high_dim,
            "ALL_BUT_DC_3X3": self.small_kind.all_but_dc_3x3,
            "SMALL_ACCESSES": sum(self.small_accesses),
            "CHUNK": self.chunk,
            "ELEMENTS": self.elements,
            "GENERATOR": self.generator,
            "FLOOR": self.floor,
            "SCALE": self.scale,
            "KEEP": self.keep,
            "SHAPED": self.shaped,
            "DTYPE": in_triton(self.dtype),
            "INTERPRETED": False,
            "LANES": self.lanes,
        }

    def argument_types(self) -> tuple[torch.dtype | int, ...]:
        """What the other arguments point to, which the launcher passes in this order, and an integer for the last."""
        header, rows, programs, offsets = torch.int64, torch.int64, torch.int32, torch.int64
        amplitudes, std, floor_std, grad_scale = [torch.float32] * 4
        return header, rows, programs, offsets, self.real, amplitudes, std, floor_std, grad_scale, torch.int64, 0
