"""What a launch is told of its tensors: plain integers, planned from shapes.

A launch covers a list of tensors of one dtype. Each tensor has a :class:`Row`; each program has the index of its row,
and from its position among the row's programs it finds the portion of the tensor that is its own.
"""

from typing import NamedTuple

import numpy as np

IDLE, SMALL_KERNELS, ANY_KERNEL, ELEMENTS = range(4)
"""Paths: nothing to do; four small kernels a lane, taps in registers; a kernel of any size a lane; no high band."""

STRIDED, CONTIGUOUS, INTERLEAVED = 1, 2, 4
"""Accesses: any strides; one contiguous array; neighboring kernels side by side and aligned (channels_last)."""

MAX_CHUNK = 64
"""Normals that the path ANY_KERNEL can have in registers at a time, a power of two."""


class Row(NamedTuple):
    """One tensor as the kernels read it. The order of the fields is the order of the columns.

    A tensor is cut into runs, a run into portions, one a program. ``run_length`` and ``portion`` count kernels, on the
    path ELEMENTS groups of words. Strides and offsets are in elements.
    """

    path: int
    first_program: int
    programs_per_run: int
    run_length: int
    portion: int
    kernels: int  # of a channel
    taps: int
    channel_stride: int
    kernel_stride: int
    tap_offsets: int  # where the offsets of its taps start
    first_channel: int
    first_kernel: int
    kernels_per_channel: int  # of the whole, as the two above
    tensor_id: int
    basis: int  # where its basis starts
    basis_pitch: int
    high_dim: int
    pitch: int
    selected: int
    score_count: int
    score_stride: int
    run_elements: int  # on the path ELEMENTS
    amplitudes: int  # where its amplitudes start; 0 for those of a tensor without, which are ones


class SmallKind(NamedTuple):
    """The one kind of conv kernel that a launch has in registers; of 0 taps for none."""

    taps: int = 0
    high_dim: int = 0
    all_but_dc_3x3: bool = False  # whether it is 3x3 and has all bins but DC in its high band: then it needs no basis


class Tables(NamedTuple):
    """The tables of one launch of T tensors and P programs, and what else it is told."""

    rows: tuple[Row, ...]  # T, or one more that has a program and nothing to do
    programs: np.ndarray  # int32 [P]: index of the row
    offsets: np.ndarray  # int64 [sum of taps]
    accesses: list[int]  # of each row
    small_kind: SmallKind
    chunk: int  # normals that the path ANY_KERNEL has in registers at a time, 0 if no tensor takes it
    elements: bool  # whether a tensor takes the path ELEMENTS
