"""The file with the figures of a device, and what they depend on."""

import importlib.metadata
import json
import pathlib
import platform
import re

import torch

import tip_kernels as tip
from bench import paths


def machine(device: torch.device) -> dict[str, object]:
    """What the figures depend on."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "backend": tip.available_backends(device)[0],
        "tip_kernels": tip.__version__,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }


def device_name(device: torch.device) -> str:
    """As its maker names it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
