"""Who is timed against whom: each backend and eager PyTorch at the same works, and a copy of the device's memory."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ..functional import perturb_
from ..rng import NoiseRNG
from . import eager
from .parameters import Gradients, Parameter, count, gradients, selected

STD = 1e-3
EAGER = "eager"

COPIED = {"cpu": 2**26, "cuda": 2**28}
"""Floats by kind of device: more than caches hold."""

TIP, TIP_WITH_FLOOR, GAUSSIAN = "TIP", "TIP with a floor", "Gaussian noise"
WORKS = {
    TIP: "noise on the high band of selected channels; nothing else is touched",
    TIP_WITH_FLOOR: "and noise on all that this leaves out, rounded to a grid",
    GAUSSIAN: "on everything: a floor alone",
}
"""What is done to the gradients of a model, and what that is. Eager PyTorch has no counterpart of the second."""


class Settings(NamedTuple):
    """``ratio`` and ``cutoff`` of TIP, and the ``generator`` of its noise."""

    ratio: float
    cutoff: float
    generator: str


class Contestant(NamedTuple):
    """A way to do a work.

    Attributes:
        work: one of ``WORKS``.
        by: a backend, or ``EAGER``.
        run: does it once.
        bytes_moved: that it must read and write.
    """

    work: str
    by: str
    run: Callable[[], object]
    bytes_moved: int


def contest(
    parameters: list[Parameter], device: torch.device, dtype: torch.dtype, backends: Sequence[str], settings: Settings
) -> list[Contestant]:
    """Contestants on gradients of these parameters; those of one work share them, so that memory is that of three.

    Without TIP alone where no kernel has more than one tap.
    """
    grads = {work: gradients(parameters, device, dtype) for work in WORKS}
    moved = dict.fromkeys(WORKS, 2 * dtype.itemsize * count(parameters))
    moved[TIP] = 2 * dtype.itemsize * selected(parameters, settings.ratio)
    options: dict[str, dict[str, float]] = {
        TIP: {"ratio": settings.ratio},
        TIP_WITH_FLOOR: {"ratio": settings.ratio, "floor_std": STD},
        GAUSSIAN: {"ratio": 0.0, "floor_std": STD},
    }
    found = [
        Contestant(work, backend, _call(grads[work], settings, backend, options[work]), moved[work])
        for backend in backends
        for work in WORKS
    ]
    by_eager = {
        TIP: lambda: eager.high_band(grads[TIP], settings.ratio, settings.cutoff, STD),
        GAUSSIAN: lambda: eager.gaussian(grads[GAUSSIAN], STD),
    }
    found += [Contestant(work, EAGER, run, moved[work]) for work, run in by_eager.items()]
    return [contestant for contestant in found if contestant.bytes_moved]


def _call(grads: Gradients, settings: Settings, backend: str, options: dict[str, Any]) -> Callable[[], None]:
    rng = NoiseRNG(generator=settings.generator)
    return lambda: perturb_(*grads, std=STD, cutoff=settings.cutoff, rng=rng, backend=backend, **options)


def copy(device: torch.device) -> tuple[Callable[[], object], int]:
    """A copy from memory to memory, and the bytes that it reads and writes."""
    source = torch.ones(COPIED[device.type], device=device)  # zeros might all lie in one page
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes
