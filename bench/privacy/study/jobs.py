"""The lines of the study's tables: what there is to measure, and measuring one."""

import math
import pathlib
import time
from typing import NamedTuple

import torch

from bench.privacy.attacker.inversion import Search
from bench.privacy.study import evaluate, ledger, scenes, utility
from bench.privacy.study.cases import BY_LBFGS, EQUAL, PUBLISHED, cases


class Job(NamedTuple):
    """One line of a table, or without an attacker the accuracy under a defense."""

    table: str
    defense: str
    attacker: str | None


class Effort(NamedTuple):
    """How hard the attackers try, how long the net is trained, and where the attacks run."""

    iterations: int
    seeds: int
    restarts: int
    epochs: int
    device: str = "cpu"


class Row(NamedTuple):
    """An attacker against a defense, with the fields of ``evaluate.Outcome``; seconds are CPU time."""

    table: str
    defense: str
    attacker: str
    smoothing: float
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
    attacker = case.attackers()[job.attacker.removesuffix(BY_LBFGS)]
    scene = case.scene()._replace(device=effort.device)
    search = Search(iterations=effort.iterations, restarts=effort.restarts)
    if job.attacker.endswith(BY_LBFGS):  # which moves farther in a step, and whose steps do not run as a batch
        scene, search = scenes.by_lbfgs(scene), search._replace(iterations=math.ceil(effort.iterations / 3))
    outcome = evaluate.outcome(scene, case.defense, attacker, search, range(1, 1 + effort.seeds))
    return Row(job.table, job.defense, job.attacker, *outcome, time.process_time() - start)


def save(lines: list[Row] | list[Cost], path: pathlib.Path) -> None:
    """In the order of the tables."""
    order = {job: index for index, job in enumerate(all_jobs())}
    lines.sort(key=lambda line: order[job_of(line)])
    written = ([f"{value:.4g}" if isinstance(value, float) else value for value in line] for line in lines)
    ledger.save(lines[0]._fields, written, path)
