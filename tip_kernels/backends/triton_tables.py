"""The work tables of the Triton backend: which program does what, as plain integers. No Triton in here.

A launch covers a list of tensors of one dtype. Each tensor has a :class:`Row`; each program has the index of its row,
and from its place among the row's programs it finds the part of the tensor that is its own. Everything is int64 and
planned from shapes, so nothing is allocated for the tensors themselves.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

WORDS = 16
"""Words in a superblock: one ChaCha block or four Philox blocks, the unit in which the kernels draw."""

IDLE, QUADS, KERNELS, ELEMENTS = range(4)
"""Paths: nothing to do; four kernels a lane, taps in registers; a kernel a lane, any size; no high band."""

STRIDED, FLAT, ALONG = 1, 2, 4
"""Memory: any strides; as one contiguous array; neighboring kernels side by side and aligned (channels_last)."""

_ENOUGH_PROGRAMS = 2**14  # eight programs for each of the 2,000 warps that a large GPU runs of these kernels at once


class Tensor(NamedTuple):
    """What the tables need to know of a gradient; see ``_ops.py``. ``basis`` indexes the bases, -1 for none."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    tensor_id: int
    basis: int
    high_dim: int
    selected: int
    score_count: int
    score_stride: int
    shard: tuple[int, int, int] | None

    @property
    def channels(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def kernels(self) -> int:
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def taps(self) -> int:
        return math.prod(self.shape[2:])

    @property
    def place(self) -> tuple[int, int, int]:
        """First channel, first kernel, kernels per channel of the whole."""
        return self.shard or (0, 0, self.kernels)


class Row(NamedTuple):
    """One tensor as the kernels read it. The order of the fields is the order of the columns.

    A tensor is cut into runs of ``run_length`` units, a run into spans of ``span`` units, one a program. A unit is a
    kernel; on the path ELEMENTS it is a superblock.
    """

    path: int
    first_program: int
    programs_per_run: int
    run_length: int
    span: int
    channels: int
    kernels: int
    taps: int
    channel_stride: int
    kernel_stride: int
    tap_offsets: int  # where the offsets of its taps start
    first_channel: int
    first_kernel: int
    whole_kernels: int
    tensor_id: int
    basis: int  # where its basis starts
    basis_pitch: int
    high_dim: int
    pitch: int
    selected: int
    score_count: int
    score_stride: int
    run_elements: int  # on the path ELEMENTS


class Quads(NamedTuple):
    """The one kind of conv kernel, by taps and high dimensions, that a launch has in registers; (0, 0) for none."""

    taps: int
    high_dim: int


class Tables(NamedTuple):
    """The tables of one launch. ``rows`` [T, columns], ``programs`` [P] int32, ``offsets`` [sum of taps], int64."""

    rows: np.ndarray
    programs: np.ndarray
    offsets: np.ndarray
    memories: list[int]  # of each row
    quads: Quads
    group: int  # normals that the path KERNELS has in registers at a time, 0 if no tensor takes it
    elements: bool  # whether a tensor takes the path ELEMENTS


MAX_QUAD_TAPS = 9
"""Four kernels of nine taps fill about half of the registers that a thread can have."""

BASIS_UNIT = 64
"""Rows of a basis are padded with zeros to a multiple of this: then a group of columns needs no bounds."""


def build(
    tensors: Sequence[Tensor], basis_taps: Sequence[int], floor: bool, scale: bool, wide: bool, lanes: int
) -> Tables:
    """Plans a launch of programs of ``lanes`` lanes.

    Args:
        tensors: the tensors of the launch, maybe none.
        basis_taps: K of each basis, as ``pack_bases`` lays them out.
        floor: whether there is a ``floor_std``: then kernels that are not selected draw, too.
        scale: whether there is a ``grad_scale``.
        wide: whether the arithmetic is float64: then fewer values fit into registers.
        lanes: kernels or superblocks that a program handles at a time, a power of two.
    """
    kind = Quads(0, 0) if wide else _choose_quads(tensors, floor)
    paths = [_path(tensor, kind, floor, scale) for tensor in tensors]
    tiles = sum(_tiles(tensor, path, lanes) for tensor, path in zip(tensors, paths, strict=True))
    tiles_per_span = max(1, tiles // _ENOUGH_PROGRAMS)
    basis_starts = [0, *itertools.accumulate(taps * basis_pitch(taps) for taps in basis_taps)]
    tap_offsets = [_tap_offsets(tensor) for tensor in tensors]
    first_offset = first_program = 0
    rows: list[Row] = []
    counts: list[int] = []
    for tensor, path in zip(tensors, paths, strict=True):
        runs, run_length, span = _cut(tensor, path, lanes, tiles_per_span)
        spans_per_run = -(-run_length // span)
        first_channel, first_kernel, whole_kernels = tensor.place
        rows.append(
            Row(
                path=path,
                first_program=first_program,
                programs_per_run=spans_per_run,
                run_length=run_length,
                span=span,
                channels=tensor.channels,
                kernels=tensor.kernels,
                taps=tensor.taps,
                channel_stride=tensor.strides[0] if tensor.shape else 0,
                kernel_stride=tensor.strides[1] if len(tensor.shape) > 1 else 0,
                tap_offsets=first_offset,
                first_channel=first_channel,
                first_kernel=first_kernel,
                whole_kernels=whole_kernels,
                tensor_id=tensor.tensor_id,
                basis=basis_starts[max(tensor.basis, 0)],
                basis_pitch=basis_pitch(tensor.taps),
                high_dim=tensor.high_dim,
                pitch=pitch(_used(tensor, floor)),
                selected=tensor.selected,
                score_count=tensor.score_count,
                score_stride=tensor.score_stride,
                run_elements=math.prod(tensor.shape) // max(runs, 1),
            )
        )
        counts.append(runs * spans_per_run)
        first_program += counts[-1]
        first_offset += tensor.taps
    if first_program == 0:  # one program must run all the same, to advance the step
        rows.append(Row(*[0] * len(Row._fields)))
        counts.append(1)
    return Tables(
        rows=np.array(rows, dtype=np.int64),
        programs=np.repeat(np.arange(len(rows), dtype=np.int32), counts),
        offsets=np.concatenate([*tap_offsets, np.zeros(1, np.int64)]),
        memories=[_memory(tensor) for tensor in tensors] + [STRIDED] * (len(rows) - len(tensors)),
        quads=kind if QUADS in paths else Quads(0, 0),
        group=_group(
            [_used(t, floor) for t, path in zip(tensors, paths, strict=True) if path == KERNELS], wide or floor
        ),
        elements=ELEMENTS in paths,
    )


def pitch(used: int) -> int:
    """Words from a kernel's first to the next kernel's: a power of two up to 16, then multiples of 16."""
    if used > WORDS:
        return -(-used // WORDS) * WORDS
    return 1 << (used - 1).bit_length() if used else 0


def _used(tensor: Tensor, floor: bool) -> int:
    """Words that a kernel draws."""
    return tensor.taps if floor else tensor.high_dim


def _choose_quads(tensors: Sequence[Tensor], floor: bool) -> Quads:
    """Of the kinds of kernels that fit into registers the one with the most elements."""
    sizes: dict[Quads, int] = {}
    for tensor in tensors:
        kind = Quads(tensor.taps, tensor.high_dim)
        if _fits_quads(tensor, floor):
            sizes[kind] = sizes.get(kind, 0) + math.prod(tensor.shape)
    return max(sizes, key=sizes.__getitem__, default=Quads(0, 0))


def _fits_quads(tensor: Tensor, floor: bool) -> bool:
    """Whether groups of four kernels lie within channels and begin where a superblock begins."""
    _, first_kernel, whole_kernels = tensor.place
    return (
        tensor.high_dim > 0
        and tensor.taps <= MAX_QUAD_TAPS
        and pitch(_used(tensor, floor)) >= 4
        and tensor.kernels % 4 == first_kernel % 4 == whole_kernels % 4 == 0
    )


def _path(tensor: Tensor, quads: Quads, floor: bool, scale: bool) -> int:
    if math.prod(tensor.shape) == 0:
        return IDLE
    if not (floor or scale) and (tensor.high_dim == 0 or tensor.selected == 0):
        return IDLE
    if tensor.high_dim == 0:
        return ELEMENTS
    fast = _fits_quads(tensor, floor) and quads == Quads(tensor.taps, tensor.high_dim)
    return QUADS if fast else KERNELS


def _tile(path: int, lanes: int) -> int:
    """Units that a program handles at a time."""
    return 4 * lanes if path == QUADS else lanes


def _tiles(tensor: Tensor, path: int, lanes: int) -> int:
    runs, run_length, tile = _cut(tensor, path, lanes, 1)
    return runs * -(-run_length // tile)


def _cut(tensor: Tensor, path: int, lanes: int, tiles_per_span: int) -> tuple[int, int, int]:
    """(runs, units in a run, units in a span).

    Where a channel fills a tile it is a run, so that a program finds one channel's rank for many tiles. Smaller
    channels share tiles, and then a program has a single tile.
    """
    tile = _tile(path, lanes)
    if path == IDLE:
        return 0, 0, tile
    if path == ELEMENTS:
        return *_element_runs(tensor), tile * tiles_per_span
    if tensor.kernels >= tile:
        return tensor.channels, tensor.kernels, tile * tiles_per_span
    return 1, tensor.channels * tensor.kernels, tile


def _element_runs(tensor: Tensor) -> tuple[int, int]:
    """(runs, superblocks in a run): a run is a stretch of consecutive words, the whole tensor if possible."""
    first_channel, first_kernel, whole_kernels = tensor.place
    run = tensor.kernels * tensor.taps
    if tensor.channels == 1 or whole_kernels == tensor.kernels:
        skipped = (first_channel * whole_kernels + first_kernel) * tensor.taps % WORDS
        return 1, -(-(skipped + tensor.channels * run) // WORDS)
    return tensor.channels, -(-(WORDS - 1 + run) // WORDS)


def _memory(tensor: Tensor) -> int:
    """Up to the alignment of the pointer, which the kernels check."""
    taps = _tap_offsets(tensor)
    expected = 1
    contiguous = True
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        contiguous &= size == 1 or stride == expected
        expected *= size
    if contiguous:
        return FLAT
    along = len(tensor.shape) > 1 and tensor.strides[1] == 1 and tensor.strides[0] % 4 == 0
    return ALONG if along and not (taps % 4).any() else STRIDED


def _tap_offsets(tensor: Tensor) -> np.ndarray:
    """Offset of every tap from its kernel's first, in elements: int64 [taps]."""
    offsets = np.zeros(1, dtype=np.int64)
    for size, stride in zip(tensor.shape[2:], tensor.strides[2:], strict=True):
        offsets = (offsets[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return offsets


def _group(used: Sequence[int], crowded: bool) -> int:
    """A power of two that holds the normals of every kernel, or as many as registers can hold beside the rest."""
    if not used:
        return 0
    return min(32 if crowded else 64, max(WORDS, 1 << (max(used) - 1).bit_length()))


def basis_pitch(taps: int) -> int:
    """Elements from one row of a packed basis to the next."""
    return -(-taps // BASIS_UNIT) * BASIS_UNIT


def pack_bases(bases: Sequence[torch.Tensor], real: torch.dtype, device: torch.device) -> torch.Tensor:
    """The bases [K, K] with their rows padded, one after the other, in the type of the arithmetic."""
    padded = [torch.nn.functional.pad(basis, (0, basis_pitch(len(basis)) - len(basis))) for basis in bases]
    return torch.cat([torch.zeros(0, device=device), *(basis.flatten() for basis in padded)]).to(real)
