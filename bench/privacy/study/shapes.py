"""Fitted spectra: as hard to see through as plain noise by the audit's ceiling, or by the guarantee."""

import pathlib
from functools import partial

import torch

import tip_kernels as tip
from bench import paths
from bench.privacy.client import defenses
from bench.privacy.client.noise_levels import Maker
from bench.privacy.client.release import CLIP, Defense
from bench.privacy.nets import small_conv_net
from bench.privacy.study.fedsgd import images_of, pixels
from tip_kernels.audit import ImagePrior, audit

RATIOS = {"spectrum": 0.0, "TIP 0.3, spectrum": 0.3}
AS_PRIVATE = ", equal guarantee"
"""Behind a name: scaled until its least noise is that of plain noise, and not until its ceiling is."""

AUDITED, LEARNED = 8, 8000
"""Public images that spectra are fitted on, and that their audits' prior is fitted to."""


def is_fitted(noise: float) -> bool:
    """Whether there are spectra beside plain noise of that std."""
    return all(file(ratio, noise).exists() for ratio in RATIOS.values())


def file(ratio: float, noise: float) -> pathlib.Path:
    """Where the spectrum beside plain noise of that std is kept."""
    return paths.PRIVACY_RESULTS / "spectra" / f"ratio-{ratio:g}-noise-{noise:g}.json"


def fit(ratio: float, noise: float, data: pathlib.Path) -> tip.Spectrum:
    """For the attacked net at its first weights, with the ceiling of plain noise on images set aside for validation."""
    everything = images_of(data)
    public, prior = everything.validation[:AUDITED], ImagePrior.fit(pixels(everything.train[:LEARNED]))
    torch.manual_seed(0)
    model = small_conv_net(*everything.train.images.shape[1:3])
    cross_entropy = torch.nn.functional.cross_entropy
    asked = {"prior": prior, "method": "iterative", "probes": 8}
    plain = audit(model, cross_entropy, pixels(public), public.labels, noise, max_grad_norm=CLIP, **asked)
    return tip.Spectrum.fit(
        model, cross_entropy, pixels(public), public.labels,
        psnr=plain.psnr.mean().item(), ratio=ratio, max_grad_norm=CLIP, **asked,
    )  # fmt: skip


def _defense(ratio: float, noise: float, as_private: bool = False) -> Defense:
    path = file(ratio, noise)
    if not path.exists():
        raise FileNotFoundError(f"expected {path}: make it by\n    python -m bench.privacy shape --data FOLDER")
    fitted = tip.Spectrum.load(path)
    return defenses.shaped(fitted.scaled(noise / fitted.least()) if as_private else fitted, ratio)


MAKERS: dict[str, Maker] = {
    **{name: partial(_defense, ratio) for name, ratio in RATIOS.items()},
    f"TIP 0.3, spectrum{AS_PRIVATE}": partial(_defense, 0.3, as_private=True),
}
"""By name; called with the std of plain noise that they are compared with."""
