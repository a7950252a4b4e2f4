"""What figures depend on: the machine, and what runs on it."""

import importlib.metadata
import pathlib
import platform
import re

import torch

from .. import __version__
from .._op import dispatch


def machine(device: torch.device) -> dict[str, object]:
    """Device, threads, versions and instruction sets, by name; None for what is absent."""
    backends = dispatch.available_backends(device)
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "backend": backends[0],
        "cpu variant": torch.ops.tip_kernels.cpu_variant() if "cpu" in backends else None,
        "tip_kernels": __version__,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }


def device_name(device: torch.device) -> str:
    """As its maker names it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
