"""What noise of each level costs in accuracy, and what epsilon it has: the lines of ``utility.csv``."""

import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import scipy.stats
import torch

import tip_kernels as tip
from bench.privacy.client import defenses
from bench.privacy.client.noise_levels import DELTA, Maker
from bench.privacy.client.release import CLIP
from bench.privacy.nets import small_conv_net
from bench.privacy.study import fedsgd, ledger, shapes
from bench.privacy.study.fedsgd import Images, Plan
from bench.privacy.study.step_size import best_lr

NONE = "none"
MAKERS: dict[str, Maker] = {
    NONE: lambda std: defenses.none,
    "DP": defenses.gaussian,
    "TIP 0.3 with floor": defenses.targeted_with_floor,
    **shapes.MAKERS,
}
"""By name; called with the noise that every coordinate has at least."""


class Condition(NamedTuple):
    """A defense, and its noise in units of the clipping norm."""

    defense: str
    noise: float


class Run(NamedTuple):
    """One training; accuracies in percent of the validation and the test images; seconds are CPU time."""

    defense: str
    noise: float
    rounds: int
    sampled: int
    batch: int
    clients: int
    lr: float
    seed: int
    validation: float
    accuracy: float
    seconds: float


class Summary(NamedTuple):
    """A condition's mean accuracy in percent, the half width of its 95 % interval, and the step size."""

    condition: Condition
    mean: float
    half_width: float
    lr: float
    runs: int


TUNING_SEED = 0
"""Of the trainings that choose a step size and are not scored."""


def conditions(noises: Sequence[float], with_shapes: bool = False) -> list[Condition]:
    """No noise, and every defense with every noise; fitted spectra among them if they are wanted."""
    names = [name for name in MAKERS if name != NONE and (with_shapes or name not in shapes.MAKERS)]
    return [Condition(NONE, 0.0), *[Condition(name, noise) for noise in noises for name in names]]


def measure(condition: Condition, plan: Plan, lr: float, seed: int, images: Images) -> Run:
    """One training. Its figures depend on nothing but the arguments."""
    start = time.process_time()
    defense = MAKERS[condition.defense](condition.noise)
    model = fedsgd.trained(defense, images.train, lr, seed, plan)
    found = [round(fedsgd.accuracy(model, part), 2) for part in (images.validation, images.test)]
    return Run(*condition, *plan, lr, seed, *found, round(time.process_time() - start, 1))


class Runs:
    """All trainings so far, those of earlier calls too."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self.lines = ledger.load(Run, path)

    def get(self, condition: Condition, plan: Plan, lr: float, seed: int, images: Callable[[], Images]) -> Run:
        """From the file, or measured now and put there."""
        asked = (*condition, *plan, lr, seed)
        for line in self.lines:
            if line[: len(asked)] == asked:
                return line
        self.lines.append(measure(condition, plan, lr, seed, images()))
        ledger.save(Run._fields, sorted(self.lines), self._path)
        return self.lines[-1]


def summaries(
    runs: Runs, asked: Sequence[Condition], plan: Plan, seeds: int, images: Callable[[], Images]
) -> Iterator[Summary]:
    """One of each condition: its step size is chosen first, on validation images and by a seed that is not scored."""
    for condition in asked:

        def validated(lr: float, condition: Condition = condition) -> float:
            return runs.get(condition, plan, lr, TUNING_SEED, images).validation

        lr = best_lr(validated)
        found = [runs.get(condition, plan, lr, TUNING_SEED + 1 + number, images).accuracy for number in range(seeds)]
        yield Summary(condition, statistics.mean(found), interval(found), lr, seeds)


def scored(runs: Sequence[Run], plan: Plan) -> list[Summary]:
    """Of the conditions that this plan trained with several seeds, without training any; one seed has no interval."""
    groups: dict[tuple[str, float, float], list[float]] = {}
    for run in runs:
        if Plan(run.rounds, run.sampled, run.batch, run.clients) == plan and run.seed != TUNING_SEED:
            groups.setdefault((run.defense, run.noise, run.lr), []).append(run.accuracy)
    return [
        Summary(Condition(defense, noise), statistics.mean(found), interval(found), lr, len(found))
        for (defense, noise, lr), found in groups.items()
        if len(found) > 1
    ]


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean, by Student's t; infinite for one value."""
    if len(values) < 2:
        return float("inf")
    return scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5


def epsilon(noise: float, messages: int) -> float:
    """Of so many messages of one client at delta 1e-5, against anyone who sees them; infinite without noise.

    That of a TIP whose scores are public, with as much noise on every coordinate: of DP, and of the floor alone.
    """
    if not noise:
        return float("inf")
    torch.manual_seed(0)
    model = small_conv_net(channels=3, size=32)
    with tip.TIP(model, scores="public", max_grad_norm=CLIP, std=noise * CLIP, floor_std=noise * CLIP) as defense:
        return tip.calibration.accounted_epsilon(defense, rounds=messages, delta=DELTA)


def markdown(found: Sequence[Summary], messages: int) -> str:
    """A line for each condition."""
    lines = [
        f"| defense | noise | accuracy | step size | epsilon of one message | of {messages} |",
        "|---|---|---|---|---|---|",
    ]
    for (name, noise), mean, half_width, lr, _ in found:
        least = shapes.least(name, noise)
        spent = [f"{epsilon(least, count):,.4g}" if noise else "none" for count in (1, messages)]
        lines.append(f"| {name} | {noise:g} | {mean:.1f} ± {half_width:.1f} % | {lr:g} | {spent[0]} | {spent[1]} |")
    return "\n".join(lines)
