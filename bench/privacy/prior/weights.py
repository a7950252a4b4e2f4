"""Trained weights, from the file of their settings."""

import dataclasses
import pathlib
import shlex
from typing import Any

import torch

from bench.privacy.prior.network import Velocity
from bench.privacy.prior.settings import Settings
from bench.privacy.prior.training import build


def load(settings: Settings) -> Velocity:
    """The averaged weights of a training, ready for use.

    Raises:
        FileNotFoundError: there was none with these settings; the message has the command that makes one.
        ValueError: the file is of others.
    """
    net = build(settings)
    net.load_state_dict(read(settings)["averaged"])
    return net.eval().requires_grad_(False)


def read(settings: Settings) -> dict[str, Any]:
    """Everything that the file holds; raises as :func:`load`."""
    file = settings.file()
    if not file.exists():
        raise FileNotFoundError(f"expected a trained prior in {file}, got none: make it by\n    {command(settings)}")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["settings"] != dataclasses.asdict(settings):
        raise ValueError(f"expected {file} to hold a prior of {settings}, got one of {state['settings']}")
    return state


def command(settings: Settings, folder: pathlib.Path | str = "FOLDER") -> str:
    """What trains a prior of these settings."""
    data = "" if settings.data == "photos" else f" --data {shlex.quote(str(folder))}"
    changed = "".join(
        f" --{field.name} {getattr(settings, field.name)}"
        for field in dataclasses.fields(settings)
        if field.name in OPTIONS and getattr(settings, field.name) != field.default
    )
    return f"python -m bench.privacy train-prior{data}{changed} --minutes 60"


OPTIONS = ("width", "batch", "lr", "seed")
"""The settings that are options of the command."""
