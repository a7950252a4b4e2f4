"""Whether attackers get further with more work than the study gives them, under noise on everything."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from bench.privacy.attacker.inversion import Search
from bench.privacy.study import evaluate
from bench.privacy.study.cases import FLOORS, WORLDS, cases
from bench.privacy.study.jobs import Ceilings, Effort, Place, Row
from bench.privacy.study.ledger import Figures

ATTACKERS = ("posterior mean", "flow, plug-and-play")
"""Those that average samples or runs, of which more can be had."""

PATIENT = Search(iterations=1500, restarts=4)
IMAGES = {FLOORS: 20, WORLDS: 8}
"""That are scored at most, by table, of the first ones, with one draw of noise."""

ASKED = (
    "DP 0.02", "DP 0.1", "TIP 0.3, floor 0.1", "DP 0.2", "TIP 0.3, floor 0.2", "DP 0.3", "TIP 0.3, floor 0.3",
)  # fmt: skip
"""Of the net that the study attacks first."""


class Question(NamedTuple):
    """What one attacker gets under one defense, by the setting that it chose in the study."""

    table: str
    defense: str
    attacker: str
    setting: Figures


class Answer(NamedTuple):
    """PSNR in dB by image, with the study's work and with more; seconds are CPU time of the latter."""

    table: str
    defense: str
    attacker: str
    iterations: int
    restarts: int
    before: Figures
    after: Figures
    seconds: float


def questions(rows: Sequence[Row]) -> list[Question]:
    """Of the study's rows those with noise on everything, of nets and messages that differ."""
    worlds = [name for name in cases()[WORLDS] if name.startswith("DP") or "floor" in name]
    asked = {
        *((FLOORS, name) for name in ASKED),
        *((WORLDS, name) for name in worlds if not name.endswith(("64x64", "batch of 16"))),
    }
    return [
        Question(row.table, row.defense, row.attacker, Figures(row.setting))
        for row in rows
        if (row.table, row.defense) in asked and row.attacker in ATTACKERS
    ]


def is_current(found: Answer) -> bool:
    """Whether an answer of an earlier run is of the work that is asked for now."""
    return (found.iterations, found.restarts) == (PATIENT.iterations, PATIENT.restarts)


def answer(question: Question, given: tuple[Effort, Place]) -> Answer:
    """By the study's effort, and by :data:`PATIENT`."""
    torch.set_num_threads(1)
    effort, place = given
    case = cases()[question.table][question.defense]
    scene = case.scene(place.data)._replace(device=place.device)
    attack = case.attacks(place.data)[question.attacker]
    setting = next(one for one in attack.settings if Figures(one) == question.setting)
    batches = scene.scored[: max(1, IMAGES[question.table] // scene.batch_size)]

    def psnr(search: Search) -> Figures:
        scores = evaluate.score(scene, case.defense, attack, batches, [1], [setting], search)
        return Figures([image.psnr for one in scores for image in one])

    before = psnr(Search(iterations=effort.iterations, restarts=effort.restarts))
    start = time.process_time()
    after = psnr(PATIENT)
    return Answer(*question[:3], PATIENT.iterations, PATIENT.restarts, before, after, time.process_time() - start)


def markdown(answers: Sequence[Answer], ceilings: Sequence[Ceilings]) -> str:
    """The table: medians over the images."""
    known = {(one.table, one.defense): one.ceiling for one in ceilings}
    lines = ["| defense | ceiling | attacker | as in the study | with more work |", "|---|---|---|---|---|"]
    for one in answers:
        ceiling = statistics.median(known[one.table, one.defense][: len(one.after)])
        before, after = statistics.median(one.before), statistics.median(one.after)
        lines.append(f"| {one.defense} | {ceiling:.1f} dB | {one.attacker} | {before:.1f} dB | {after:.1f} dB |")
    return "\n".join(lines)
