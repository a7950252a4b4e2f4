"""Attackers whose prior is the trained flow, as the study runs them; they know all of any defense, and so meet each.

The weights are made by ``python -m bench.privacy train-prior``; without them an attack says so.
"""

import pathlib
from collections.abc import Sequence
from functools import partial

import torch

from bench.privacy.attacker.inversion import Reconstruction, Search
from bench.privacy.attacker.plug_and_play import Plan, invert_by_flow
from bench.privacy.client.release import Release
from bench.privacy.prior import settings as prior_settings
from bench.privacy.prior.denoiser import Denoiser
from bench.privacy.prior.weights import load
from bench.privacy.study.attacks import Attack, Setting
from bench.privacy.study.scenes import Scene

LEVELS = 15
"""Of the noise, at most; work that is left goes into more runs, whose mean is better by more."""
WORK = 2 * Plan().solver + 6
"""Of a level in steps of Adam: products with the Jacobian and its transpose, and the residuals of some points."""


def by_name(data: pathlib.Path | None = None, by_class: bool = False) -> dict[str, Attack]:
    """The attackers, with the prior of a folder's images or of photos; their setting is what ``Plan`` calls trust.

    ``by_class``: whether the labels of the scene are the classes of that prior's images.
    """
    flow = partial(rebuild, data, by_class)
    return {
        "flow, plug-and-play": Attack([(t,) for t in (0.7, 0.85, 1.0, 1.15, 1.3, 1.6)], partial(flow, 0.0)),
        "flow, posterior samples": Attack([(t,) for t in (0.7, 0.85, 1.0, 1.15, 1.3, 1.6)], partial(flow, 1.0)),
    }


def rebuild(
    data: pathlib.Path | None,
    by_class: bool,
    heat: float,
    scene: Scene,
    releases: Sequence[Release],
    settings: Sequence[Setting],
    search: Search,
) -> Reconstruction:
    """See :class:`bench.privacy.study.attacks.Attack`."""
    chosen = prior_settings.of_data(data)
    net = load(chosen)
    count, runs = divided(search)
    found = [
        invert_by_flow(
            scene.model,
            releases,
            denoiser=Denoiser.trained(chosen),
            spread=net.gaussian,
            plan=Plan(count=count, trust=trust, heat=heat, by_class=by_class, seed=search.seed),
            runs=runs,
            batch_size=scene.batch_size,
        )
        for (trust,) in settings
    ]
    return Reconstruction(*[torch.stack(parts, 1).flatten(0, 1) for parts in zip(*found, strict=True)])


def divided(search: Search) -> tuple[int, int]:
    """Levels and runs that make the work of the search's steps and starts."""
    steps = search.iterations * search.restarts
    count = min(LEVELS, max(search.iterations // WORK, 3))
    return count, max(steps // (count * WORK), 1)
