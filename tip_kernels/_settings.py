"""The settings that a user gives a TIP: defaults, checks, and copies that nobody else can change under way."""

import warnings
from collections.abc import Mapping, Sequence

import torch

from ._plan import Masks

DEFAULT_STD = 0.01


def warn_of_default_std() -> None:
    """Of noise of a size that nobody chose, on gradients of a size that nothing bounds."""
    warnings.warn(
        f"std is left at {DEFAULT_STD} in the units of gradients that are not clipped: give max_grad_norm, which "
        "bounds what the noise must hide, or a std",
        RuntimeWarning,
        stacklevel=4,
    )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f"expected {name} to be {' or '.join(map(repr, choices))}, got {value!r}")


def copied_amount(amount: float | Mapping[str, float]) -> float | Mapping[str, float]:
    """``std`` or ``floor_std``."""
    return dict(amount) if isinstance(amount, Mapping) else amount


def copied_masks(masks: Masks | None) -> Masks | None:
    """What is no mapping of masks stays as it is, for the checks to say so."""
    if not isinstance(masks, Mapping):
        return masks
    keys = [tuple(key) if isinstance(key, Sequence) else key for key in masks]
    values = [mask.clone() if isinstance(mask, torch.Tensor) else mask for mask in masks.values()]
    return dict(zip(keys, values, strict=True))
