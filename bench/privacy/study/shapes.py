"""Fitted spectra: as hard to see through as plain noise by the audit's ceiling, or by the guarantee."""

import dataclasses
import functools
import pathlib
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import tip_kernels as tip
from bench import paths
from bench.privacy.client import defenses
from bench.privacy.client.noise_levels import Maker
from bench.privacy.client.release import CLIP, Defense
from bench.privacy.study import scenes
from bench.privacy.study.fedsgd import images_of, pixels
from tip_kernels.audit import Audit, ImagePrior, audit

RATIOS = {"spectrum": 0.0, "TIP 0.3, spectrum": 0.3}
AS_PRIVATE = ", equal guarantee"
"""Behind a name: scaled until its least noise is that of plain noise, and not until its ceiling is."""
BY_NOISE = ", clipped by noise"
"""Behind that: where noise is louder, more of the gradient is let through, at the same guarantee."""

AUDITED, LEARNED = 8, 8000
"""Public images that spectra are fitted on, and that their audits' prior is fitted to."""


def file(ratio: float, noise: float) -> pathlib.Path:
    """Where the spectrum beside plain noise of that std is kept."""
    return paths.PRIVACY_RESULTS / "spectra" / f"ratio-{ratio:g}-noise-{noise:g}.json"


def least(defense: str, noise: float) -> float:
    """The least noise of a defense of ``noise_costs``, which its guarantee is that of."""
    return fitted(RATIOS[defense], noise).least() if defense in RATIOS else noise


class Gains(NamedTuple):
    """How many times less noise in its best shape would cost: at the same ceiling, and at the same trace of F."""

    ceiling: float
    trace: float


def gains(model: nn.Module, noise: float, data: pathlib.Path) -> Gains:
    """Over plain noise, to first order, by the bands of an audit; see docs/audit.md."""
    found = _audited(model, noise, data)
    by_trace = [dataclasses.replace(row, reveals=row.leak) for row in found.leak]
    return Gains(found.shape_gain(), dataclasses.replace(found, leak=by_trace).shape_gain())


def nets(data: pathlib.Path) -> dict[str, nn.Module]:
    """The attacked net at its first weights and after training."""
    return {"first weights": scenes.one_image(data).model, "trained": scenes.trained_conv_net(data)}


def fit(ratio: float, noise: float, data: pathlib.Path) -> tip.Spectrum:
    """For the attacked net at its first weights, with the ceiling of plain noise on images set aside for validation."""
    public, model = _public(data), nets(data)["first weights"]
    plain = _audited(model, noise, data).psnr.mean().item()
    settings = {"ratio": ratio, "max_grad_norm": CLIP}
    return tip.Spectrum.fit(model, cross_entropy, *public, psnr=plain, **settings, **_asked(data))


def _audited(model: nn.Module, noise: float, data: pathlib.Path) -> Audit:
    return audit(model, cross_entropy, *_public(data), noise, max_grad_norm=CLIP, **_asked(data))


def _public(data: pathlib.Path) -> tuple[torch.Tensor, torch.Tensor]:
    public = images_of(data).validation[:AUDITED]
    return pixels(public), public.labels


@functools.cache
def _asked(data: pathlib.Path) -> dict[str, Any]:
    """Arguments of all audits."""
    return {"prior": ImagePrior.fit(pixels(images_of(data).train[:LEARNED])), "method": "iterative", "probes": 8}


def fitted(ratio: float, noise: float) -> tip.Spectrum:
    """The one that is kept; raises FileNotFoundError, with the command that makes it, if there is none."""
    path = file(ratio, noise)
    if not path.exists():
        raise FileNotFoundError(f"expected {path}: make it by\n    python -m bench.privacy shape --data FOLDER")
    return tip.Spectrum.load(path)


def _defense(ratio: float, noise: float, as_private: bool = False, clip_by: str = "norm") -> Defense:
    shape = fitted(ratio, noise)
    return defenses.shaped(shape.scaled(noise / shape.least()) if as_private else shape, ratio, clip_by=clip_by)


MAKERS: dict[str, Maker] = {
    **{name: partial(_defense, ratio) for name, ratio in RATIOS.items()},
    f"TIP 0.3, spectrum{AS_PRIVATE}": partial(_defense, 0.3, as_private=True),
    f"TIP 0.3, spectrum{AS_PRIVATE}{BY_NOISE}": partial(_defense, 0.3, as_private=True, clip_by="noise"),
}
"""By name; called with the std of plain noise that they are compared with."""
