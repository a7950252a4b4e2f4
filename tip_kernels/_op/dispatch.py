"""One row per backend: can it run here, and if not, why. docs/architecture.md says what else a new one needs."""

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .._runtime.tracing import constant_when_traced
from ..backends import _checks, native, reference, triton
from . import schemas

Op = Callable[..., Any]
Args = tuple[Any, ...]

logger = logging.getLogger("tip_kernels")


class Backend(NamedTuple):
    """A way to run the ops.

    ``unavailable_reason(device)`` is None if it can run there, else the reason. ``suffix`` names its ops.
    """

    name: str
    runs_on: str
    unavailable_reason: Callable[[torch.device], str | None]
    suffix: str


BACKENDS = (
    Backend("cuda", "NVIDIA GPU, compiled CUDA C++", native.cuda_unavailable_reason, ""),
    Backend("cpu", "CPU, compiled C++", native.cpu_unavailable_reason, ""),
    Backend("triton", "NVIDIA and AMD GPUs, compiled at first use", triton.unavailable_reason, "_triton"),
    Backend("reference", "any device, plain PyTorch, slow", reference.unavailable_reason, "_reference"),
)


def available_backends(device: torch.device | str = "cpu") -> list[str]:
    """Names of the backends that can run on ``device``, fastest first."""
    device = torch.device(device)
    return [backend.name for backend in BACKENDS if backend.unavailable_reason(device) is None]


def perturb_op(name: str | None, device: torch.device) -> Op:
    """The ``perturb_`` op of the named backend, or of the fastest.

    Raises:
        ValueError: no backend has this name; the message lists them.
        RuntimeError: the named backend cannot run on the device; the message says why.
    """
    return _op("perturb_in_graph{}_" if torch.compiler.is_compiling() else "perturb{}_", name, device)


def saliency_op(name: str | None, device: torch.device) -> Op:
    """The ``channel_saliency`` op of the named backend, or of the fastest; raises like :func:`perturb_op`."""
    return _op("channel_saliency{}", name, device)


def words_op(name: str | None, device: torch.device) -> Op:
    """The ``words_`` op of the named backend, or of the fastest; raises like :func:`perturb_op`."""
    return _op("words{}_", name, device)


def clip_op(name: str | None, device: torch.device) -> Op:
    """The ``clip_scale`` op of the named backend, or of the fastest; raises like :func:`perturb_op`."""
    return _op("clip_scale{}", name, device)


def _op(pattern: str, name: str | None, device: torch.device) -> Op:
    op: Op = getattr(torch.ops.tip_kernels, pattern.format(_suffix(name, device))).default
    return op


@constant_when_traced
def _suffix(name: str | None, device: torch.device) -> str:
    return _fastest(device.type).suffix if name is None else _named(name, device).suffix


def _named(name: str, device: torch.device) -> Backend:
    for backend in BACKENDS:
        if backend.name == name:
            reason = backend.unavailable_reason(device)
            if reason is not None:
                raise RuntimeError(f"backend {name!r} cannot run on {device}: {reason}")
            return backend
    known = ", ".join(backend.name for backend in BACKENDS)
    raise ValueError(f"expected backend to be None or one of {known}, got {name!r}")


@functools.cache
def _fastest(device_type: str) -> Backend:
    """The first backend that can run; says once which and why not a faster one."""
    device = torch.device(device_type)
    passed_over = []
    for backend in BACKENDS:
        reason = backend.unavailable_reason(device)
        if reason is None:
            break
        passed_over.append(f"{backend.name}: {reason}")
    why = "; ".join(passed_over) or "it is the fastest"
    logger.info("using backend %s on %s (%s)", backend.name, device_type, why)
    if backend.name == "reference":
        warnings.warn(
            f"tip_kernels runs on its slow reference backend on {device_type} ({why})", RuntimeWarning, stacklevel=2
        )
    return backend


_CHECKS: dict[str, Callable[..., None]] = {
    "perturb_": lambda *args: _checks.check_perturb(schemas.PerturbArguments(*args)),
    "channel_saliency": _checks.check_activation_grad,
    "words_": _checks.check_words,
    "clip_scale": lambda *args: _checks.check_clip(schemas.ClipArguments(*args)),
}


def _device_of_state(args: Args) -> torch.device:
    return schemas.PerturbArguments(*args).state.device


def _device_of_clip(args: Args) -> torch.device:
    return schemas.ClipArguments(*args).state.device


def _device_of_first(args: Args) -> torch.device:
    device: torch.device = args[0].device
    return device


def _forward_to_fastest(pattern: str, device_of: Callable[[Args], torch.device]) -> Op:
    """The kernel of an op that no compiled library registered for the device at hand."""

    def kernel(*args: Any) -> Any:
        fastest = _fastest(device_of(args).type)
        if not fastest.suffix:  # this very op would be called again
            op = pattern.format("")
            _CHECKS[op](*args)  # torch brings tensors that no backend takes here, such as sparse ones
            raise RuntimeError(f"the compiled library of backend {fastest.name!r} lacks {op}: build it again")
        return getattr(torch.ops.tip_kernels, pattern.format(fastest.suffix))(*args)

    return kernel


for _pattern, _device_of in (
    ("perturb{}_", _device_of_state),
    ("channel_saliency{}", _device_of_first),
    ("words{}_", _device_of_first),
    ("clip_scale{}", _device_of_clip),
):
    schemas.LIBRARY.impl(_pattern.format(""), _forward_to_fastest(_pattern, _device_of), "CompositeExplicitAutograd")
