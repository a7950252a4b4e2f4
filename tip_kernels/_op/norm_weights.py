"""The norm that ``max_grad_norm`` bounds, where coefficients count in it by weights: as quadratic forms of kernels."""

import math
from collections.abc import Sequence

import torch

from .._runtime.tracing import specialize
from .naming import check_length, label
from .numbers import check_number, numbers_of

Weights = float | tuple[float, ...]
Given = Sequence[float | Sequence[float] | None]
"""For each tensor one weight, one for each coefficient of a kernel as :class:`Amplitudes` has them, or None for 1."""


def weights_of(given: Given | None, count: int, names: Sequence[str] | None) -> tuple[Weights | None, ...] | None:
    """The user's ``norm_weights`` for so many tensors, hashable; None if no tensor has any.

    Numbers are checked where they meet a tensor, by :meth:`Forms.id_of`.
    """
    if given is None:
        return None
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"expected norm_weights to be a sequence, got {type(given).__name__}")
    check_length("norm_weights", given, count)
    if all(one is None for one in given):
        return None
    return tuple([None if one is None else _hashable(one, label(i, names)) for i, one in enumerate(given)])


def _hashable(one: float | Sequence[float], where: str) -> Weights:
    if isinstance(one, Sequence) and not isinstance(one, str):
        return numbers_of(f"norm_weights{where}", one)
    check_number(f"norm_weights{where}", one)
    return specialize(one)


class Forms:
    """The distinct forms of one plan, as the op ``clip_scale`` wants them.

    A form R is float64 [K, K] on the CPU, and a kernel g of K taps adds |R g|^2 to the square of the norm: its rows are
    those of the transposed basis, times their weights. With K = 1 every element of any tensor is such a kernel.
    """

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self._ids: dict[tuple[Weights, int | None], int] = {}

    def id_of(self, weights: Weights | None, basis: torch.Tensor | None, where: str) -> int:
        """Index of a tensor's form, -1 for one that counts as it is.

        Args:
            weights: from :func:`weights_of`.
            basis: of its high band, float64 [K, K]; None if it has none. The same object for the same kernel size.
            where: how errors name the tensor.

        Raises:
            TypeError, ValueError: it has weights that it cannot have.
        """
        if weights is None:
            return -1
        key = (weights, id(basis) if isinstance(weights, tuple) else None)
        if key not in self._ids:
            form = _form(weights, basis, where)
            self._ids[key] = len(self.tensors)
            self.tensors.append(form)
        return self._ids[key]


def _form(weights: Weights, basis: torch.Tensor | None, where: str) -> torch.Tensor:
    if not isinstance(weights, tuple):
        _check(weights, f"norm_weights{where}")
        return torch.tensor([[weights]], dtype=torch.float64, device="cpu")
    if basis is None:
        raise ValueError(
            f"expected one number as norm_weights{where}, because this tensor has no high band and with it no "
            f"coefficients but its elements, got {len(weights)}"
        )
    if len(weights) != len(basis):
        raise ValueError(
            f"expected norm_weights{where} to be one number, or {len(basis)}, one per coefficient of a kernel, "
            f"got {len(weights)}"
        )
    for j, weight in enumerate(weights):
        _check(weight, f"norm_weights{where}[{j}]")
    rows: torch.Tensor = torch.tensor(weights, dtype=torch.float64, device="cpu").unsqueeze(1) * basis.T
    return rows.contiguous()


def _check(value: float, name: str) -> None:
    check_number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"expected {name} to be above 0 and finite, got {value}: at 0 nothing would bound it")
