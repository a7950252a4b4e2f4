"""The attackers with a prior of images: they know all of any defense, and so meet every one."""

import pathlib
from typing import NamedTuple

from bench.privacy.generator import settings as generator_settings
from bench.privacy.prior import settings as prior_settings
from bench.privacy.study import attacks, flow, generator
from bench.privacy.study.attacks import Attack
from bench.privacy.trained.settings import Settings
from bench.privacy.trained.weights import command, read


class Needed(NamedTuple):
    """A trained net: its settings, the attackers that need it, and the command that trains it."""

    settings: Settings
    attackers: tuple[str, ...]
    command: str

    def steps(self) -> int:
        """Of its training until now."""
        return read(self.settings)["steps"] if self.settings.file().exists() else 0


def by_name(data: pathlib.Path | None = None) -> dict[str, Attack]:
    """All of them; they learn images from the folder, or from photos."""
    return {**attacks.by_name(data), **flow.by_name(data, by_class=data is not None), **generator.by_name(data)}


def needed(data: pathlib.Path | None = None) -> list[Needed]:
    """What has to be trained before."""
    nets = {prior_settings.of_data(data): flow.by_name(data), generator_settings.of_data(data): generator.by_name(data)}
    return [Needed(chosen, tuple(attackers), command(chosen, data or "FOLDER")) for chosen, attackers in nets.items()]


def missing(data: pathlib.Path | None = None) -> dict[str, str]:
    """The attackers whose nets have not been trained for long enough, with what to do about it.

    A net of fewer steps would make a weak attacker, and any defense look better than it is.
    """
    return {
        attacker: f"expected a {one.settings.KIND} of at least {one.settings.LEAST} steps for {attacker}, "
        f"got {one.steps()}: train it by\n    {one.command}"
        for one in needed(data)
        if one.steps() < one.settings.LEAST
        for attacker in one.attackers
    }


def trained(data: pathlib.Path | None = None) -> list[str]:
    """What the nets have behind them, to be said beside the figures."""
    return [f"{one.settings.KIND} after {one.steps():,} steps" for one in needed(data)]
