"""The lines of the study's tables: what there is to measure, and measuring one."""

import pathlib
import time
from typing import NamedTuple

import torch

from bench.privacy.attacker.inversion import Search
from bench.privacy.study import evaluate, ledger, utility
from bench.privacy.study.cases import EQUAL, PUBLISHED, cases
from bench.privacy.study.ledger import Figures


class Job(NamedTuple):
    """One line of a table, or without an attacker the accuracy under a defense."""

    table: str
    defense: str
    attacker: str | None


class Effort(NamedTuple):
    """How hard all try: what makes two lines comparable.

    Args:
        images: ``"cifar10"``, or ``"photos"`` that come with scikit-learn.
        iterations: steps of one attack; those whose steps are more work have fewer.
        restarts: starts of one attack.
        seeds: of the noise, for each image.
    """

    images: str
    iterations: int
    restarts: int
    seeds: int


class Place(NamedTuple):
    """Where the study runs: the device of the attacks, and the folder with CIFAR-10, or None for photos."""

    device: str
    data: pathlib.Path | None


class Row(NamedTuple):
    """An attacker against a defense, with the fields of :class:`Effort` and ``evaluate.Outcome``.

    ``batches`` were scored; ``psnr`` and ``ssim`` go by batch, seed and image; ``seconds`` are CPU time.
    """

    table: str
    defense: str
    attacker: str
    images: str
    iterations: int
    restarts: int
    seeds: int
    setting: str
    tuned: float
    batches: int
    psnr: Figures
    ssim: Figures
    seconds: float

    def effort(self) -> Effort:
        """How hard it tried."""
        return Effort(self.images, self.iterations, self.restarts, self.seeds)


class Cost(NamedTuple):
    """What a defense leaves of the accuracy, in percent; seconds are CPU time."""

    table: str
    defense: str
    accuracy: float
    seconds: float


def attacks() -> list[Job]:
    """All of them, in the order of the tables."""
    return [
        Job(table, defense, attacker)
        for table, rows in cases().items()
        for defense, case in rows.items()
        for attacker in case.names()
    ]


def trainings() -> list[Job]:
    """All accuracies, in the order of the tables."""
    return [Job(table, defense, None) for table in (EQUAL, PUBLISHED) for defense in cases()[table]]


def job_of(line: Row | Cost) -> Job:
    """What was measured."""
    return Job(line.table, line.defense, getattr(line, "attacker", None))


def measure(job: Job, given: tuple[Effort, Place]) -> Row | Cost:
    """One line. Its figures depend on nothing but the arguments, as every job makes its defense anew."""
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores either
    start, (effort, place) = time.process_time(), given
    case = cases()[job.table][job.defense]
    if job.attacker is None:
        percent = utility.accuracy(case.defense)
        return Cost(job.table, job.defense, percent, time.process_time() - start)
    attack = case.attacks(place.data)[job.attacker]
    scene = case.scene(place.data)._replace(device=place.device)
    search = Search(iterations=effort.iterations, restarts=effort.restarts)
    setting, tuned, psnr, ssim = evaluate.outcome(scene, case.defense, attack, search, range(1, 1 + effort.seeds))
    (tuned,) = Figures([tuned])  # as the file keeps it, so that a resumed study chooses alike
    found = str(Figures(setting)), tuned, len(scene.scored), Figures(psnr), Figures(ssim)
    return Row(job.table, job.defense, job.attacker, *effort, *found, time.process_time() - start)


def save(lines: list[Row] | list[Cost], path: pathlib.Path) -> None:
    """In the order of the tables."""
    order = {job: index for index, job in enumerate([*attacks(), *trainings()])}
    lines.sort(key=lambda line: order.get(job_of(line), len(order)))
    written = ([f"{value:.4g}" if isinstance(value, float) else value for value in line] for line in lines)
    ledger.save(lines[0]._fields, written, path)
