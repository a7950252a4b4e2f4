"""What a TIP says of calls that would do nothing, less than is believed, or the same twice.

Not asked where a compiled graph or a dry run makes the call.
"""

import gc
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch

from .._distributed.dtensor import local, version
from .._op.naming import label
from .._op.plan import Tensors
from .mechanism import Mechanism

logger = logging.getLogger("tip_kernels")

_MARK = "_tip_kernels_version"  # an attribute of a tensor: its ``version`` when a TIP had perturbed it
_LARGEST_NORMAL = 6.77


class CallChecks:
    """The checks of one TIP; what concerns its settings and not one call is said once."""

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._said: set[object] = set()
        self._has_reached = False  # whether noise was in any message so far

    def before(self, tensors: Tensors, names: Sequence[str]) -> None:
        """Raises RuntimeError for tensors that have their noise, and ValueError for noise that their dtype cannot hold.

        The first time that a message is made of these tensors it also reports how much of it gets noise. It raises
        RuntimeError if nothing does, and nothing of an earlier message did.
        """
        self.refuse_perturbed(tensors, names)
        self._once("key", self._mechanism.options.rng.warn_of_another_with_this_key)
        kind = tuple([None if tensor is None else tensor.dtype for tensor in tensors])
        self._once(kind, lambda: self._report(tensors, names))

    def before_by_hand(self, parameters: Sequence[torch.Tensor | None], changed: Iterable[str]) -> None:
        """Of ``perturb_gradients()``, which a user may call at the wrong time, as an attached optimizer does not.

        Args:
            parameters: whose gradients they are, by index.
            changed: names of the weights that have changed since their forward pass.

        Raises:
            RuntimeError: there is no gradient, or the optimizer will overwrite those that there are.
        """
        if all(parameter is None or parameter.grad is None for parameter in parameters):
            raise RuntimeError(
                "expected gradients, got none: call perturb_gradients() after loss.backward(), and before zero_grad()"
            )
        for parameter in parameters:
            if getattr(parameter, "grad_sample", None) is not None and getattr(parameter, "summed_grad", None) is None:
                raise RuntimeError(
                    "expected gradients that the optimizer will use, got those of Opacus, which makes others in its "
                    "step: attach() the optimizer instead"
                )
        for name in changed:
            self._once("changed", lambda: _warn_of_changed_weights(name))  # noqa: B023, called at once
        self._once("scaled", _warn_of_scaled_gradients)

    def after(self, tensors: Tensors, names: Sequence[str]) -> None:
        """Marks them as perturbed, and warns of float16 numbers that the noise has made infinite."""
        mark_perturbed(tensors)
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            part = local(tensor)
            if part.dtype is torch.float16 and part.device.type == "cpu" and not part.isfinite().all():
                warnings.warn(
                    f"float16 numbers with noise are not finite {label(index, names)}: scale the loss less, clip, or "
                    "perturb in float32",
                    RuntimeWarning,
                    stacklevel=5,
                )

    def refuse_perturbed(self, tensors: Tensors, names: Sequence[str]) -> None:
        """Raises RuntimeError for a tensor that :func:`mark_perturbed` marked and nothing has changed since."""
        for index, tensor in enumerate(tensors):
            if tensor is None or tensor.is_inference() or getattr(tensor, _MARK, None) != version(tensor):
                continue
            message = (
                "expected new gradients or a new update, got one that a TIP has perturbed already"
                f" {label(index, names)}: call perturb_gradients() or attach() an optimizer, not both, once after "
                "each backward pass"
            )
            if tensor.device.type == "cpu":
                raise RuntimeError(message)
            self._once("perturbed", lambda: _warn(f"{message}. Fine if a CUDA graph has written new ones"))  # noqa: B023
            return

    def _once(self, what: object, say: Callable[[], None]) -> None:
        if what not in self._said:
            say()
            self._said.add(what)  # not if it raised: the next call is no better

    def _report(self, tensors: Tensors, names: Sequence[str]) -> None:
        """Says how many of the numbers of a message get noise."""
        mechanism = self._mechanism
        amounts, floors = mechanism.least_amounts()
        targets = dict(mechanism.targets())
        sent = reached = noised = 0
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            name, size = names[index], tensor.numel()
            sent += size
            std = amounts[name] if name in targets else 0.0
            floor = floors.get(name, 0.0)
            _check_dtype(std, tensor.dtype, label(index, names))
            _check_dtype(floor, tensor.dtype, label(index, names))
            reached += size if floor > 0 or std > 0 else 0
            noised += size if floor > 0 else int(mechanism.ratio * size) if std > 0 else 0
        wants_noise = mechanism.ratio > 0 and any(amount > 0 for amount in amounts.values())
        self._has_reached |= reached > 0
        if wants_noise and not self._has_reached:
            raise RuntimeError(
                "expected conv kernels larger than 1x1 to put noise into, got none among what is sent: all of it would "
                "be sent exactly; set floor_std, or unfreeze the layers"
            )
        is_little = noised == 0 or (wants_noise and 2 * reached < sent)
        level = logging.WARNING if is_little else logging.INFO
        rest = "; the rest is sent exactly, and floor_std would noise it" if noised < sent else ""
        logger.log(
            level,
            "noise in %.1f %% of the %d numbers of a message (conv kernels with a high band: %.1f %%)%s",
            100 * noised / max(sent, 1), sent, 100 * reached / max(sent, 1), rest,
        )  # fmt: skip


def mark_perturbed(tensors: Iterable[torch.Tensor | None]) -> None:
    """Has :meth:`CallChecks.refuse_perturbed` refuse them until somebody writes into them."""
    for tensor in tensors:
        if tensor is not None and not tensor.is_inference():
            setattr(tensor, _MARK, version(tensor))


def _check_dtype(amount: float, dtype: torch.dtype, where: str) -> None:
    """Raises ValueError for noise that overflows the dtype, or that is nothing beside its smallest number."""
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps
    if amount > 0 and not smallest <= amount < info.max / _LARGEST_NORMAL:
        raise ValueError(
            f"expected noise that {str(dtype).removeprefix('torch.')} can hold, from {smallest:.2g} to "
            f"{info.max / _LARGEST_NORMAL:.2g}, got {amount:g} for tensor {where}"
        )


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=7)


def _warn_of_changed_weights(name: str) -> None:
    _warn(
        f"the weights have changed between the forward pass and perturb_gradients() ({name}): if optimizer.step() came "
        "first, it used gradients without noise; call it afterwards, or attach() the optimizer"
    )


def _warn_of_scaled_gradients() -> None:
    if _has_idle_scaler():
        gc.collect()  # of a training that has ended there may be one that nobody holds any more
        if _has_idle_scaler():
            _warn(
                "expected unscaled gradients, but a GradScaler is at work that has unscaled none: call "
                "scaler.unscale_(optimizer) before perturb_gradients(), or the noise will be divided by its scale"
            )


def _has_idle_scaler() -> bool:
    """Whether among all objects of the process there are scalers at work, none of which has unscaled gradients."""
    scalers = [found for found in gc.get_objects() if issubclass(type(found), torch.amp.GradScaler)]
    at_work = [scaler for scaler in scalers if scaler.is_enabled() and scaler._scale is not None]
    unscaled = (state["stage"].name != "READY" for scaler in at_work for state in scaler._per_optimizer_states.values())
    return bool(at_work) and not any(unscaled)
