"""One attacker against one defence: choosing its smoothing on images of its own, then scoring it on others."""

import copy
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy import attackers, attacks, defenses, metrics, tasks

SMOOTHING = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0)
"""Weights of the total variation among which an attacker chooses."""


class Scene(NamedTuple):
    """What is attacked.

    Args:
        model: the global model.
        tuning: clients' batches, [B, channels, height, width] each, that the attacker may try its smoothing on.
        scored: batches that it is scored on.
        labels: int64 [B], of every batch; the attacker reads them off the release.
        invert: :func:`bench.privacy.attacks.invert` or :func:`bench.privacy.attacks.invert_lbfgs`.
        device: where that runs; all else is on the CPU.
    """

    model: nn.Module
    tuning: Sequence[torch.Tensor]
    scored: Sequence[torch.Tensor]
    labels: torch.Tensor
    invert: Callable[..., attacks.Reconstruction] = attacks.invert
    device: str = "cpu"


class Outcome(NamedTuple):
    """How far an attacker got over all scored images and noise seeds: PSNR in dB, SSIM.

    ``psnr_median`` and ``ssim_median`` are of the starts with the lowest loss, which the attacker can choose;
    ``psnr_best`` is the best of any start and noise seed, which it cannot.
    """

    smoothing: float
    psnr_median: float
    psnr_best: float
    ssim_median: float


def one_image() -> Scene:
    """Single photos, and the small net with random weights."""
    torch.manual_seed(0)
    tuning, *scored = (tasks.photo_crop(name)[None] for name in sorted(tasks.PHOTO_CROPS))
    return Scene(tasks.small_conv_net(channels=3, size=32), [tuning], scored, torch.tensor([3]))


def by_lbfgs(scene: Scene) -> Scene:
    """The same, searched by squared distance and L-BFGS, knowing the clipping norm."""
    return scene._replace(invert=partial(attacks.invert_lbfgs, max_norm=defenses.CLIP))


def one_image_trained() -> Scene:
    """The same with trained weights."""
    return one_image()._replace(model=tasks.trained_conv_net())


def four_images() -> Scene:
    """A batch of four photos of four classes."""
    tuning, scored = ("courtyard", "leaves", "leaf", "bud"), ("flower", "pagoda", "tree", "bush")
    batches = [torch.stack([tasks.photo_crop(name) for name in names]) for names in (tuning, scored)]
    return one_image()._replace(tuning=batches[:1], scored=batches[1:], labels=torch.tensor([0, 3, 5, 8]))


def attack(
    scene: Scene,
    defence: defenses.Defence,
    attacker: attackers.Attacker,
    search: attacks.Search,
    seeds: Sequence[int] = (1,),
) -> Outcome:
    """The attacker with the smoothing that serves it best on the images of its own.

    Args:
        scene: what is attacked.
        defence: the client's.
        attacker: what it knows of that defence.
        search: for each of the attacks.
        seeds: of the noise; tuning has seed 0.
    """
    smoothing = tune(scene, defence, attacker, search)
    tries = score(scene, defence, attacker, scene.scored, seeds, [smoothing], search)
    chosen = [image for one in tries for image in one.chosen]
    return Outcome(
        smoothing,
        statistics.median(image.psnr for image in chosen),
        max(image.psnr for one in tries for images in one.starts for image in images),
        statistics.median(image.ssim for image in chosen),
    )


def tune(scene: Scene, defence: defenses.Defence, attacker: attackers.Attacker, search: attacks.Search) -> float:
    """The smoothing with the highest mean PSNR on the batches for tuning."""
    tries = score(scene, defence, attacker, scene.tuning, [0], SMOOTHING, search._replace(restarts=1))
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
    defence: defenses.Defence,
    attacker: attackers.Attacker,
    batches: Sequence[torch.Tensor],
    seeds: Sequence[int],
    smoothings: Sequence[float],
    search: attacks.Search,
) -> list[Try]:
    """Attacks on every batch, noise seed and smoothing, in that order, all as one call."""
    problems, originals = [], []
    for batch in batches:
        for seed in seeds:
            release = defence(scene.model, batch, scene.labels, seed)
            seen = attacker(release)
            labels = attacks.recover_labels(*seen.gradient[-2:], batch_size=len(batch))
            problem = _moved(attacks.Attack(seen.gradient, labels, seen.weights), scene.device)
            problems += [problem._replace(tv=tv) for tv in smoothings]
            originals += [batch] * len(smoothings)
    model = copy.deepcopy(scene.model).to(scene.device)
    found = scene.invert(model, problems, originals[0].shape[1:], search=search, bases=release.bases)
    return [
        Try(
            problem.tv,
            metrics.compare(images.cpu(), original),
            [metrics.compare(start.cpu(), original) for start in starts],
        )
        for problem, images, starts, original in zip(problems, found.images, found.tries, originals, strict=True)
    ]


def _moved(problem: attacks.Attack, device: str) -> attacks.Attack:
    weights = problem.weights and [None if weight is None else weight.to(device) for weight in problem.weights]
    gradient = [g.to(device) for g in problem.gradient]
    return problem._replace(gradient=gradient, labels=problem.labels.to(device), weights=weights)


def accuracy(defence: defenses.Defence, epochs: int = 20, batch_size: int = 64, lr: float = 0.5) -> float:
    """Test accuracy in percent of a small net trained on digits by what the defence releases of each batch."""
    images, labels, test_images, test_labels = tasks.digits()
    torch.manual_seed(0)
    model = tasks.small_conv_net(channels=1, size=8)
    shuffle = torch.Generator().manual_seed(0)
    step = 0
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
            release = defence(model, images[batch], labels[batch], step)
            step += 1
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), release.gradient, strict=True):
                    parameter -= lr * gradient
    with torch.no_grad():
        return 100 * (model(test_images).argmax(1) == test_labels).float().mean().item()
