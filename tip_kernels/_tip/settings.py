"""The settings that a user gives a TIP: defaults, checks, and copies that nobody else can change under way."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .._op.numbers import check_max_grad_norm, check_range
from .._op.plan import Masks
from ..rng import NoiseRNG

DEFAULT_STD = 0.01


def checked_settings(**settings: Any) -> dict[str, Any]:
    """The arguments of a TIP by name, with the defaults that depend on others or are made anew.

    Amounts and masks are checked where they are used.
    """
    check_choice("scores", settings["scores"], ("private", "public"))
    check_choice("buffers", settings["buffers"], ("send", "withhold"))
    check_choice("clip_by", settings["clip_by"], ("norm", "noise"))
    if settings["clip_by"] == "noise" and settings["max_grad_norm"] is None:
        raise ValueError("expected max_grad_norm beside clip_by='noise', got None: nothing would be clipped")
    check_range("ratio", settings["ratio"], 0.0, 1.0)
    check_shares(settings["shares"], settings["honest"])
    std, max_grad_norm, rng = settings["std"], settings["max_grad_norm"], settings["rng"]
    floor_std = settings["floor_std"]
    has_floor = not isinstance(floor_std, (int, float)) or floor_std != 0
    if settings["spectrum"] is not None and (std is not None or has_floor):
        raise ValueError("expected std and floor_std to be left out beside a spectrum, which has all noise, got both")
    max_grad_norm = None if max_grad_norm is None else float(max_grad_norm)
    check_max_grad_norm(max_grad_norm)
    return {
        **settings,
        "std": copied_amount(DEFAULT_STD if std is None and settings["spectrum"] is None else std),
        "floor_std": copied_amount(floor_std),
        "masks": copied_masks(settings["masks"]),
        "max_grad_norm": max_grad_norm,
        "rng": NoiseRNG() if rng is None else rng,
    }


def shown(settings: Mapping[str, Any]) -> str:
    """As keyword arguments, without those that are not there."""
    given = {name: value for name, value in settings.items() if value is not None}
    for name, plain in (("shares", 1), ("clip_by", "norm")):
        if given[name] == plain:
            del given[name]
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


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


def check_shares(shares: int, honest: int | None) -> None:
    """Raises ValueError unless they are whole numbers of clients, and TypeError if they are no integers."""
    for name, value in (("shares", shares), ("honest", honest)):
        if value is not None and not isinstance(value, int):
            raise TypeError(f"expected {name} to be an integer, got {type(value).__name__}")
    if shares < 1:
        raise ValueError(f"expected shares to be at least 1, got {shares}")
    if honest is not None and not 1 <= honest <= shares:
        raise ValueError(f"expected honest in [1, {shares}], of the shares, got {honest}")


def copied_amount(amount: float | Mapping[str, float] | None) -> float | Mapping[str, float] | None:
    """``std`` or ``floor_std``."""
    return dict(amount) if isinstance(amount, Mapping) else amount


def copied_masks(masks: Masks | None) -> Masks | None:
    """What is no mapping of masks stays as it is, for the checks to say so."""
    if not isinstance(masks, Mapping):
        return masks
    keys = [tuple(key) if isinstance(key, Sequence) else key for key in masks]
    values = [mask.clone() if isinstance(mask, torch.Tensor) else mask for mask in masks.values()]
    return dict(zip(keys, values, strict=True))
