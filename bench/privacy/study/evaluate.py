"""One attacker against one defense: choosing its smoothing on images of its own, then scoring it on others."""

import copy
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch

from bench.privacy.attacker.inversion import Search
from bench.privacy.attacker.knowledge import Attacker
from bench.privacy.attacker.problem import posed_by
from bench.privacy.client.release import Defense
from bench.privacy.study import metrics
from bench.privacy.study.scenes import Scene

SMOOTHING = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0)
"""Weights of the total variation among which an attacker chooses."""


class Outcome(NamedTuple):
    """How far an attacker got over all scored images and noise seeds: PSNR in dB, SSIM.

    ``psnr_median`` and ``ssim_median`` are of the starts with the lowest loss, which the attacker can choose;
    ``psnr_best`` is the best of any start and noise seed, which it cannot.
    """

    smoothing: float
    psnr_median: float
    psnr_best: float
    ssim_median: float


def outcome(
    scene: Scene,
    defense: Defense,
    attacker: Attacker,
    search: Search,
    seeds: Sequence[int] = (1,),
) -> Outcome:
    """The attacker with the smoothing that serves it best on the images of its own.

    Args:
        scene: what is attacked.
        defense: the client's.
        attacker: what it knows of that defense.
        search: for each of the attacks.
        seeds: of the noise; tuning has seed 0.
    """
    smoothing = best_smoothing(scene, defense, attacker, search)
    tries = score(scene, defense, attacker, scene.scored, seeds, [smoothing], search)
    chosen = [image for one in tries for image in one.chosen]
    return Outcome(
        smoothing,
        statistics.median(image.psnr for image in chosen),
        max(image.psnr for one in tries for images in one.starts for image in images),
        statistics.median(image.ssim for image in chosen),
    )


def best_smoothing(scene: Scene, defense: Defense, attacker: Attacker, search: Search) -> float:
    """The smoothing with the highest mean PSNR on the batches for tuning."""
    tries = score(scene, defense, attacker, scene.tuning, [0], SMOOTHING, search._replace(restarts=1))
    psnr = {smoothing: [] for smoothing in SMOOTHING}
    for one in tries:
        psnr[one.smoothing] += [image.psnr for image in one.chosen]
    return max(SMOOTHING, key=lambda smoothing: statistics.mean(psnr[smoothing]))


class Try(NamedTuple):
    """One attack on one release: the scores of its images, from the start with the lowest loss and from every start."""

    smoothing: float
    chosen: list[metrics.Score]
    starts: list[list[metrics.Score]]


def score(
    scene: Scene,
    defense: Defense,
    attacker: Attacker,
    batches: Sequence[torch.Tensor],
    seeds: Sequence[int],
    smoothings: Sequence[float],
    search: Search,
) -> list[Try]:
    """One attack for every batch, noise seed and smoothing, in that order, all as one call."""
    problems, originals = [], []
    for batch in batches:
        for seed in seeds:
            release = defense(scene.model, batch, scene.labels, seed)
            problem = posed_by(release, attacker, batch_size=len(batch)).to(scene.device)
            problems += [problem._replace(smoothing=smoothing) for smoothing in smoothings]
            originals += [batch] * len(smoothings)
    model = copy.deepcopy(scene.model).to(scene.device)
    found = scene.invert(model, problems, originals[0].shape[1:], search=search, bases=release.bases)
    return [
        Try(
            problem.smoothing,
            metrics.compare(images.cpu(), original),
            [metrics.compare(start.cpu(), original) for start in starts],
        )
        for problem, images, starts, original in zip(problems, found.images, found.tries, originals, strict=True)
    ]
