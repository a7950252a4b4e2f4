"""The attackers with a prior of images: they know all of any defense, and so meet every one."""

import pathlib
from typing import NamedTuple

from bench.privacy.prior.settings import of_data
from bench.privacy.prior.weights import command
from bench.privacy.study import attacks, flow
from bench.privacy.study.attacks import Attack


class Needed(NamedTuple):
    """A file of trained weights: the attackers that need it, and the command that makes it."""

    file: pathlib.Path
    attackers: tuple[str, ...]
    command: str


def by_name(data: pathlib.Path | None = None) -> dict[str, Attack]:
    """All of them; they learn images from the folder, or from photos."""
    return {**attacks.by_name(data), **flow.by_name(data, by_class=data is not None)}


def needed(data: pathlib.Path | None = None) -> list[Needed]:
    """What has to be trained before."""
    chosen = of_data(data)
    return [Needed(chosen.file(), tuple(flow.by_name(data)), command(chosen, data or "FOLDER"))]


def missing(data: pathlib.Path | None = None) -> dict[str, str]:
    """The attackers whose weights are not there, with the command that makes these."""
    absent = [one for one in needed(data) if not one.file.exists()]
    return {attacker: one.command for one in absent for attacker in one.attackers}
