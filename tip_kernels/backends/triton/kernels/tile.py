"""Where a program, its tiles and their kernels lie in a tensor."""

import triton
import triton.language as tl

from .table import (
    ROW_CHANNEL_STRIDE,
    ROW_FIRST_CHANNEL,
    ROW_FIRST_KERNEL,
    ROW_FIRST_PROGRAM,
    ROW_KERNEL_STRIDE,
    ROW_KERNELS_PER_CHANNEL,
    ROW_PORTION,
    ROW_PROGRAMS_PER_RUN,
    ROW_RUN_LENGTH,
)


@triton.jit
def portion_of(row, program):
    """(run, first, after the last) of a program, counted from the start of the tensor as its row counts."""
    index = program - tl.load(row + ROW_FIRST_PROGRAM)
    per_run = tl.load(row + ROW_PROGRAMS_PER_RUN)
    run = index // per_run
    run_length = tl.load(row + ROW_RUN_LENGTH)
    portion = tl.load(row + ROW_PORTION)
    first = run * run_length + (index - run * per_run) * portion
    return run, first, tl.minimum(first + portion, (run + 1) * run_length)


@triton.jit
def lane_channels(first_kernel, lane, kernels, TILE: tl.constexpr):
    """Channel of each lane, from the first lane's on. A program has one channel unless channels are small."""
    small = tl.minimum(kernels, TILE).to(tl.int32)
    return tl.where(kernels < TILE, (first_kernel.to(tl.int32) + lane) // small, 0)


@triton.jit
def locate_kernel(row, channel, kernel):
    """(offset of a kernel in memory, its index in the whole)."""
    offset = channel * tl.load(row + ROW_CHANNEL_STRIDE) + kernel * tl.load(row + ROW_KERNEL_STRIDE)
    whole_channel = tl.load(row + ROW_FIRST_CHANNEL) + channel
    return offset, whole_channel * tl.load(row + ROW_KERNELS_PER_CHANNEL) + tl.load(row + ROW_FIRST_KERNEL) + kernel


@triton.jit
def any_lane(lanes):
    return tl.max(lanes.to(tl.int32), axis=0) > 0
