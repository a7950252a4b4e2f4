"""From the facts of a call to its launches and their tables. Neither tensors nor Triton in here."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from .access import access_of, tap_offsets
from .address import GROUP, pitch
from .bases import amplitude_starts, basis_pitch, basis_starts
from .facts import CallFacts, TensorFacts
from .paths import choose_small_kind, path_of
from .portions import Cut, cut_tensors
from .table import ANY_KERNEL, ELEMENTS, MAX_CHUNK, SMALL_KERNELS, STRIDED, Row, SmallKind, Tables
from .variant import Variant


@dataclasses.dataclass(frozen=True, eq=False)
class Launch:
    """The part of one launch that depends on shapes only."""

    tables: Tables
    indices: tuple[int, ...]  # of its tensors in the op's list of gradients
    settings: Variant  # whose small_accesses depend on addresses and are still missing

    def chunked_rows(self) -> list[int]:
        """Rows of 16-bit numbers whose kernels take several chunks: between them sums need memory of their own."""
        if self.settings.dtype is self.settings.real:
            return []
        used = [row.taps if self.settings.floor else row.high_dim for row in self.tables.rows]
        rows = zip(self.tables.rows, used, strict=True)
        return [i for i, (row, words) in enumerate(rows) if row.path == ANY_KERNEL and words > self.tables.chunk]

    def accesses(self, addresses: Sequence[int]) -> list[int]:
        """How each row's memory is accessed, given the addresses of the gradients."""
        accesses = list(self.tables.accesses)
        for i, address in enumerate(addresses):
            if self.tables.rows[i].path == SMALL_KERNELS and address % 16:
                accesses[i] = STRIDED
        return accesses

    def variant(self, accesses: Sequence[int]) -> Variant:
        """The kernel for rows that are accessed in these ways."""
        rows = zip(self.tables.rows, accesses, strict=True)
        small = {access for row, access in rows if row.path == SMALL_KERNELS}
        return self.settings._replace(small_accesses=tuple(sorted(small)))


def plan_launches(facts: CallFacts, lanes: int) -> list[Launch]:
    """The launches of a call, at least one, with ``lanes`` lanes a program."""
    by_dtype: dict[torch.dtype, list[int]] = {}
    for i, (_, _, dtype) in enumerate(facts.grads):
        by_dtype.setdefault(dtype, []).append(i)
    return [_plan_launch(facts, dtype, indices, lanes) for dtype, indices in (by_dtype or {torch.float32: []}).items()]


def _plan_launch(facts: CallFacts, dtype: torch.dtype, indices: list[int], lanes: int) -> Launch:
    tensors = [facts.tensor(i) for i in indices]
    is_double = dtype is torch.float64
    starts = amplitude_starts(facts.basis_taps, facts.amplitude_taps)
    tables = plan_tables(tensors, facts.basis_taps, facts.floor, facts.scale, is_double, lanes, starts)
    settings = Variant(
        dtype=dtype,
        generator=facts.generator,
        floor=facts.floor,
        scale=facts.scale,
        keep=facts.keep,
        shaped=any(tensor.amplitudes >= 0 for tensor in tensors),
        small_kind=tables.small_kind,
        small_accesses=(),
        chunk=tables.chunk,
        elements=tables.elements,
        lanes=lanes,
    )
    return Launch(tables, tuple(indices), settings)


def plan_tables(
    tensors: Sequence[TensorFacts],
    basis_taps: Sequence[int],
    floor: bool,
    scale: bool,
    is_double: bool,
    lanes: int,
    amplitude_starts: Sequence[int] = (),
) -> Tables:
    """Plans a launch of programs of ``lanes`` lanes.

    Args:
        tensors: the tensors of the launch, maybe none.
        basis_taps: K of each basis, as ``pack_bases`` lays them out.
        floor: whether there is a ``floor_std``: then kernels that are not selected draw, too.
        scale: whether there is a ``grad_scale``.
        is_double: whether the arithmetic is float64: then fewer values fit into registers.
        lanes: kernels or groups of words that a program handles at a time, a power of two.
        amplitude_starts: of the amplitudes that tensors have, as ``pack_amplitudes`` lays them out.
    """
    small_kind = SmallKind() if is_double else choose_small_kind(tensors, floor)
    paths = [path_of(tensor, small_kind, floor, scale) for tensor in tensors]
    cuts = cut_tensors(tensors, paths, lanes)
    rows = _rows(tensors, paths, cuts, basis_starts(basis_taps), amplitude_starts, floor)
    counts = [cut.programs for cut in cuts]
    if sum(counts) == 0:  # one program must run all the same, to advance the step
        rows.append(Row(*[0] * len(Row._fields)))
        counts.append(1)
    chunked = [tensor.used_words(floor) for tensor, path in zip(tensors, paths, strict=True) if path == ANY_KERNEL]
    return Tables(
        rows=tuple(rows),
        programs=np.repeat(np.arange(len(rows), dtype=np.int32), counts),
        offsets=np.concatenate([*map(tap_offsets, tensors), np.zeros(1, np.int64)]),
        accesses=[access_of(tensor) for tensor in tensors] + [STRIDED] * (len(rows) - len(tensors)),
        small_kind=small_kind if SMALL_KERNELS in paths else SmallKind(),
        chunk=_chunk(chunked, is_double or floor),
        elements=ELEMENTS in paths,
    )


def _rows(
    tensors: Sequence[TensorFacts],
    paths: Sequence[int],
    cuts: Sequence[Cut],
    starts: Sequence[int],
    amplitude_starts: Sequence[int],
    floor: bool,
) -> list[Row]:
    """A row for each tensor; ``starts``: of the packed bases."""
    first_program = first_offset = 0
    rows: list[Row] = []
    for tensor, path, cut in zip(tensors, paths, cuts, strict=True):
        rows.append(
            Row(
                path=path,
                first_program=first_program,
                programs_per_run=cut.programs_per_run,
                run_length=cut.run_length,
                portion=cut.portion,
                kernels=tensor.kernels,
                taps=tensor.taps,
                channel_stride=tensor.strides[0] if tensor.shape else 0,
                kernel_stride=tensor.strides[1] if len(tensor.shape) > 1 else 0,
                tap_offsets=first_offset,
                first_channel=tensor.shard.first_channel,
                first_kernel=tensor.shard.first_kernel,
                kernels_per_channel=tensor.shard.kernels_per_channel,
                tensor_id=tensor.tensor_id,
                basis=starts[max(tensor.basis, 0)],
                basis_pitch=basis_pitch(tensor.taps),
                high_dim=tensor.high_dim,
                pitch=pitch(tensor.used_words(floor)),
                selected=tensor.selected,
                score_count=tensor.score_count,
                score_stride=tensor.score_stride,
                run_elements=tensor.size // max(cut.runs, 1),
                amplitudes=amplitude_starts[tensor.amplitudes] if tensor.amplitudes >= 0 else 0,
            )
        )
        first_program += cut.programs
        first_offset += tensor.taps
    return rows


def _chunk(used: Sequence[int], is_crowded: bool) -> int:
    """A power of two that holds the normals of every kernel, or as many as registers can hold beside the rest."""
    if not used:
        return 0
    return min(MAX_CHUNK // 2 if is_crowded else MAX_CHUNK, max(GROUP, 1 << (max(used) - 1).bit_length()))
