"""Loads the compiled libraries, which register their kernels, and keeps the reason when one does not load."""

import pathlib

import torch

from .. import _ops  # noqa: F401  the schemas must exist before a library registers kernels for them

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def _load(name: str) -> str | None:
    """Loads ``tip_kernels/<name>.*.so``; returns None, or why it is not loaded."""
    files = sorted(_PACKAGE.glob(f"{name}.*so")) or sorted(_PACKAGE.glob(f"{name}.*pyd"))
    if not files:
        return "the package was installed without its compiled library (no working C++ compiler then)"
    try:
        torch.ops.load_library(files[0])
    except (OSError, RuntimeError) as error:
        return f"{files[0].name} does not load: {error}"
    return None


_CPU_PROBLEM = _load("_cpu")


def why_not_cpu(device: torch.device) -> str | None:
    """None if the compiled CPU kernels can run on ``device``, else the reason."""
    if device.type != "cpu":
        return f"it runs on cpu tensors only, not on {device.type}"
    return _CPU_PROBLEM
