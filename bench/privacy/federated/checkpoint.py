"""Where a training stands, in a file from which it can go on."""

import dataclasses
import pathlib

import torch
from torch import nn

from bench.privacy.federated.curves import Curve
from bench.privacy.federated.settings import Settings


def keep(model: nn.Module, checkpoint: pathlib.Path, settings: Settings, done: int, curve: Curve) -> None:
    """Saves where the training stands; an interruption leaves the old file or the new one."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    new = checkpoint.with_suffix(".new")
    saved = {"settings": dataclasses.asdict(settings), "model": model.state_dict(), "done": done, "curve": curve}
    torch.save(saved, new)
    new.replace(checkpoint)


def restore(model: nn.Module, checkpoint: pathlib.Path, settings: Settings) -> tuple[int, Curve]:
    """Rounds done and the curve so far, with the model as it was then."""
    if not checkpoint.exists():
        return 0, []
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["settings"] != dataclasses.asdict(settings):
        raise ValueError(f"expected {checkpoint} to be of these settings, got others: run without --resume")
    model.load_state_dict(saved["model"])
    return saved["done"], saved["curve"]
