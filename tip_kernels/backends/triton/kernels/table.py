"""The columns of a row, the paths and the accesses of ``..table``, as Triton's constants."""

import triton.language as tl

from .. import table
from ..table import Row


def _column(field: str) -> tl.constexpr:
    return tl.constexpr(Row._fields.index(field))


ROW_COLUMNS = tl.constexpr(len(Row._fields))
ROW_PATH = _column("path")
ROW_FIRST_PROGRAM = _column("first_program")
ROW_PROGRAMS_PER_RUN = _column("programs_per_run")
ROW_RUN_LENGTH = _column("run_length")
ROW_PORTION = _column("portion")
ROW_KERNELS = _column("kernels")
ROW_TAPS = _column("taps")
ROW_CHANNEL_STRIDE = _column("channel_stride")
ROW_KERNEL_STRIDE = _column("kernel_stride")
ROW_TAP_OFFSETS = _column("tap_offsets")
ROW_FIRST_CHANNEL = _column("first_channel")
ROW_FIRST_KERNEL = _column("first_kernel")
ROW_KERNELS_PER_CHANNEL = _column("kernels_per_channel")
ROW_TENSOR_ID = _column("tensor_id")
ROW_BASIS = _column("basis")
ROW_BASIS_PITCH = _column("basis_pitch")
ROW_HIGH_DIM = _column("high_dim")
ROW_PITCH = _column("pitch")
ROW_SELECTED = _column("selected")
ROW_SCORE_COUNT = _column("score_count")
ROW_SCORE_STRIDE = _column("score_stride")
ROW_RUN_ELEMENTS = _column("run_elements")
ROW_AMPLITUDES = _column("amplitudes")

PATH_IDLE = tl.constexpr(table.IDLE)
PATH_SMALL_KERNELS = tl.constexpr(table.SMALL_KERNELS)
PATH_ANY_KERNEL = tl.constexpr(table.ANY_KERNEL)
PATH_ELEMENTS = tl.constexpr(table.ELEMENTS)

STRIDED = tl.constexpr(table.STRIDED)
CONTIGUOUS = tl.constexpr(table.CONTIGUOUS)
INTERLEAVED = tl.constexpr(table.INTERLEAVED)
