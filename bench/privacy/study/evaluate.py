"""One attacker against one defense: choosing its setting on images of its own, then scoring it on others."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch

from bench.privacy.attacker.inversion import Search
from bench.privacy.client.release import Defense
from bench.privacy.study import metrics
from bench.privacy.study.attacks import Attack, Setting, effort
from bench.privacy.study.scenes import Scene


class Outcome(NamedTuple):
    """How far an attacker got over all scored images and noise seeds: PSNR in dB, SSIM.

    ``psnr_median`` and ``ssim_median`` are of the starts with the lowest loss, which the attacker can choose;
    ``psnr_best`` is the best of any start and noise seed, which it cannot.
    """

    setting: Setting
    psnr_median: float
    psnr_best: float
    ssim_median: float


def outcome(
    scene: Scene,
    defense: Defense,
    attack: Attack,
    search: Search,
    seeds: Sequence[int] = (1,),
) -> Outcome:
    """The attacker with the setting that serves it best on the images of its own.

    Args:
        scene: what is attacked.
        defense: the client's.
        attack: the attacker.
        search: for each of the attacks; for those whose steps are more work, with fewer.
        seeds: of the noise; tuning has seed 0.
    """
    setting = best_setting(scene, defense, attack, search)
    tries = score(scene, defense, attack, scene.scored, seeds, [setting], search)
    chosen = [image for one in tries for image in one.chosen]
    return Outcome(
        setting,
        statistics.median(image.psnr for image in chosen),
        max(image.psnr for one in tries for images in one.starts for image in images),
        statistics.median(image.ssim for image in chosen),
    )


def best_setting(scene: Scene, defense: Defense, attack: Attack, search: Search) -> Setting:
    """The setting with the highest mean PSNR on the batches for tuning."""
    tries = score(scene, defense, attack, scene.tuning, [0], attack.settings, search._replace(restarts=1))
    psnr = {setting: [] for setting in attack.settings}
    for one in tries:
        psnr[one.setting] += [image.psnr for image in one.chosen]
    return max(attack.settings, key=lambda setting: statistics.mean(psnr[setting]))


class Try(NamedTuple):
    """One attack on one release: the scores of its images, from the start with the lowest loss and from every start."""

    setting: Setting
    chosen: list[metrics.Score]
    starts: list[list[metrics.Score]]


def score(
    scene: Scene,
    defense: Defense,
    attack: Attack,
    batches: Sequence[torch.Tensor],
    seeds: Sequence[int],
    settings: Sequence[Setting],
    search: Search,
) -> list[Try]:
    """One attack for every batch, noise seed and setting, in that order, all as one call."""
    releases = [defense(scene.model, batch, scene.labels, seed) for batch in batches for seed in seeds]
    asked = [(batch, setting) for batch in batches for _ in seeds for setting in settings]
    found = attack.rebuild(scene, releases, settings, effort(attack, search))
    return [
        Try(
            setting,
            metrics.compare(images.cpu(), original),
            [metrics.compare(start.cpu(), original) for start in starts],
        )
        for (original, setting), images, starts in zip(asked, found.images, found.tries, strict=True)
    ]
