"""The attackers with a prior of images: they know all of any defense, and so meet every one."""

import pathlib
from typing import NamedTuple

from bench.privacy.generator import settings as generator_settings
from bench.privacy.prior import settings as prior_settings
from bench.privacy.study import attacks, flow, generator
from bench.privacy.study.attacks import Attack
from bench.privacy.trained.weights import command


class Needed(NamedTuple):
    """A file of trained weights: the attackers that need it, and the command that makes it."""

    file: pathlib.Path
    attackers: tuple[str, ...]
    command: str


def by_name(data: pathlib.Path | None = None) -> dict[str, Attack]:
    """All of them; they learn images from the folder, or from photos."""
    return {**attacks.by_name(data), **flow.by_name(data, by_class=data is not None), **generator.by_name(data)}


def needed(data: pathlib.Path | None = None) -> list[Needed]:
    """What has to be trained before."""
    nets = {prior_settings.of_data(data): flow.by_name(data), generator_settings.of_data(data): generator.by_name(data)}
    return [
        Needed(chosen.file(), tuple(attackers), command(chosen, data or "FOLDER")) for chosen, attackers in nets.items()
    ]


def missing(data: pathlib.Path | None = None) -> dict[str, str]:
    """The attackers whose weights are not there, with the command that makes these."""
    absent = [one for one in needed(data) if not one.file.exists()]
    return {attacker: one.command for one in absent for attacker in one.attackers}
