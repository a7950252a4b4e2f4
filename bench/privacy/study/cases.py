"""Which attackers meet which defense on what, by table."""

import pathlib
from functools import partial
from typing import NamedTuple

from bench.privacy.attacker import knowledge
from bench.privacy.attacker.knowledge import Attacker
from bench.privacy.client import defenses
from bench.privacy.client.noise_levels import as_published, at_energy
from bench.privacy.client.release import Defense
from bench.privacy.study import attacks, scenes, shapes, with_priors
from bench.privacy.study.attacks import Attack
from bench.privacy.study.scenes import MakeScene

EQUAL, PUBLISHED, FLOORS, WORLDS = "equal noise energy", "the paper's noise", "noise on everything", "other worlds"
"""The tables, by the names of their marks in docs/privacy.md."""

RMS = 0.02
"""Of the noise over all coordinates, where defenses are compared at equal energy; in units of the clipping norm."""

LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
"""Of noise on everything, in the same units."""

# The attackers that know of a smoothing, of pruning, of noise by channels, and of noise by channels and frequencies.
UNSMOOTHED: dict[str, Attacker] = {"undoes the smoothing": knowledge.unsmoothed}
KEPT: dict[str, Attacker] = {"kept only": knowledge.spectral}
CHANNELS: dict[str, Attacker] = {"oracle mask": knowledge.oracle_mask, "whitened": knowledge.whitened}
BANDS: dict[str, Attacker] = {**CHANNELS, "spectral": knowledge.spectral}

BY_LBFGS = " by L-BFGS"
"""Behind an attacker's name: searches by squared distance and L-BFGS. Without it one that knows something of a defense
searches by cosine and signed Adam; the rest are those of ``with_priors``, which meet every defense."""


BATCH_NORM, STATISTICS_SENT, LOCAL_STEPS = "batch norm", "statistics sent", "4 local steps"
"""Of the names of other worlds."""

STRONG = ("MAP, Gaussian", "posterior mean", "flow, plug-and-play")
GENERATOR = "generator, features"
"""Of ``with_priors`` those that meet the defenses of the other tables, and the one that takes longest."""


class Case(NamedTuple):
    """A defense and who attacks it.

    Args:
        defense: the client's.
        informed: the attackers by matching that know something of it besides the naive one.
        lbfgs: names of those that search by L-BFGS too.
        scene: what is attacked.
        priors: names of those with a prior of images, or None for all.
    """

    defense: Defense
    informed: dict[str, Attacker]
    lbfgs: tuple[str, ...]
    scene: MakeScene = scenes.one_image
    priors: tuple[str, ...] | None = None

    def attackers(self) -> dict[str, Attacker]:
        """What those who match gradients know, by name: the naive one and the informed."""
        return {"naive": knowledge.naive, **self.informed}

    def attacks(self, data: pathlib.Path | None = None) -> dict[str, Attack]:
        """All by name; those that know images learn them from the folder, or from photos (``public_images``)."""
        known = self.attackers()
        by_cosine = {name: attacks.by_cosine(attacker) for name, attacker in known.items()}
        by_lbfgs = {name + BY_LBFGS: attacks.by_lbfgs(known[name]) for name in self.lbfgs}
        return {**by_cosine, **by_lbfgs, **self._with_priors(data)}

    def names(self) -> list[str]:
        """Of all attackers."""
        return list(self.attacks())

    def _with_priors(self, data: pathlib.Path | None) -> dict[str, Attack]:
        if self.priors is None:
            return with_priors.by_name(data)
        known = {**with_priors.by_name(data), **attacks.of_any_size()}
        return {name: known[name] for name in self.priors}


def cases() -> dict[str, dict[str, Case]]:
    """All defenses, by table and name."""
    return {EQUAL: _at_equal_energy(), PUBLISHED: _as_published(), FLOORS: _floors(), WORLDS: _other_worlds()}


def _at_equal_energy() -> dict[str, Case]:
    equally = partial(at_energy, rms=RMS)
    table = {
        "none": Case(defenses.none, {}, ("naive",)),
        "pruning 90 %, smallest": Case(defenses.pruning(0.9, True), KEPT, ("kept only",)),
        "pruning 90 %, random": Case(defenses.pruning(0.9, False), KEPT, ("kept only",)),
        "DP": Case(equally(defenses.gaussian), {}, ("naive",)),
        "DP, adaptive clipping": Case(defenses.AdaptiveGaussian(RMS), {}, ()),
        "DP, Laplacian smoothing": Case(equally(defenses.smoothed_gaussian), UNSMOOTHED, ("undoes the smoothing",)),
        "APG": Case(equally(defenses.grad_cam_noise), CHANNELS, ("whitened",)),
    }
    for ratio in (0.1, 0.3, 0.6, 1.0):
        table[f"TIP {ratio}"] = Case(equally(partial(defenses.targeted, ratio)), _knows_tip(ratio), ("spectral",))
    table["TIP 1.0, keep 0"] = Case(equally(partial(defenses.targeted, 1.0, keep=0.0)), BANDS, ("spectral",))
    table["TIP 0.3 with floor"] = Case(equally(_with_floor), BANDS, ("whitened",))
    known = {"whitened": knowledge.whitened}
    table["TIP 0.3, fitted spectrum"] = Case(equally(_with_spectrum), known, (), priors=(*STRONG, GENERATOR))
    return table


def _as_published() -> dict[str, Case]:
    table = {
        "DP": Case(as_published(defenses.gaussian), {}, ("naive",), priors=STRONG),
        "APG": Case(as_published(defenses.grad_cam_noise), CHANNELS, ("whitened",), priors=STRONG),
    }
    for ratio in (0.1, 0.3, 0.6):
        make = partial(defenses.published_targeted, ratio)
        # Two will do: this table is for the noise.
        known = {name: _knows_tip(ratio)[name] for name in ("inferred mask", "spectral")}
        table[f"TIP {ratio}"] = Case(as_published(make), known, ("spectral",), priors=STRONG)
    return table


def _floors() -> dict[str, Case]:
    """The same least noise on every coordinate, without TIP and with it."""
    table = {}
    for level in LEVELS:
        table[f"DP {level:g}"] = Case(defenses.gaussian(level), {}, (), priors=(*STRONG, GENERATOR))
        defense, known = defenses.targeted_with_floor(level), {"whitened": knowledge.whitened}
        table[f"TIP 0.3, floor {level:g}"] = Case(defense, known, (), priors=(*STRONG, GENERATOR))
    return table


class World(NamedTuple):
    """Where the defenses of the first table are attacked once more; ``shown`` are those that are."""

    scene: MakeScene
    priors: tuple[str, ...] = STRONG
    lbfgs: bool = False
    shown: tuple[str, ...] = ("none", "DP", "TIP 0.3", "TIP 0.3 with floor")


WORLDS_BY_NAME = {
    "trained weights": World(scenes.one_image_trained, lbfgs=True),
    "batch of 4": World(scenes.four_images, lbfgs=True),
    "batch of 16": World(scenes.sixteen_images, shown=("none", "DP")),
    "ReLU": World(scenes.relu),
    BATCH_NORM: World(scenes.batch_norm),
    f"{BATCH_NORM}, {STATISTICS_SENT}": World(scenes.batch_norm, shown=("none", "DP")),
    "ResNet": World(scenes.resnet),
    "64x64": World(scenes.large_image, priors=("MAP, TV", "MAP, Gaussian by frequency")),
    LOCAL_STEPS: World(scenes.one_image, shown=("none", "DP")),
}


def _other_worlds() -> dict[str, Case]:
    informed = {"TIP 0.3": {"spectral": knowledge.spectral}, "TIP 0.3 with floor": {"whitened": knowledge.whitened}}
    table = {}
    for title, world in WORLDS_BY_NAME.items():
        for name in world.shown:
            known = informed.get(name, {})
            lbfgs = (tuple(known) or ("naive",)) if world.lbfgs else ()
            table[f"{name}, {title}"] = Case(_in_world(name, title), known, lbfgs, world.scene, world.priors)
    return table


def _in_world(name: str, title: str) -> Defense:
    """The defense of the first table, as a client of that world has it."""
    if title == LOCAL_STEPS:
        return defenses.local_steps(4, 0.01, RMS if name == "DP" else 0.0)
    defense = _at_equal_energy()[name].defense
    return defenses.with_statistics(defense) if STATISTICS_SENT in title else defense


def _knows_tip(ratio: float) -> dict[str, Attacker]:
    return {**BANDS, "inferred mask": partial(knowledge.inferred_mask, ratio=ratio)}


def _with_spectrum(factor: float) -> Defense:
    """Of the shape that was fitted beside plain noise of RMS."""
    return defenses.shaped(shapes.fitted(0.3, RMS).scaled(factor), 0.3)


def _with_floor(std: float) -> Defense:
    return defenses.targeted(0.3, std, floor_std=0.5 * std)
