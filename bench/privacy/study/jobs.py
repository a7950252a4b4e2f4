"""The lines of the study's tables: what there is to measure, and measuring one."""

import pathlib
import time
from typing import NamedTuple

import torch

from bench.privacy.attacker.inversion import Search
from bench.privacy.study import evaluate, ledger, utility
from bench.privacy.study.cases import EQUAL, PUBLISHED, cases


class Job(NamedTuple):
    """One line of a table, or without an attacker the accuracy under a defense."""

    table: str
    defense: str
    attacker: str | None


class Effort(NamedTuple):
    """How hard the attackers try, how long the net is trained, where the attacks run, and what public images there are.

    ``data`` is a folder with CIFAR-10's, or None for those that come with scikit-learn.
    """

    iterations: int
    seeds: int
    restarts: int
    epochs: int
    device: str = "cpu"
    data: pathlib.Path | None = None


class Row(NamedTuple):
    """An attacker against a defense, with the fields of ``evaluate.Outcome``; seconds are CPU time."""

    table: str
    defense: str
    attacker: str
    setting: str
    psnr_median: float
    psnr_best: float
    ssim_median: float
    seconds: float


class Cost(NamedTuple):
    """What a defense leaves of the accuracy, in percent; seconds are CPU time."""

    table: str
    defense: str
    accuracy: float
    seconds: float


def all_jobs() -> list[Job]:
    """Everything there is to measure, in the order of the tables."""
    attacked = [
        Job(table, defense, attacker)
        for table, rows in cases().items()
        for defense, case in rows.items()
        for attacker in case.names()
    ]
    trained = [Job(table, defense, None) for table in (EQUAL, PUBLISHED) for defense in cases()[table]]
    return attacked + trained


def job_of(line: Row | Cost) -> Job:
    """What was measured."""
    return Job(line.table, line.defense, getattr(line, "attacker", None))


def measure(job: Job, effort: Effort) -> Row | Cost:
    """One line. Its figures depend on nothing but the arguments, as every job makes its defense anew."""
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores either
    start = time.process_time()
    case = cases()[job.table][job.defense]
    if job.attacker is None:
        percent = utility.accuracy(case.defense, effort.epochs)
        return Cost(job.table, job.defense, percent, time.process_time() - start)
    attack = case.attacks(effort.data)[job.attacker]
    scene = case.scene()._replace(device=effort.device)
    search = Search(iterations=effort.iterations, restarts=effort.restarts)
    setting, *scores = evaluate.outcome(scene, case.defense, attack, search, range(1, 1 + effort.seeds))
    text = " ".join(f"{number:g}" for number in setting)
    return Row(job.table, job.defense, job.attacker, text, *scores, time.process_time() - start)


def save(lines: list[Row] | list[Cost], path: pathlib.Path) -> None:
    """In the order of the tables."""
    order = {job: index for index, job in enumerate(all_jobs())}
    lines.sort(key=lambda line: order[job_of(line)])
    written = ([f"{value:.4g}" if isinstance(value, float) else value for value in line] for line in lines)
    ledger.save(lines[0]._fields, written, path)
