"""The attackers as the study runs them: what each may try on images of its own, and how it attacks."""

import copy
import itertools
import math
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from bench.privacy.attacker import inversion, public_images
from bench.privacy.attacker.climbing import ADAM
from bench.privacy.attacker.gauss_newton import GAUSS_NEWTON
from bench.privacy.attacker.inversion import Reconstruction, Search
from bench.privacy.attacker.knowledge import Attacker
from bench.privacy.attacker.posterior import Method, invert_posterior
from bench.privacy.attacker.priors import Gaussian, Prior, TotalVariation
from bench.privacy.attacker.problem import posed_by
from bench.privacy.attacker.sampling import HAMILTONIAN
from bench.privacy.client.defenses import CLIP
from bench.privacy.client.release import Release
from bench.privacy.study.scenes import Scene

SMOOTHING = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0)
"""Weights of the total variation among which an attacker by matching chooses."""

Setting = tuple[float, ...]
"""What an attacker chooses on images of its own."""


class Attack(NamedTuple):
    """An attacker.

    Args:
        settings: among which it chooses.
        rebuild: from the releases of one defense, for every release and setting, in that order.
        work: of one of its steps, in steps of signed Adam; the more, the fewer it has.
    """

    settings: Sequence[Setting]
    rebuild: Callable[[Scene, Sequence[Release], Sequence[Setting], Search], Reconstruction]
    work: int = 1


def by_cosine(knowledge: Attacker) -> Attack:
    """Cosine similarity, total variation and signed Adam; settings are its smoothings."""
    return Attack([(s,) for s in SMOOTHING], partial(_match, knowledge, inversion.invert))


def by_lbfgs(knowledge: Attacker) -> Attack:
    """Squared distance, total variation and L-BFGS, knowing the clipping norm.

    A step is one evaluation, about, but of one image alone, which costs several times as much as one of a batch.
    """
    invert = partial(inversion.invert_lbfgs, max_norm=CLIP)
    return Attack([(s,) for s in SMOOTHING], partial(_match, knowledge, invert), work=3)


def _match(
    knowledge: Attacker,
    invert: Callable[..., Reconstruction],
    scene: Scene,
    releases: Sequence[Release],
    settings: Sequence[Setting],
    search: Search,
) -> Reconstruction:
    problems = [
        posed_by(release, knowledge, smoothing, scene.batch_size).to(scene.device)
        for release in releases
        for (smoothing,) in settings
    ]
    return invert(_model(scene), problems, scene.image_shape, search=search, bases=releases[0].bases)


MakePrior = Callable[[Scene, Setting], Prior]
"""Of images like the scene's, on its device. Of a setting it takes what comes after step size and annealing."""


def by_posterior(make: MakePrior, method: Method, settings: Sequence[Setting]) -> Attack:
    """The message's likelihood and a prior of images; settings are (step size, annealing, what the prior takes).

    A new prior is a function here and a line in :func:`by_name`.
    """

    def rebuild(
        scene: Scene, releases: Sequence[Release], settings: Sequence[Setting], search: Search
    ) -> Reconstruction:
        found = [
            invert_posterior(
                _model(scene),
                releases,
                prior=make(scene, setting),
                method=method,
                hot=setting[1],
                search=search._replace(lr=setting[0]),
                batch_size=scene.batch_size,
                device=scene.device,
            )
            for setting in settings
        ]
        return Reconstruction(*[torch.stack(parts, 1).flatten(0, 1) for parts in zip(*found, strict=True)])

    return Attack(settings, rebuild)


def gaussian(data: pathlib.Path | None, scene: Scene, setting: Setting) -> Prior:
    """That of public images: CIFAR-10's of a folder, or photos."""
    fitted = public_images.gaussian(data)
    return Gaussian(fitted.average, fitted.factor, fitted.image_shape).to(scene.device)


def contrasts(data: pathlib.Path | None, scene: Scene, setting: Setting) -> Prior:
    """The same with contrasts."""
    return public_images.gaussian(data).to(scene.device)


def by_frequency(scene: Scene, setting: Setting) -> Prior:
    """A Gaussian of cosine coefficients of photos of the scene's size."""
    return public_images.spectral(scene.image_shape[-1]).to(scene.device)


def total_variation(scene: Scene, setting: Setting) -> Prior:
    """Of the weight that is the setting's third number."""
    return TotalVariation(setting[2], scene.image_shape, device=scene.device)


def by_name(data: pathlib.Path | None = None) -> dict[str, Attack]:
    """The attackers that know all of any defense, and so meet every one; all have as many settings."""
    grid = itertools.product
    return {
        "MAP, Gaussian": by_posterior(partial(gaussian, data), ADAM, [*grid((0.03, 0.1, 0.3), (3.0, 30.0))]),
        "MAP, Gaussian, by Gauss-Newton": by_posterior(
            partial(gaussian, data), GAUSS_NEWTON, [*grid((0.1, 10.0), (0.0, 3.0, 30.0))]
        ),
        "MAP, TV": by_posterior(total_variation, ADAM, [*grid((0.01, 0.05), (10.0,), (3.0, 10.0, 30.0))]),
        "posterior mean": by_posterior(partial(contrasts, data), HAMILTONIAN, [*grid((0.07, 0.1, 0.14), (3.0, 30.0))]),
    }


def of_any_size() -> dict[str, Attack]:
    """The attacker whose prior photos teach whatever the size of images, where a covariance would be too large."""
    settings = [*itertools.product((0.03, 0.1, 0.3), (3.0, 30.0))]
    return {"MAP, Gaussian by frequency": by_posterior(by_frequency, ADAM, settings)}


def effort(attack: Attack, search: Search) -> Search:
    """As many steps as make the same work."""
    return search._replace(iterations=math.ceil(search.iterations / attack.work))


def _model(scene: Scene) -> torch.nn.Module:
    return copy.deepcopy(scene.model).to(scene.device)
