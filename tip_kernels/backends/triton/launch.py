"""``perturb_``: one launch for each dtype, of which the first takes the step."""

import functools
from typing import Any

import torch

from ..._op.schemas import PerturbArguments
from ..._runtime.locks import ForkSafeLock
from .. import _checks
from .device import can_be_interrupted, make_current
from .resident import make_ready
from .variant import OPTIONS, Variant

_LAUNCHING = ForkSafeLock()
"""The launches of a call follow one another: the later ones count on the step that the first one took."""


def perturb_(given: PerturbArguments) -> None:
    """See ``_op/schemas.py`` for the arguments and docs/design.md for the result."""
    _checks.check_perturb(given)
    absent = given.std  # in place of a pointer that is not read
    amounts = [absent if tensor is None else tensor for tensor in (given.std, given.floor_std, given.grad_scale)]
    device = given.state.device
    with _LAUNCHING, make_current(device):
        # All before the first launch, since after it a lack of memory, or a kernel that does not compile or does not
        # fit the device, would leave some of the noise undone.
        launches = make_ready(given)
        constants = [_load(launch.variant, device) for launch in launches]
        step_is_taken = can_be_interrupted(device)
        if step_is_taken:
            given.state[4] += 1
        for i, launch in enumerate(launches):
            advance = int(i == 0 and not step_is_taken)
            _kernel()[(launch.programs,)](*launch.arguments, *amounts, given.state, advance, **constants[i], **OPTIONS)


@functools.cache
def _kernel() -> Any:
    """The kernel; only now is Triton imported."""
    from .kernels import perturb_portions

    return perturb_portions


@functools.cache
def _is_interpreted() -> bool:
    import triton

    return not isinstance(_kernel(), triton.JITFunction)


@functools.lru_cache(maxsize=256)
def _load(variant: Variant, device: torch.device) -> dict[str, Any]:
    """Compiles a variant and loads it on the device, which is current; returns its compile-time arguments."""
    constants = {**variant.constants(), "INTERPRETED": _is_interpreted()}
    if not _is_interpreted():
        # In Triton's eyes a dtype is a pointer to it. Subscripting what is compiled loads it, and launches nothing.
        compiled = _kernel().warmup(*variant.argument_types(), grid=(1,), **constants, **OPTIONS)
        compiled[(1, 1, 1)]
    return constants
