"""What launches need on the device besides the tensors of the call: tables, addresses and bases, from caches."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import torch

from ..._op.schemas import PerturbArguments
from .bases import amplitude_starts, pack_amplitudes, pack_bases
from .cache import DeviceCache, upload
from .device import lanes_of_program
from .facts import CallFacts, facts_of
from .plan import Launch, plan_launches
from .variant import Variant

_TABLES = DeviceCache(64)
_HEADERS = DeviceCache(64)
_BASES = DeviceCache(64)
_AMPLITUDES = DeviceCache(64)


@dataclasses.dataclass(frozen=True, eq=False)
class _OnDevice:
    """The tables of a launch on the device."""

    launch: Launch
    rows: torch.Tensor  # int64 [T, columns]
    programs: torch.Tensor  # int32 [P]
    offsets: torch.Tensor  # int64 [sum of taps]


class _Header(NamedTuple):
    """What of a launch depends on addresses."""

    variant: Variant
    on_device: torch.Tensor  # int64, see kernels/perturb.py


class ReadyLaunch(NamedTuple):
    """A launch with all that it needs."""

    variant: Variant
    programs: int
    arguments: tuple[torch.Tensor, ...]
    """The first arguments of the kernel: header, rows, programs, offsets, bases, amplitudes"""


def make_ready(given: PerturbArguments) -> list[ReadyLaunch]:
    """The launches of a call, at least one."""
    facts, device = facts_of(given), given.state.device
    tables = _TABLES.get((facts, device), device, functools.partial(_make_tables, facts, device))
    return [_make_launch_ready(given, facts, one, device) for one in tables]


def _make_launch_ready(
    given: PerturbArguments, facts: CallFacts, tables: _OnDevice, device: torch.device
) -> ReadyLaunch:
    grads = [given.grads[i] for i in tables.launch.indices]
    scores = [given.scores[i] for i in tables.launch.indices]
    header = _HEADERS.get(
        (tables, tuple([tensor.data_ptr() for tensor in (*grads, *scores)]), given.keep),
        device,
        functools.partial(_make_header, tables.launch, grads, scores, given.keep, device),
    )
    real = tables.launch.settings.real
    bases = _BASES.get(
        (tuple([basis.data_ptr() for basis in given.bases]), facts.basis_taps, real, device),
        device,
        functools.partial(_make_bases, given.bases, real, device),
    )
    amplitudes = given.std  # in place of a pointer that is not read
    if header.variant.shaped:
        amplitudes = _AMPLITUDES.get(
            (tuple([table.data_ptr() for table in given.amplitudes]), facts.basis_taps, facts.amplitude_taps, device),
            device,
            functools.partial(_make_amplitudes, given.amplitudes, facts, device),
        )
    arguments = (header.on_device, tables.rows, tables.programs, tables.offsets, bases, amplitudes)
    return ReadyLaunch(header.variant, len(tables.programs), arguments)


def _make_tables(facts: CallFacts, device: torch.device) -> tuple[list[_OnDevice], list[torch.Tensor]]:
    made, memory = [], []
    for launch in plan_launches(facts, lanes_of_program(device)):
        tables = launch.tables
        arrays = (np.array(tables.rows, dtype=np.int64), tables.programs, tables.offsets)
        pairs = [upload(array, device) for array in arrays]
        made.append(_OnDevice(launch, *(on_device for on_device, _ in pairs)))
        memory += [tensor for pair in pairs for tensor in pair]
    return made, memory


def _make_header(
    launch: Launch, grads: list[torch.Tensor], scores: list[torch.Tensor], keep: float, device: torch.device
) -> tuple[_Header, list[torch.Tensor]]:
    """See ``kernels/perturb.py`` for the layout."""
    values = np.zeros(1 + 4 * len(launch.tables.rows), dtype=np.int64)
    values[0] = np.float64(keep).view(np.int64)
    entries = values[1:].reshape(-1, 4)
    addresses = [grad.data_ptr() for grad in grads]
    accesses = launch.accesses(addresses)
    entries[: len(grads), 0] = entries[: len(grads), 2] = addresses
    entries[: len(grads), 1] = [score.data_ptr() for score in scores]
    entries[:, 3] = accesses
    sums = []
    for row in launch.chunked_rows():
        grad = grads[row]
        sums.append(torch.empty_strided(grad.shape, grad.stride(), dtype=launch.settings.real, device=device))
        entries[row, 2] = sums[-1].data_ptr()
    on_device, source = upload(values, device)
    return _Header(launch.variant(accesses), on_device), [on_device, source, *sums]


def _make_bases(
    bases: list[torch.Tensor], real: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """With the bases themselves: while they live, no others can have their addresses."""
    packed = pack_bases(bases, real, device)
    return packed, [packed, *bases]


def _make_amplitudes(
    amplitudes: list[torch.Tensor], facts: CallFacts, device: torch.device
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """With the amplitudes themselves, as of bases."""
    ones = amplitude_starts(facts.basis_taps, facts.amplitude_taps)[0]
    packed = pack_amplitudes(amplitudes, ones, device)
    return packed, [packed, *amplitudes]
