"""An amount of noise, one for a model or one for each of its parameters."""

import math
from collections.abc import Iterable, Mapping

import torch

from .._op.numbers import check_amount
from .._runtime.tracing import is_dry_run


class Amount:
    """``std`` or ``floor_std``, as a float or as a float32 tensor [tensors] on each device it was asked for.

    Args:
        name: the argument's, for errors.
        value: a float, or a mapping by parameter name.
        names: of the model's parameters and buffers, by index.
        required: names that a mapping must have.
        shares: how many messages add up to this noise; that of one is ``1 / sqrt(shares)`` of it.

    Raises:
        TypeError, ValueError: not a float or a mapping, a name that is missing or unknown, or an amount below 0.
    """

    def __init__(
        self,
        name: str,
        value: float | Mapping[str, float],
        names: tuple[str, ...],
        required: Iterable[str],
        shares: int = 1,
    ) -> None:
        self._name = name
        self._names = names
        self._value = value
        self._tables: dict[torch.device, torch.Tensor] = {}
        if isinstance(value, torch.Tensor):
            raise TypeError(f"expected {name} to be a float or a mapping by parameter name, got a tensor")
        if isinstance(value, Mapping):
            self.require(required)
            unknown = sorted(set(value) - set(names))
            if unknown:
                raise ValueError(f"expected {name} to name the model's parameters, got {unknown[0]!r}")
            for key, amount in value.items():
                check_amount(f"{name}[{key!r}]", amount)
            self._value = value = {key: float(amount) / math.sqrt(shares) for key, amount in value.items()}
            self._table = torch.tensor([float(value.get(key, 0.0)) for key in names], dtype=torch.float32, device="cpu")
        elif shares > 1:
            check_amount(name, value)
            self._value = value / math.sqrt(shares)

    def named(self) -> dict[str, float]:
        """By name: of all tensors, or of those that a mapping names."""
        return dict(self._value) if isinstance(self._value, Mapping) else dict.fromkeys(self._names, self._value)

    def require(self, names: Iterable[str]) -> None:
        """Raises ValueError if a mapping lacks one of these names."""
        if isinstance(self._value, Mapping):
            for name in names:
                if name not in self._value:
                    raise ValueError(f"expected {self._name} to have an entry for {name!r}, got none")

    def on(self, device: torch.device, count: int) -> float | torch.Tensor:
        """For the first ``count`` tensors."""
        if not isinstance(self._value, Mapping):
            return self._value
        if is_dry_run():
            return torch.empty(count, dtype=torch.float32, device=device)
        if device not in self._tables:
            self._tables[device] = self._table.to(device)
        return self._tables[device][:count]
