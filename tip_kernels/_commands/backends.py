"""The backends, where they run, and whether they can run here: fastest first."""

import argparse

import torch

from .. import __version__
from .._op import dispatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> None:
    """Prints the versions and the table."""
    print(f"tip_kernels {__version__}, torch {torch.__version__}\n")
    rows = [("backend", "runs on", "here"), *((b.name, b.runs_on, _here(b)) for b in dispatch.BACKENDS)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, runs_on, here in rows:
        print(f"{name:{widths[0]}}  {runs_on:{widths[1]}}  {here}")


def _here(backend: dispatch.Backend) -> str:
    """Where on this machine the backend can run; if nowhere, why not on CPU and not on the accelerator."""
    accelerator = torch.accelerator.current_accelerator()
    gpu = "cuda" if accelerator is None else accelerator.type
    reasons = {device: backend.unavailable_reason(torch.device(device)) for device in ("cpu", gpu)}
    present = ["cpu"] if accelerator is None else list(reasons)
    able = [device for device in present if reasons[device] is None]
    if able:
        variant = f" ({torch.ops.tip_kernels.cpu_variant()})" if backend.name == "cpu" else ""
        return "yes, on " + " and ".join(able) + variant
    return "no; " + "; ".join(f"{device}: {reason}" for device, reason in reasons.items())
