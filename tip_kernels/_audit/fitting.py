"""Noise in the shape that hides most of a picture for what it costs, from the rows of an audit."""

import copy
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import spectrum
from .._op.numbers import check_amount
from ..audit import Audit, audit
from ..defense import TIP
from ..shaping import Spectrum
from .channels import Loss
from .posterior import Progress
from .report import Row

TOLERANCE = 0.05
"""In dB, of a target for the ceiling."""
MOST_STEPS = 10
"""Of a search for a level, by factors of 4, and as many between two of them."""
FIRST = 0.1
"""The level that is tried first, by the clipping norm."""
_WIDEST = math.log(32.0)  # of amounts by their mean: public images are not all images


class Target(NamedTuple):
    """What a spectrum is scaled to: one of them is None."""

    psnr: float | None
    noise_multiplier: float | None

    @classmethod
    def checked(cls, psnr: float | None, noise_multiplier: float | None) -> "Target":
        """Raises ValueError unless one of them is given, and TypeError if that is no number."""
        if (psnr is None) == (noise_multiplier is None):
            raise ValueError("expected either psnr or noise_multiplier as the target, got both or none")
        for name, value in (("psnr", psnr), ("noise_multiplier", noise_multiplier)):
            if value is not None:
                check_amount(name, value)
                if value == 0:
                    raise ValueError(f"expected {name} to be above 0, got 0")
        return cls(psnr, noise_multiplier)


def fitted(
    model: nn.Module,
    loss: Loss,
    images: torch.Tensor,
    labels: torch.Tensor,
    target: Target,
    settings: Mapping[str, Any],
    asked: Mapping[str, Any],
    progress: Progress | None,
) -> Spectrum:
    """See :meth:`tip_kernels.Spectrum.fit`; ``settings`` are those of a TIP, ``asked`` arguments of an audit."""
    model = copy.deepcopy(model)  # whose TIPs are ours
    audits = 0

    def audited(noise: Spectrum) -> Audit:
        nonlocal audits
        with TIP(model, spectrum=noise, **settings) as defense:
            found = audit(model, loss, images, labels, defense, **asked)
        audits += 1
        if progress is not None:
            progress(1 - 0.85**audits)  # nobody knows how many it takes
        return found

    amounts = _Amounts(model, settings)
    flat = amounts.flat()
    level = target.noise_multiplier
    if target.psnr is not None:
        level = _level(lambda level: audited(flat.scaled(level)).psnr.mean().item(), target.psnr, FIRST)
    assert level is not None  # one of the two is given
    shaped = amounts.shaped(audited(flat.scaled(level)).leak)
    if target.psnr is not None:
        level = _level(lambda level: audited(shaped.scaled(level)).psnr.mean().item(), target.psnr, level)
        found = shaped.scaled(level)
    else:
        found = shaped.scaled(level / shaped.least())
    if progress is not None:
        progress(1.0)
    return found


class _Amounts:
    """The names and shapes of the amounts of one model's spectra."""

    def __init__(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        with TIP(model, std=1.0, floor_std=1.0, **settings) as defense:  # as flat() has it
            layout, bands = defense._layout, defense._mechanism.bands
            self._names = [name for name in layout.names if name in layout.floating_names]
            self._kernels = {
                layout.names[index]: kernel_size
                for index, kernel_size in layout.kernel_sizes.items()
                if not bands.is_empty(kernel_size)
            }

    def flat(self) -> Spectrum:
        """The same noise everywhere, of 1."""
        return Spectrum(dict.fromkeys(self._names, 1.0))

    def shaped(self, rows: list[Row]) -> Spectrum:
        """By what bands reveal and what noise on them costs; 1 is the mean over the coefficients, by logarithms."""
        logs = [_log_amount(row) for row in rows]
        known = [(row.count, log) for row, log in zip(rows, logs, strict=True) if math.isfinite(log)]
        if not known:
            raise ValueError("expected images that the message tells something of, got none: nothing to fit a shape to")
        mean = sum(count * log for count, log in known) / sum(count for count, _ in known)
        bands: dict[str, dict[tuple[str, float | None], float]] = {name: {} for name in self._names}
        for row, log in zip(rows, logs, strict=True):
            amount = math.exp(min(max(log - mean, -_WIDEST), _WIDEST)) if math.isfinite(log) else 1.0
            bands[row.parameter][row.channels, row.radius] = amount
        return Spectrum({name: self._stds(name, found) for name, found in bands.items()})

    def _stds(self, name: str, bands: Mapping[tuple[str, float | None], float]) -> torch.Tensor | float:
        if not bands:
            return 1.0  # frozen, or a buffer
        if name not in self._kernels:
            return math.exp(statistics.mean(map(math.log, bands.values())))
        radii = spectrum.bin_radii(self._kernels[name])
        found = [
            bands.get((channels, radius)) or bands.get(("all", radius), 1.0)
            for channels in ("others", "selected")
            for radius in (round(radius, 6) for radius in radii.flatten().tolist())
        ]
        return torch.tensor(found, dtype=torch.float64).view(2, *radii.shape)


def _log_amount(row: Row) -> float:
    """Of the std, up to a constant: its variance is the root of what a unit of noise hides by what it costs."""
    hides, costs = row.reveals * row.std**2 / max(row.count, 1.0), row.harm
    return (math.log(hides) - math.log(costs)) / 4 if hides > 0 and costs > 0 else math.nan


def _level(ceiling: Callable[[float], float], target: float, start: float) -> float:
    """The noise at which a ceiling, which falls with it, meets the target.

    Raises:
        ValueError: there is none within a factor of a million.
    """

    def excess(log: float) -> float:
        return ceiling(math.exp(log)) - target

    log = math.log(start)
    value = excess(log)
    step = math.copysign(math.log(4.0), value)
    for _ in range(MOST_STEPS):
        if abs(value) < TOLERANCE:
            return math.exp(log)
        following, then = log + step, excess(log + step)
        if then * value < 0:
            return math.exp(_root(excess, (log, value), (following, then)))
        log, value = following, then
    raise ValueError(
        f"expected a psnr that noise can reach, got {target:g} dB: with {math.exp(log):.2g} of the clipping norm on "
        f"everything the ceiling is {target + value:.2f} dB"
    )


def _root(excess: Callable[[float], float], one: tuple[float, float], other: tuple[float, float]) -> float:
    """Between two points of different signs, by false position (the Illinois rule, Dowell and Jarratt 1971)."""
    value = one[1]
    for _ in range(MOST_STEPS):
        middle = (one[0] * other[1] - other[0] * one[1]) / (other[1] - one[1])
        value = excess(middle)
        if abs(value) < TOLERANCE:
            return middle
        one = other if value * other[1] < 0 else (one[0], one[1] / 2)
        other = middle, value
    raise ValueError(f"expected to meet psnr within {TOLERANCE:g} dB, came {abs(value):.2g} dB away: raise probes")
