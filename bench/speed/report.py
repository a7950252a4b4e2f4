"""The file with the figures of a device, and what they depend on."""

import json
import pathlib
import re

import torch

from bench import paths
from tip_kernels._bench.machine import device_name, machine


def path(device: torch.device) -> pathlib.Path:
    """The device's file: its name in lower case, with a dash for all that is neither letter nor digit."""
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return paths.SPEED_RESULTS / f"{name}.json"


def load(device: torch.device) -> dict:
    """What was saved for the device; the machine alone if nothing was."""
    file = path(device)
    return json.loads(file.read_text()) if file.exists() else {"machine": machine(device)}


def save(device: torch.device, figures: dict) -> None:
    """Replaces the device's file, and says where it is."""
    file = path(device)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nwritten to {file}")
