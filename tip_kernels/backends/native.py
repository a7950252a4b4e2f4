"""Loads the compiled libraries, which register their kernels, and keeps the reason when one does not load."""

import functools
import pathlib

import torch

from .._op import schemas  # noqa: F401  the schemas must exist before a library registers kernels for them

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent

_OLDEST_GPU = (8, 0)  # compute capability


def _load(name: str, needs: str) -> str | None:
    """Loads ``tip_kernels/<name>.*.so``; returns None, or why it is not loaded."""
    files = sorted(_PACKAGE.glob(f"{name}.*so")) or sorted(_PACKAGE.glob(f"{name}.*pyd"))
    if not files:
        return f"the package was installed without its compiled library ({needs} then)"
    try:
        torch.ops.load_library(files[0])
    except (OSError, RuntimeError) as error:
        return f"{files[0].name} does not load: {error}"
    return None


def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) has no CUDA"
    return _load("_cuda", "no nvcc, or a torch without CUDA")


_CPU_PROBLEM = _load("_cpu", "no working C++ compiler")
_CUDA_PROBLEM = _load_cuda()


def cpu_unavailable_reason(device: torch.device) -> str | None:
    """None if the compiled CPU kernels can run on ``device``, else the reason."""
    if device.type != "cpu":
        return f"it runs on cpu tensors only, not on {device.type}"
    return _CPU_PROBLEM


def cuda_unavailable_reason(device: torch.device) -> str | None:
    """None if the compiled CUDA kernels can run on ``device``, else the reason."""
    if device.type != "cuda":
        return f"it runs on cuda tensors only, not on {device.type}"
    if _CUDA_PROBLEM is not None:
        return _CUDA_PROBLEM
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_GPU:
        return "it needs compute capability {}.{} or newer, this GPU has {}.{}".format(*_OLDEST_GPU, *capability)
    return _cuda_problem(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _cuda_problem(index: int) -> str | None:
    """Asked once for each device: whether the driver knows the library's CUDA, and the library has code for the GPU."""
    problem: str = torch.ops.tip_kernels.cuda_problem(index)
    return problem or None
