"""The lines of the study's tables: what there is to measure, and measuring one."""

import pathlib
import time
from typing import NamedTuple

import torch

from bench.privacy.attacker.inversion import Search
from bench.privacy.study import evaluate, ledger, utility
from bench.privacy.study.attacks import gaussian
from bench.privacy.study.cases import EQUAL, PUBLISHED, Case, cases
from bench.privacy.study.ceiling import limits_of
from bench.privacy.study.ledger import Figures

CEILING = "ceiling"
"""In place of an attacker: what any could get at most where the message is linear in the images."""
AUDITED = {"cifar10": 12, "photos": 2}
"""Images at most, whose ceilings are computed, and one message at least; few of the photos: their study is short."""


class Job(NamedTuple):
    """One line of a table; without an attacker the accuracy under a defense, with :data:`CEILING` its ceilings."""

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


class Ceilings(NamedTuple):
    """What ``ceiling.limits`` says of the first images under a defense, in dB, by batch and image.

    ``images`` are those of :class:`Effort`; seconds are CPU time.
    """

    table: str
    defense: str
    images: str
    ceiling: Figures
    guess: Figures
    seconds: float


Line = Row | Cost | Ceilings


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


def ceilings() -> list[Job]:
    """All of them: where images have 32x32 pixels and a message has few of them, so that a matrix will do."""
    return [
        Job(table, defense, CEILING)
        for table, rows in cases().items()
        for defense in rows
        if not defense.endswith(("64x64", "batch of 16"))
    ]


def job_of(line: Line) -> Job:
    """What was measured."""
    if isinstance(line, Ceilings):
        return Job(line.table, line.defense, CEILING)
    return Job(line.table, line.defense, line.attacker if isinstance(line, Row) else None)


def measure(job: Job, given: tuple[Effort, Place]) -> Line:
    """One line. Its figures depend on nothing but the arguments, as every job makes its defense anew."""
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores either
    start, (effort, place) = time.process_time(), given
    case = cases()[job.table][job.defense]
    if job.attacker is None:
        percent = utility.accuracy(case.defense)
        return Cost(job.table, job.defense, percent, time.process_time() - start)
    if job.attacker == CEILING:
        found = limited(case, place.data, AUDITED[effort.images])
        return Ceilings(job.table, job.defense, effort.images, *found, time.process_time() - start)
    attack = case.attacks(place.data)[job.attacker]
    scene = case.scene(place.data)._replace(device=place.device)
    search = Search(iterations=effort.iterations, restarts=effort.restarts)
    setting, tuned, psnr, ssim = evaluate.outcome(scene, case.defense, attack, search, range(1, 1 + effort.seeds))
    (tuned,) = Figures([tuned])  # as the file keeps it, so that a resumed study chooses alike
    found = str(Figures(setting)), tuned, len(scene.scored), Figures(psnr), Figures(ssim)
    return Row(job.table, job.defense, job.attacker, *effort, *found, time.process_time() - start)


def limited(case: Case, data: pathlib.Path | None, audited: int) -> tuple[Figures, Figures]:
    """Ceilings and guesses of the first images that are scored, as many as ``audited`` at most or of one message."""
    scene = case.scene(data)
    batches = scene.scored[: max(1, audited // scene.batch_size)]
    found = limits_of(scene, case.defense, gaussian(data, scene, ()), batches)
    return Figures(found.ceiling.tolist()), Figures(found.guess.tolist())


def save(lines: list[Line], path: pathlib.Path) -> None:
    """In the order of the tables."""
    order = {job: index for index, job in enumerate([*attacks(), *trainings(), *ceilings()])}
    lines.sort(key=lambda line: order.get(job_of(line), len(order)))
    written = ([f"{value:.4g}" if isinstance(value, float) else value for value in line] for line in lines)
    ledger.save(lines[0]._fields, written, path)
