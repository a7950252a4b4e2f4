"""Settings of TIP: each meets attackers that know it, and trains a net; what no other setting beats in both."""

import itertools
import pathlib
import statistics
import time
from typing import NamedTuple

import torch

from bench.privacy import figures
from bench.privacy.attacker import knowledge
from bench.privacy.attacker.inversion import Search
from bench.privacy.client import defenses
from bench.privacy.study import attacks, evaluate, ledger, scenes, utility
from bench.privacy.study.attacks import Attack

MATCHING = {
    "naive": knowledge.naive,
    "oracle mask": knowledge.oracle_mask,
    "spectral": knowledge.spectral,
    "whitened": knowledge.whitened,
}
"""What attackers by cosine similarity know."""

WITH_PRIORS = ("MAP, Gaussian", "posterior mean")
"""Those with a prior of photos that needs no training: the strongest on exact and on noised coefficients."""


class Setting(NamedTuple):
    """Of TIP, in units of the clipping norm; ratio 0 has noise of ``floor_std`` only."""

    ratio: float
    cutoff: float
    std: float
    floor_std: float


class Effort(NamedTuple):
    """How hard the attackers try, and how long the net learns."""

    iterations: int
    epochs: int


class Row(NamedTuple):
    """A setting, its strongest attacker with its median PSNR in dB, accuracy in percent, and seconds of CPU time."""

    ratio: float
    cutoff: float
    std: float
    floor_std: float
    iterations: int
    epochs: int
    attacker: str
    psnr: float
    accuracy: float
    seconds: float


def grid(ratios: list[float], cutoffs: list[float], stds: list[float], floors: list[float]) -> list[Setting]:
    """Every combination that differs: without selected channels there is neither a cutoff nor a std."""
    every = itertools.product(ratios, cutoffs, stds, floors)
    return list(dict.fromkeys(Setting(r, c, s, f) if r else Setting(0.0, 0.0, 0.0, f) for r, c, s, f in every))


def measure(setting: Setting, effort: Effort) -> Row:
    """One row."""
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores
    start = time.process_time()
    defense = defenses.targeted(setting.ratio, setting.std, setting.floor_std, setting.cutoff)
    if not setting.ratio:
        defense = defenses.gaussian(setting.floor_std)
    search = Search(iterations=effort.iterations)
    found = {
        name: evaluate.outcome(scenes.one_image(), defense, attack, search) for name, attack in attackers().items()
    }
    strongest = max(found, key=lambda name: found[name].tuned)
    accuracy = utility.accuracy(defense, effort.epochs)
    psnr = statistics.median(found[strongest].psnr)
    return Row(*setting, *effort, strongest, psnr, accuracy, time.process_time() - start)


def attackers() -> dict[str, Attack]:
    """Those that a setting meets, by name."""
    priors = attacks.by_name()
    by_cosine = {name: attacks.by_cosine(known) for name, known in MATCHING.items()}
    return {**by_cosine, **{name: priors[name] for name in WITH_PRIORS}}


def front(rows: list[Row]) -> list[Row]:
    """The rows that no other beats in PSNR and accuracy, from the most private on."""

    def beats(other: Row, row: Row) -> bool:
        no_worse = other.psnr <= row.psnr and other.accuracy >= row.accuracy
        return no_worse and (other.psnr, other.accuracy) != (row.psnr, row.accuracy)

    return sorted((row for row in rows if not any(beats(other, row) for other in rows)), key=lambda row: row.psnr)


def advice(rows: list[Row], target: float) -> str:
    """The setting with the best accuracy of those that hold the target, in a sentence."""
    held = [row for row in rows if row.psnr <= target]
    if not held:
        closest = min(rows, key=lambda row: row.psnr)
        return f"No setting holds {target:g} dB. The closest: {_text(closest)}, {closest.psnr:.1f} dB."
    best = max(held, key=lambda row: (row.accuracy, -row.psnr))
    return f"For {target:g} dB: {_text(best)}, with {best.accuracy:.1f} % accuracy at {best.psnr:.1f} dB."


def markdown(rows: list[Row]) -> str:
    lines = ["| setting | strongest attacker | | accuracy |", "|---|---|---|---|"]
    lines += [f"| {_text(row)} | {row.psnr:.1f} dB | {row.attacker} | {row.accuracy:.1f} % |" for row in rows]
    return "\n".join(lines)


def draw(rows: list[Row], target: float, path: pathlib.Path) -> None:
    """Accuracy over PSNR, with the front and the target."""
    figure, axis = figures.chart(
        (7, 4.2), "PSNR of the strongest attacker in dB (less is more private)", "accuracy on digits in %"
    )
    for ratio in sorted({row.ratio for row in rows}):
        points = [(row.psnr, row.accuracy) for row in rows if row.ratio == ratio]
        axis.plot(*zip(*points, strict=True), "o", label=f"TIP {ratio:g}" if ratio else "noise on everything")
    best = front(rows)
    axis.plot([row.psnr for row in best], [row.accuracy for row in best], "k-", linewidth=0.8, label="best")
    axis.axvline(target, color="gray", linestyle=":", label="target")
    axis.legend()
    figures.save(figure, path, "python -m bench.privacy tune")


def save(rows: list[Row], path: pathlib.Path) -> None:
    """In the order of the settings."""
    ledger.save(Row._fields, ([round(x, 4) if isinstance(x, float) else x for x in row] for row in sorted(rows)), path)


def key(row: Row) -> tuple[Setting, Effort]:
    """What was measured, and how hard."""
    return Setting(*row[:4]), Effort(*row[4:6])


def _text(row: Row) -> str:
    if not row.ratio:
        return f"noise of {row.floor_std:g} on everything"
    return f"TIP ratio {row.ratio:g}, cutoff {row.cutoff:g}, std {row.std:g}, floor {row.floor_std:g}"
