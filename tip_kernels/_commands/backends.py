"""The backends, where they run, and whether they can run here: fastest first.

Beside them what else decides it: versions, the CPU's instruction set, threads, devices, and those environment
variables that are set and that the package reads.
"""

import argparse
import json
import os
import platform
from typing import Any

import torch

from .. import __version__
from .._op import dispatch
from .output import say
from .refusal import one_line
from .table import table

VARIABLES = {
    "TIP_KERNELS_CPU": "at the first use",
    "TRITON_INTERPRET": "at the first use",
    "TIP_KERNELS_REQUIRE_COMPILED": "at the build",
    "TIP_KERNELS_CUDA_ARCHS": "at the build",
    "TIP_KERNELS_VARIANTS": "at the build",
    "TIP_KERNELS_CFLAGS": "at the build",
    "CUDA_HOME": "at the build",
    "SOURCE_DATE_EPOCH": "at the build",
}
"""Environment variables by when they are read; docs/architecture.md says what they mean."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How it is printed."""
    parser.add_argument("--json", action="store_true", help="one object to stdout, and nothing else")


def run(options: argparse.Namespace) -> None:
    """Prints versions, the table and the rest, or all of it as JSON."""
    found = _found()
    text = json.dumps(found, indent=2) if options.json else _as_text(found)
    say(text)


def _found() -> dict[str, Any]:
    instruction_set, problem = _instruction_set()
    return {
        "tip_kernels": __version__,
        "torch": torch.__version__,
        "triton": _triton_version(),
        "python": platform.python_version(),
        "backends": [_backend(backend, problem) for backend in dispatch.BACKENDS],
        "instruction_set": instruction_set,
        "threads": torch.get_num_threads(),
        "devices": _devices(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _backend(backend: dispatch.Backend, cpu_problem: str | None) -> dict[str, Any]:
    """Where on this machine it can run, and by device why it cannot, on an absent GPU, too."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    gpu = "cuda" if accelerator is None else accelerator.type
    reasons = {device: backend.unavailable_reason(torch.device(device)) for device in ("cpu", gpu)}
    if backend.name == "cpu":
        reasons["cpu"] = reasons["cpu"] or cpu_problem
    present = ["cpu"] if accelerator is None else list(reasons)
    return {
        "name": backend.name,
        "runs_on": backend.runs_on,
        "devices": [device for device in present if reasons[device] is None],
        "reasons": {device: reason for device, reason in reasons.items() if reason is not None},
    }


def _instruction_set() -> tuple[str | None, str | None]:
    """That of the compiled CPU library, None if there is none; and why none can be used, None if one can."""
    if not hasattr(torch.ops.tip_kernels, "cpu_variant"):
        return None, None
    try:
        return torch.ops.tip_kernels.cpu_variant(), None
    except RuntimeError as error:  # TIP_KERNELS_CPU has none that this processor can run
        return None, one_line(str(error).partition("\n")[0])


def _triton_version() -> str | None:
    """None without a Triton that imports."""
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def _devices() -> list[dict[str, str]]:
    """The CPU, and the accelerators that torch finds."""
    devices = [{"device": "cpu", "name": platform.machine()}]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return devices
    name_of = getattr(torch.get_device_module(accelerator), "get_device_name", lambda _index: accelerator.type)
    count = torch.accelerator.device_count()
    return devices + [{"device": f"{accelerator.type}:{i}", "name": name_of(i)} for i in range(count)]


def _as_text(found: dict[str, Any]) -> str:
    triton = "no triton" if found["triton"] is None else f"triton {found['triton']}"
    versions = f"tip_kernels {found['tip_kernels']}, torch {found['torch']}, {triton}, Python {found['python']}"
    rows = [("backend", "runs on", "here"), *((b["name"], b["runs_on"], _here(b, found)) for b in found["backends"])]
    set_here = [f"{name}={value} (read {VARIABLES[name]})" for name, value in found["environment"].items()]
    facts = [
        ("instruction set", found["instruction_set"] or "no compiled CPU library that can run"),
        ("threads", str(found["threads"])),
        ("devices", ", ".join(f"{device['device']} ({device['name']})" for device in found["devices"])),
        ("environment", ", ".join(set_here) or "nothing set that is read"),
    ]
    return f"{versions}\n\n{table(rows)}\n\n{table(facts)}"


def _here(backend: dict[str, Any], found: dict[str, Any]) -> str:
    """Where on this machine the backend can run; if nowhere, why not on CPU and not on the accelerator."""
    if backend["devices"]:
        variant = f" ({found['instruction_set']})" if backend["name"] == "cpu" else ""
        return "yes, on " + " and ".join(backend["devices"]) + variant
    return "no; " + "; ".join(f"{device}: {reason}" for device, reason in backend["reasons"].items())
