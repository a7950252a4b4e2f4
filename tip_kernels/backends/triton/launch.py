"""``perturb_``: one launch for each dtype, of which the first takes the step."""

import functools
from typing import Any

from ..._locks import ForkSafeLock
from ..._ops import PerturbArguments
from .. import _checks
from .device import can_be_interrupted, make_current
from .resident import make_ready
from .variant import OPTIONS, Variant

_LAUNCHING = ForkSafeLock()
"""The launches of a call follow one another: the later ones count on the step that the first one took."""


def perturb_(given: PerturbArguments) -> None:
    """See ``_ops.py`` for the arguments and docs/design.md for the result."""
    _checks.check_perturb(given)
    absent = given.std  # in place of a pointer that is not read
    amounts = [absent if tensor is None else tensor for tensor in (given.std, given.floor_std, given.grad_scale)]
    device = given.state.device
    with _LAUNCHING, make_current(device):
        # All before the first launch, since after it a lack of memory would leave some of the noise undone.
        launches = make_ready(given)
        step_is_taken = can_be_interrupted(device)
        if step_is_taken:
            given.state[4] += 1
        for i, launch in enumerate(launches):
            advance = int(i == 0 and not step_is_taken)
            _kernel()[(launch.programs,)](
                *launch.arguments, *amounts, given.state, advance, **_constants(launch.variant), **OPTIONS
            )


@functools.cache
def _kernel() -> Any:
    """The kernel; only now is Triton imported."""
    from .kernels import perturb_portions

    return perturb_portions


@functools.lru_cache(maxsize=256)
def _constants(variant: Variant) -> dict[str, Any]:
    import triton

    return {**variant.constants(), "INTERPRETED": not isinstance(_kernel(), triton.JITFunction)}
