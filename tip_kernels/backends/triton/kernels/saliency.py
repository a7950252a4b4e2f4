"""Sums over space for ``channel_saliency``."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "vectors"])
def row_sums(
    x, sums, rows, vectors,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Sum of each row of a contiguous [rows, vectors * VECTOR] matrix."""
    length = vectors.to(tl.int64) * VECTOR
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.full([ROWS, BLOCK], 0, REAL)
    for first in range(0, length, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (column < length)[None, :]
        total += tl.load(x + (row * length)[:, None] + column[None, :], mask=inside, other=0.0).to(REAL)
    tl.store(sums + row, tl.sum(total, axis=1), mask=row < rows)


@triton.jit(do_not_specialize=["length", "portion", "vectors"])
def column_sums(
    x, sums, length, portion, vectors,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Sums over portions of the rows of contiguous [images, length, columns]: [images, portions, columns].

    There are vectors * VECTOR columns. The grid is [images, portions, blocks of columns].
    """
    columns = vectors.to(tl.int64) * VECTOR
    image = tl.program_id(0).to(tl.int64)
    column = tl.program_id(2).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(1).to(tl.int64) * portion
    last = tl.minimum(first + portion, length)
    total = tl.full([ROWS, BLOCK], 0, REAL)
    for top in range(first, last, ROWS):
        row = top + tl.arange(0, ROWS)
        start = (image * length + row) * columns
        inside = (row < last)[:, None] & (column < columns)[None, :]
        total += tl.load(x + start[:, None] + column[None, :], mask=inside, other=0.0).to(REAL)
    index = (image * tl.num_programs(1) + tl.program_id(1)) * columns + column
    tl.store(sums + index, tl.sum(total, axis=0), mask=column < columns)
