"""Which attacker gets how far against which defence, and what the defence costs in accuracy (make study).

Regenerates every table and figure of docs/privacy.md, and the README's table. What is in bench/results/privacy.csv and
accuracy.csv already is not run again; delete those files to start anew.
"""

import argparse
import math
import os
import pathlib
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from tqdm import tqdm

from bench.privacy import attackers, attacks, defenses, evaluate, ledger, report
from bench.privacy.report import EQUAL, HARDER, PUBLISHED, Cost, Row

RMS = 0.02
"""Of the noise over all coordinates, where defences are compared at equal energy; in units of the clipping norm."""

# The attackers that know of a smoothing, of pruning, of noise by channels, and of noise by channels and frequencies.
UNSMOOTHED: dict[str, attackers.Attacker] = {"undoes the smoothing": attackers.unsmoothed}
KEPT: dict[str, attackers.Attacker] = {"kept only": attackers.spectral}
CHANNELS: dict[str, attackers.Attacker] = {"oracle mask": attackers.oracle_mask, "whitened": attackers.whitened}
BANDS: dict[str, attackers.Attacker] = {**CHANNELS, "spectral": attackers.spectral}


BY_LBFGS = " by L-BFGS"
"""Behind an attacker's name: searches by squared distance and L-BFGS. The others search by cosine and signed Adam."""


class Case(NamedTuple):
    """A defence and who attacks it.

    Args:
        defence: the client's.
        informed: the attackers that know something of it besides the naive one.
        lbfgs: names of those that search by L-BFGS too.
        scene: what is attacked.
    """

    defence: defenses.Defence
    informed: dict[str, attackers.Attacker]
    lbfgs: tuple[str, ...]
    scene: Callable[[], evaluate.Scene] = evaluate.one_image

    def names(self) -> list[str]:
        """Of all attackers."""
        return ["naive", *self.informed, *(name + BY_LBFGS for name in self.lbfgs)]


class Job(NamedTuple):
    """One line of a table, or without an attacker the accuracy under a defence."""

    table: str
    defence: str
    attacker: str | None


class Effort(NamedTuple):
    """How hard the attackers try, how long the net is trained, and where the attacks run."""

    iterations: int
    seeds: int
    restarts: int
    epochs: int
    device: str = "cpu"


def cases() -> dict[str, dict[str, Case]]:
    """All defences, by table and name."""
    return {EQUAL: _at_equal_energy(), PUBLISHED: _as_published(), HARDER: _harder()}


def _at_equal_energy() -> dict[str, Case]:
    at_energy = partial(defenses.at_energy, rms=RMS)
    table = {
        "none": Case(defenses.none, {}, ("naive",)),
        "pruning 90 %, smallest": Case(defenses.pruning(0.9, True), KEPT, ("kept only",)),
        "pruning 90 %, random": Case(defenses.pruning(0.9, False), KEPT, ("kept only",)),
        "DP": Case(at_energy(defenses.gaussian), {}, ("naive",)),
        "DP, adaptive clipping": Case(defenses.AdaptiveGaussian(RMS), {}, ()),
        "DP, Laplacian smoothing": Case(at_energy(defenses.smoothed_gaussian), UNSMOOTHED, ("undoes the smoothing",)),
        "APG": Case(at_energy(defenses.grad_cam_noise), CHANNELS, ("whitened",)),
    }
    for ratio in (0.1, 0.3, 0.6, 1.0):
        table[f"TIP {ratio}"] = Case(at_energy(partial(defenses.targeted, ratio)), _knows_tip(ratio), ("spectral",))
    table["TIP 1.0, keep 0"] = Case(at_energy(partial(defenses.targeted, 1.0, keep=0.0)), BANDS, ("spectral",))
    table["TIP 0.3 with floor"] = Case(at_energy(_with_floor), BANDS, ("whitened",))
    return table


def _as_published() -> dict[str, Case]:
    table = {
        "DP": Case(defenses.as_published(defenses.gaussian), {}, ("naive",)),
        "APG": Case(defenses.as_published(defenses.grad_cam_noise), CHANNELS, ("whitened",)),
    }
    for ratio in (0.1, 0.3, 0.6):
        make = partial(defenses.published_targeted, ratio)
        known = {
            name: _knows_tip(ratio)[name] for name in ("inferred mask", "spectral")
        }  # two will do: this table is for the noise
        table[f"TIP {ratio}"] = Case(defenses.as_published(make), known, ("spectral",))
    return table


def _harder() -> dict[str, Case]:
    equal = _at_equal_energy()
    informed = {
        "none": {},
        "DP": {},
        "TIP 0.3": {"spectral": attackers.spectral},
        "TIP 0.3 with floor": {"whitened": attackers.whitened},
    }
    table = {}
    for title, scene in (("trained weights", evaluate.one_image_trained), ("batch of 4", evaluate.four_images)):
        for name, known in informed.items():
            strongest = tuple(known) or ("naive",)
            table[f"{name}, {title}"] = Case(equal[name].defence, known, strongest, scene)
    table["none, 4 local steps"] = Case(defenses.local_steps(4, lr=0.01), {}, ("naive",))
    return table


def _knows_tip(ratio: float) -> dict[str, attackers.Attacker]:
    return {**BANDS, "inferred mask": partial(attackers.inferred_mask, ratio=ratio)}


def _with_floor(std: float) -> defenses.Defence:
    return defenses.targeted(0.3, std, floor_std=0.5 * std)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--iterations", type=int, default=160, help="steps of one attack, a third of them by L-BFGS")
    parser.add_argument("--seeds", type=int, default=2, help="noise seeds a photo")
    parser.add_argument("--restarts", type=int, default=2, help="random starts of an attack")
    parser.add_argument("--epochs", type=int, default=20, help="of training for the accuracy")
    parser.add_argument("--device", default="cpu", help="of the attacks: cpu or cuda")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument("--results", type=pathlib.Path, default=report.RESULTS, help="folder for figures and data")
    parser.add_argument("--page", type=pathlib.Path, default=report.PAGE, help="Markdown file with marks for tables")
    parser.add_argument("--readme", type=pathlib.Path, default=report.README, help="the same, for the shortest table")


def run(options: argparse.Namespace) -> None:
    files = {Row: options.results / "privacy.csv", Cost: options.results / "accuracy.csv"}
    lines = {kind: ledger.load(kind, path) for kind, path in files.items()}
    done = {Job(line.table, line.defence, getattr(line, "attacker", None)) for kind in files for line in lines[kind]}
    todo = [job for job in jobs() if job not in done]
    effort = Effort(options.iterations, options.seeds, options.restarts, options.epochs, options.device)
    with tqdm(total=len(todo), desc="study", unit="line") as bar:
        for line in ledger.work(measure, todo, effort, options.workers):
            lines[type(line)].append(line)
            save(lines[type(line)], files[type(line)])
            bar.update()
    report.write(lines[Row], lines[Cost], options.results, options.page, options.readme)


def jobs() -> list[Job]:
    """Everything there is to measure, in the order of the tables."""
    attacked = [
        Job(table, defence, attacker)
        for table, rows in cases().items()
        for defence, case in rows.items()
        for attacker in case.names()
    ]
    trained = [Job(table, defence, None) for table in (EQUAL, PUBLISHED) for defence in cases()[table]]
    return attacked + trained


def measure(job: Job, effort: Effort) -> Row | Cost:
    """One line. Its figures depend on nothing but the arguments, as every job makes its defence anew."""
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores either
    start = time.process_time()
    case = cases()[job.table][job.defence]
    if job.attacker is None:
        percent = evaluate.accuracy(case.defence, effort.epochs)
        return Cost(job.table, job.defence, percent, time.process_time() - start)
    attacker = ({"naive": attackers.naive} | case.informed)[job.attacker.removesuffix(BY_LBFGS)]
    scene = case.scene()._replace(device=effort.device)
    search = attacks.Search(iterations=effort.iterations, restarts=effort.restarts)
    if job.attacker.endswith(BY_LBFGS):  # which moves farther in a step, and whose steps do not run as a batch
        scene, search = evaluate.by_lbfgs(scene), search._replace(iterations=math.ceil(effort.iterations / 3))
    outcome = evaluate.attack(scene, case.defence, attacker, search, range(1, 1 + effort.seeds))
    return Row(job.table, job.defence, job.attacker, *outcome, time.process_time() - start)


def save(lines: list[Row] | list[Cost], path: pathlib.Path) -> None:
    """In the order of the tables."""
    order = {job: place for place, job in enumerate(jobs())}
    lines.sort(key=lambda line: order[Job(line.table, line.defence, getattr(line, "attacker", None))])
    written = ([f"{value:.4g}" if isinstance(value, float) else value for value in line] for line in lines)
    ledger.save(lines[0]._fields, written, path)
