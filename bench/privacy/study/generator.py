"""The attacker that searches a trained generator, as the study runs it; it knows all of any defense, and so meets each.

The weights are made by ``python -m bench.privacy train-generator``; without them the attack says so.
"""

import itertools
import pathlib
from collections.abc import Sequence
from functools import partial

import torch

from bench.privacy.attacker.feature_search import Plan, invert_by_features
from bench.privacy.attacker.inversion import Reconstruction, Search
from bench.privacy.client.release import Release
from bench.privacy.generator.settings import of_data
from bench.privacy.generator.weights import load
from bench.privacy.study.attacks import Attack, Setting
from bench.privacy.study.scenes import Scene


def by_name(data: pathlib.Path | None = None) -> dict[str, Attack]:
    """The attacker, with the generator of a folder's images or of photos; settings are (step size, radius)."""
    settings = [*itertools.product((0.1, 0.3), (0.01, 0.05, 0.2))]
    return {"generator, features": Attack(settings, partial(rebuild, data))}


def rebuild(
    data: pathlib.Path | None,
    scene: Scene,
    releases: Sequence[Release],
    settings: Sequence[Setting],
    search: Search,
) -> Reconstruction:
    """See :class:`bench.privacy.study.attacks.Attack`."""
    decoder = load(of_data(data)).to(scene.device)
    found = [
        invert_by_features(
            scene.model,
            releases,
            decoder=decoder,
            plan=Plan(radius=radius),
            search=search._replace(lr=lr),
            batch_size=scene.batch_size,
            device=scene.device,
        )
        for lr, radius in settings
    ]
    return Reconstruction(*[torch.stack(parts, 1).flatten(0, 1) for parts in zip(*found, strict=True)])
