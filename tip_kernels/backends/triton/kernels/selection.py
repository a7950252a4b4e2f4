"""Which channels are selected: the highest scores, NaN above all, the lower index first among equals."""

import triton
import triton.language as tl

from .table import ROW_FIRST_CHANNEL, ROW_SCORE_COUNT, ROW_SCORE_STRIDE, ROW_SELECTED


@triton.jit
def _sortable(score):
    """Integers in the order of the scores: NaN on top, -0 equal to 0."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    return tl.where(score != score, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def _outranking(scores, count, stride, channel, BLOCK: tl.constexpr):
    """How many of the channels outrank one: a higher score, or the same and a lower index."""
    own = _sortable(tl.load(scores + channel * stride))
    above = tl.full([BLOCK], 0, tl.int32)
    for first in range(0, count, BLOCK):
        index = first + tl.arange(0, BLOCK)
        inside = index < count
        other = _sortable(tl.load(scores + index * stride, mask=inside, other=0.0))
        outranks = (other > own) | ((other == own) & (index < channel))
        above += (inside & outranks).to(tl.int32)
    return tl.sum(above, axis=0)


@triton.jit
def selected_lanes(row, scores, channel, lane_channel, last_channel, LANES: tl.constexpr):
    """Which lanes have a selected channel; ``lane_channel`` counts from ``channel``."""
    selected = tl.load(row + ROW_SELECTED)
    count = tl.load(row + ROW_SCORE_COUNT)
    outranking = tl.full([LANES], 0, tl.int64)
    if (selected > 0) & (selected < count):
        stride = tl.load(row + ROW_SCORE_STRIDE)
        first_channel = tl.load(row + ROW_FIRST_CHANNEL)
        for c in range(channel, last_channel + 1):
            its = _outranking(scores, count, stride, first_channel + c, LANES * 4)
            outranking = tl.where(lane_channel == c - channel, its.to(tl.int64), outranking)
    return outranking < selected
