"""One attacker against one defense: choosing its setting on images of its own, then scoring it on others."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.privacy.attacker.inversion import Search
from bench.privacy.client.release import Defense, Release
from bench.privacy.study import metrics
from bench.privacy.study.attacks import Attack, Setting, effort
from bench.privacy.study.scenes import Batch, Scene


class Outcome(NamedTuple):
    """How far an attacker got.

    Args:
        setting: that it chose.
        tuned: median PSNR in dB with this setting on the images that it was chosen on: for comparing attackers.
        psnr: in dB, of every scored image under every noise seed, from the start with the lowest loss.
        ssim: likewise.
    """

    setting: Setting
    tuned: float
    psnr: list[float]
    ssim: list[float]


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
    setting, tuned = best_setting(scene, defense, attack, search)
    scores = [image for one in score(scene, defense, attack, scene.scored, seeds, [setting], search) for image in one]
    return Outcome(setting, tuned, [image.psnr for image in scores], [image.ssim for image in scores])


def best_setting(scene: Scene, defense: Defense, attack: Attack, search: Search) -> tuple[Setting, float]:
    """The setting with the highest mean PSNR on the batches for tuning, and the median of its PSNR there."""
    tries = score(scene, defense, attack, scene.tuning, [0], attack.settings, search)
    found = {
        setting: [image.psnr for one in tries[number :: len(attack.settings)] for image in one]
        for number, setting in enumerate(attack.settings)
    }
    best = max(found, key=lambda setting: statistics.mean(found[setting]))
    return best, statistics.median(found[best])


def score(
    scene: Scene,
    defense: Defense,
    attack: Attack,
    batches: Sequence[Batch],
    seeds: Sequence[int],
    settings: Sequence[Setting],
    search: Search,
) -> list[list[metrics.Score]]:
    """One attack for every batch, noise seed and setting, in that order, all as one call: scores of its images."""
    releases = [released(scene, defense, batch, seed) for batch in batches for seed in seeds]
    originals = [batch.images for batch in batches for _ in range(len(seeds) * len(settings))]
    found = attack.rebuild(scene, releases, settings, effort(attack, search)).images.cpu()
    return [metrics.compare(images, original) for images, original in zip(found, originals, strict=True)]


def released(scene: Scene, defense: Defense, batch: Batch, seed: int) -> Release:
    """What a client sends, together with the labels.

    An attacker can often read them off the gradient (``attacker/labels.py``); how well shall not decide about the
    pictures.
    """
    return defense(scene.model, *batch, seed)._replace(labels=batch.labels)
