"""The shape of a kernel's noise: what each coefficient gets of ``std`` and ``floor_std``."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .naming import check_length, label
from .numbers import FLOAT32_MAX, check_number, numbers_of

FLOAT32_LEAST = torch.finfo(torch.float32).tiny
"""The least normal number: what is smaller is 0 where hardware flushes."""


class Amplitudes(NamedTuple):
    """What multiplies the noise of each coefficient of a conv kernel of K taps, d of them in the high band.

    Normal float32 numbers above 0, in the order of the columns of :func:`tip_kernels.spectrum.real_basis` for the high
    band in force. In selected channels the first d multiply ``std``, as do all others ``floor_std``. With an amplitude
    of 0 a coefficient would be sent as it is, so that is refused.
    """

    selected: Sequence[float]
    """[K], of selected channels"""
    others: Sequence[float]
    """[K], of the other channels; of no effect without a floor"""


Given = Sequence[Amplitudes | None]
Shapes = tuple[Amplitudes | None, ...]
"""The same, hashable."""


def shapes_of(given: Given | None, count: int, names: Sequence[str] | None) -> Shapes | None:
    """The user's ``amplitudes`` for so many tensors, hashable; None if no tensor has any.

    Numbers are checked where they meet a kernel, by :meth:`Tables.id_of`.
    """
    if given is None:
        return None
    if not isinstance(given, Sequence):
        raise TypeError(f"expected amplitudes to be a sequence of Amplitudes, got {type(given).__name__}")
    check_length("amplitudes", given, count)
    if all(one is None for one in given):
        return None
    return tuple([None if one is None else _hashable(one, label(i, names)) for i, one in enumerate(given)])


def _hashable(one: Amplitudes, where: str) -> Amplitudes:
    if not isinstance(one, Amplitudes):
        raise TypeError(f"expected amplitudes{where} to be Amplitudes or None, got {type(one).__name__}")
    named = zip(one._fields, one, strict=True)
    return Amplitudes(*[numbers_of(f"amplitudes{where}.{name}", values) for name, values in named])


class Tables:
    """The distinct amplitudes of one plan, as the op wants them."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        """float32 [2, K] each, on the CPU"""
        self._ids: dict[Amplitudes, int] = {}

    def id_of(self, one: Amplitudes | None, taps: int, where: str) -> int:
        """Index of a tensor's amplitudes, -1 without any.

        Args:
            one: the amplitudes, from :func:`shapes_of`.
            taps: of its kernels; 0 if it has no high band.
            where: how errors name the tensor.

        Raises:
            TypeError, ValueError: it has amplitudes that it cannot have.
        """
        if one is None:
            return -1
        if taps == 0:
            raise ValueError(
                f"expected amplitudes{where} to be None, because this tensor has no high band: it has no scores, a "
                "kernel of one tap or an empty mask, and its noise has no shape but a floor_std of its own"
            )
        for name, values in zip(one._fields, one, strict=True):
            if len(values) != taps:
                raise ValueError(
                    f"expected amplitudes{where}.{name} of length {taps}, one per coefficient of a kernel, "
                    f"got {len(values)}"
                )
        if one not in self._ids:
            for name, values in zip(one._fields, one, strict=True):
                _check(values, f"amplitudes{where}.{name}")
            self._ids[one] = len(self.tensors)
            self.tensors.append(torch.tensor(one, dtype=torch.float32, device="cpu"))
        return self._ids[one]


def _check(values: Sequence[float], name: str) -> None:
    for j, value in enumerate(values):
        check_number(f"{name}[{j}]", value)
        if not FLOAT32_LEAST <= value <= FLOAT32_MAX:
            raise ValueError(
                f"expected {name}[{j}] in [{FLOAT32_LEAST:g}, {FLOAT32_MAX:g}], the normal float32 numbers above 0, "
                f"got {value}"
            )
