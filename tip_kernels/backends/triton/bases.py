"""How bases and amplitudes of a call lie on the device: one after the other. Rows of bases are padded."""

import itertools
from collections.abc import Sequence

import torch

from .table import MAX_CHUNK


def basis_pitch(taps: int) -> int:
    """Elements from one row of a packed basis to the next: with them no chunk of columns needs bounds."""
    return -(-taps // MAX_CHUNK) * MAX_CHUNK


def basis_starts(basis_taps: Sequence[int]) -> list[int]:
    """Where each packed basis starts, in elements, given K of each; then where they end."""
    return [0, *itertools.accumulate(taps * basis_pitch(taps) for taps in basis_taps)]


def pack_bases(bases: Sequence[torch.Tensor], real: torch.dtype, device: torch.device) -> torch.Tensor:
    """The bases [K, K] as one tensor of type ``real`` on the device."""
    padded = [torch.nn.functional.pad(basis, (0, basis_pitch(len(basis)) - len(basis))) for basis in bases]
    return torch.cat([torch.zeros(0, device=device), *(basis.flatten() for basis in padded)]).to(real)


def amplitude_starts(basis_taps: Sequence[int], amplitude_taps: Sequence[int]) -> list[int]:
    """Where the amplitudes of each kind start, given K of each; before them are those of tensors without, all ones."""
    return list(itertools.accumulate([2 * taps for taps in amplitude_taps], initial=2 * max(basis_taps, default=0)))


def pack_amplitudes(amplitudes: Sequence[torch.Tensor], ones: int, device: torch.device) -> torch.Tensor:
    """Amplitudes [2, K] as one float32 tensor on the device, which begins with so many ones."""
    return torch.cat([torch.ones(ones, device=device), *(table.flatten() for table in amplitudes)])
