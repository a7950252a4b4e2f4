"""Trained weights, from the file of their settings."""

import dataclasses
import pathlib
import shlex
from typing import Any, TypeVar

import torch
from torch import nn

from bench.privacy.trained.settings import Settings

Net = TypeVar("Net", bound=nn.Module)


def averaged(net: Net, settings: Settings) -> Net:
    """The net with the averaged weights of a training, ready for use.

    Raises:
        FileNotFoundError: there was none with these settings; the message has the command that makes one.
        ValueError: the file is of others.
    """
    net.load_state_dict(read(settings)["averaged"])
    return net.eval().requires_grad_(False)


def read(settings: Settings) -> dict[str, Any]:
    """Everything that the file holds; raises as :func:`averaged`."""
    file, kind = settings.file(), settings.KIND
    if not file.exists():
        raise FileNotFoundError(f"expected a trained {kind} in {file}, got none: make it by\n    {command(settings)}")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["settings"] != dataclasses.asdict(settings):
        raise ValueError(f"expected {file} to hold a {kind} of {settings}, got one of {state['settings']}")
    return state


def command(settings: Settings, folder: pathlib.Path | str = "FOLDER") -> str:
    """What trains a net of these settings."""
    data = "" if settings.data == "photos" else f" --data {shlex.quote(str(folder))}"
    changed = "".join(
        f" --{field.name} {getattr(settings, field.name)}"
        for field in dataclasses.fields(settings)
        if field.name in settings.OPTIONS and getattr(settings, field.name) != field.default
    )
    return f"python -m bench.privacy train-{settings.KIND}{data}{changed} --minutes {settings.MINUTES:g}"
