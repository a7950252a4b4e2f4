"""Whether the kernels can run on a device, and if not, why. Nothing here imports Triton at import."""

import functools
import os

import torch

_OLDEST_TRITON = (3, 6)


def unavailable_reason(device: torch.device) -> str | None:
    """None if the Triton kernels can run on ``device``, else the reason."""
    interpreting = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
    if device.type == "cpu" and not interpreting:
        return "it runs on cpu tensors only in Triton's interpreter, with TRITON_INTERPRET=1"
    if device.type not in ("cpu", "cuda"):
        return f"it runs on CUDA and ROCm devices, not on {device.type}"
    if device.type == "cuda" and interpreting:
        return "TRITON_INTERPRET is set, and Triton's interpreter is for cpu tensors"
    return import_problem() or (_gpu_problem(device) if device.type == "cuda" else None)


@functools.cache
def import_problem() -> str | None:
    """Why Triton cannot be used on any device; None if it can be."""
    try:
        import triton
    except ImportError as error:
        return f"Triton does not import: {error}"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < _OLDEST_TRITON:
        return f"it needs Triton {'.'.join(map(str, _OLDEST_TRITON))} or newer, found {triton.__version__}"
    return None


def _gpu_problem(device: torch.device) -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"it needs a GPU of compute capability 8.0 or newer, found {torch.cuda.get_device_name(device)}"
    return None
