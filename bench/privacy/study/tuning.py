"""Settings of TIP: each is audited and trains a net; what no other beats in both then meets attackers that know it."""

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
from bench.privacy.client.release import Defense
from bench.privacy.study import attacks, evaluate, ledger, scenes, utility
from bench.privacy.study.attacks import Attack
from bench.privacy.study.ceiling import limits_of

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


class Row(NamedTuple):
    """A setting, the median ceiling of its audit in dB, accuracy in percent, and seconds of CPU time."""

    ratio: float
    cutoff: float
    std: float
    floor_std: float
    epochs: int
    ceiling: float
    accuracy: float
    seconds: float

    def key(self) -> tuple[Setting, int]:
        """What was measured, and how long the net learned."""
        return Setting(*self[:4]), self.epochs


class Confirmed(NamedTuple):
    """A setting, and what its strongest attacker got: the median PSNR in dB; seconds are CPU time."""

    ratio: float
    cutoff: float
    std: float
    floor_std: float
    iterations: int
    attacker: str
    psnr: float
    seconds: float

    def key(self) -> tuple[Setting, int]:
        """What was attacked, and how hard."""
        return Setting(*self[:4]), self.iterations


def grid(ratios: list[float], cutoffs: list[float], stds: list[float], floors: list[float]) -> list[Setting]:
    """Every combination that differs: without selected channels there is neither a cutoff nor a std."""
    every = itertools.product(ratios, cutoffs, stds, floors)
    return list(dict.fromkeys(Setting(r, c, s, f) if r else Setting(0.0, 0.0, 0.0, f) for r, c, s, f in every))


def measure(setting: Setting, epochs: int) -> Row:
    """Audits and trains."""
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores
    start, defense, scene = time.process_time(), defense_of(setting), scenes.one_image()
    found = limits_of(scene, defense, attacks.gaussian(None, scene, ()), scene.scored).ceiling.tolist()
    accuracy = utility.accuracy(defense, epochs)
    return Row(*setting, epochs, statistics.median(found), accuracy, time.process_time() - start)


def confirm(setting: Setting, iterations: int) -> Confirmed:
    """Attacks; the strongest attacker is chosen on other photos than it is scored on."""
    torch.set_num_threads(1)
    start, defense, search = time.process_time(), defense_of(setting), Search(iterations=iterations)
    found = {
        name: evaluate.outcome(scenes.one_image(), defense, attack, search) for name, attack in attackers().items()
    }
    strongest = max(found, key=lambda name: found[name].tuned)
    psnr = statistics.median(found[strongest].psnr)
    return Confirmed(*setting, iterations, strongest, psnr, time.process_time() - start)


def defense_of(setting: Setting) -> Defense:
    """Without selected channels plain noise of the floor."""
    if not setting.ratio:
        return defenses.gaussian(setting.floor_std) if setting.floor_std else defenses.none
    return defenses.targeted(setting.ratio, setting.std, setting.floor_std, setting.cutoff)


def attackers() -> dict[str, Attack]:
    """Those that a setting meets, by name."""
    priors = attacks.by_name()
    by_cosine = {name: attacks.by_cosine(known) for name, known in MATCHING.items()}
    return {**by_cosine, **{name: priors[name] for name in WITH_PRIORS}}


def front(rows: list[Row]) -> list[Row]:
    """The rows that no other beats in ceiling and accuracy, from the most private on."""

    def beats(other: Row, row: Row) -> bool:
        no_worse = other.ceiling <= row.ceiling and other.accuracy >= row.accuracy
        return no_worse and (other.ceiling, other.accuracy) != (row.ceiling, row.accuracy)

    return sorted((row for row in rows if not any(beats(other, row) for other in rows)), key=lambda row: row.ceiling)


def advice(rows: list[Row], target: float) -> str:
    """The setting with the best accuracy of those whose ceiling holds the target, in a sentence."""
    held = [row for row in rows if row.ceiling <= target]
    if not held:
        closest = min(rows, key=lambda row: row.ceiling)
        return f"No setting's ceiling holds {target:g} dB. The closest: {_text(closest)}, {closest.ceiling:.1f} dB."
    best = max(held, key=lambda row: (row.accuracy, -row.ceiling))
    return f"For {target:g} dB: {_text(best)}, with {best.accuracy:.1f} % accuracy, ceiling {best.ceiling:.1f} dB."


def markdown(rows: list[Row], confirmed: list[Confirmed]) -> str:
    """The rows beside what was got of them."""
    attacked = {one.key()[0]: one for one in confirmed}
    lines = ["| setting | ceiling | strongest attacker | | accuracy |", "|---|---|---|---|---|"]
    for row in rows:
        one = attacked[row.key()[0]]
        lines.append(
            f"| {_text(row)} | {row.ceiling:.1f} dB | {one.psnr:.1f} dB | {one.attacker} | {row.accuracy:.1f} % |"
        )
    return "\n".join(lines)


def draw(rows: list[Row], confirmed: list[Confirmed], target: float, path: pathlib.Path) -> None:
    """Accuracy over PSNR, with what attackers got of the best settings, the front, whose names are at its right."""
    figure, axis = figures.chart(
        (7, 5),
        "PSNR in dB (less is more private):\nceiling (dots), strongest attacker (crosses)",
        "accuracy on digits in %",
    )
    best, attacked = front(rows), {one.key()[0]: one.psnr for one in confirmed}
    others = [row for row in rows if row not in best]
    axis.plot([row.ceiling for row in others], [row.accuracy for row in others], "o", color="0.75")
    axis.plot([row.ceiling for row in best], [row.accuracy for row in best], "o-", color=figures.BLUE, linewidth=0.8)
    axis.plot([attacked[row.key()[0]] for row in best], [row.accuracy for row in best], "x", color=figures.ORANGE)
    lowest, highest = axis.get_ylim()
    places = figures.spread([row.accuracy for row in best], 0.05 * (highest - lowest))
    right = max(row.ceiling for row in best)
    for row, place in zip(best, places, strict=True):
        axis.annotate(
            _text(row), (row.ceiling, row.accuracy), (1.06 * right, place), fontsize=9, color=figures.BLUE,
            verticalalignment="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": figures.BLUE, "linewidth": 0.4, "alpha": 0.5},
        )  # fmt: skip
    figures.mark_safe(axis, target, f"target: {target:g} dB")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figures.save(figure, path, "python -m bench.privacy tune")


def save(rows: list[Row] | list[Confirmed], path: pathlib.Path) -> None:
    """In the order of the settings."""
    written = ([round(x, 4) if isinstance(x, float) else x for x in row] for row in sorted(rows))
    ledger.save(rows[0]._fields, written, path)


def _text(row: Row) -> str:
    if not row.ratio:
        return f"noise of {row.floor_std:g} on everything" if row.floor_std else "no noise"
    return f"TIP ratio {row.ratio:g}, cutoff {row.cutoff:g}, std {row.std:g}, floor {row.floor_std:g}"
