"""The tie between an optimizer and the TIP that perturbs what its steps use."""

import functools
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_STEP = torch.optim.Optimizer.profile_hook_step(lambda _optimizer: None).__code__
"""The code that runs an optimizer's hooks around its step."""


class Attachment:
    """Has ``perturb`` called in each step of an optimizer, before the gradients are used; ``remove()`` ends it.

    With a closure (LBFGS) it is called after each evaluation. A step within a step, as of a subclass that calls
    ``super().step()``, uses gradients that are perturbed already.

    A copied or unpickled optimizer is not attached. It refuses to step until a TIP is attached to it; copies of such a
    copy are not watched.

    Args:
        optimizer: what to attach to.
        perturb: perturbs the gradients of the optimizer's parameters; what it raises stops the step.
        scaler: unscales them first.

    Raises:
        RuntimeError: another attachment has this optimizer.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        perturb: Callable[[torch.optim.Optimizer], None],
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if optimizer in _ATTACHED:
            raise RuntimeError(
                "expected an optimizer that no TIP is attached to, got one whose gradients would get noise twice: "
                "call remove() on what the first attach() returned"
            )
        self._perturb = perturb
        self._scaler = scaler
        self._has_perturbed = False  # in the outermost step of this optimizer that is running
        self._optimizer = weakref.ref(optimizer)
        _allow(optimizer)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        optimizer.__getstate__ = functools.partial(_state_of_copy, weakref.ref(optimizer))  # type: ignore[method-assign]
        _ATTACHED[optimizer] = self

    def remove(self) -> None:
        """From now on the optimizer uses gradients as they are."""
        for handle in self._handles:
            handle.remove()
        optimizer = self._optimizer()
        if optimizer is not None and _ATTACHED.get(optimizer) is self:
            del _ATTACHED[optimizer]
            del optimizer.__getstate__

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.remove()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Perturbs what the step will use; if that is a closure's work, returns the step's new arguments."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer
        if callable(closure) and self._scaler is not None and self._scaler.is_enabled():
            raise RuntimeError(
                "expected a step without a closure, since a GradScaler is attached, which unscales gradients before "
                "the step only: call the closure first, then step()"
            )
        if self._scaler is not None:
            _unscale(optimizer, self._scaler)
        if getattr(optimizer, "grad_scale", None) is not None or kwargs.get("grad_scaler") is not None:
            raise RuntimeError(
                "expected unscaled gradients, got those of a fused optimizer that unscales them in its step: "
                "attach(optimizer, scaler=scaler), or call scaler.unscale_(optimizer) before scaler.step(optimizer)"
            )
        if not _is_within_step(optimizer):
            self._has_perturbed = False
        if getattr(closure, "_perturbs", None) is self:
            return None
        if not callable(closure):  # None, or an argument of the optimizer's own
            if not self._has_perturbed:
                self._perturb_now(optimizer)
            return None
        closure = self._perturbing(optimizer, closure)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": closure}
        return (args[0], closure, *args[2:]), kwargs

    def _after_step(self, optimizer: torch.optim.Optimizer, _args: Args, _kwargs: Kwargs) -> None:
        if not self._has_perturbed and not _is_within_step(optimizer):
            raise RuntimeError(
                "expected an optimizer that evaluates its closure, got one that did not: it has used gradients that "
                "were not perturbed, so send nothing of this step, and call step() without a closure"
            )

    def _perturb_now(self, optimizer: torch.optim.Optimizer) -> None:
        self._perturb(optimizer)
        self._has_perturbed = True

    def _perturbing(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """``closure``, then perturbing the gradients that it leaves."""

        @functools.wraps(closure)
        def evaluate() -> Any:
            loss = closure()
            self._perturb_now(optimizer)
            return loss

        evaluate._perturbs = self  # type: ignore[attr-defined]
        return evaluate


def _unscale(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """What ``scaler.step`` does, unless it has, for optimizers that would do it in their step."""
    if not scaler.is_enabled() or scaler._scale is None:  # it has scaled no loss
        return
    if scaler._per_optimizer_states[id(optimizer)]["stage"].name == "READY":
        scaler.unscale_(optimizer)
        if hasattr(optimizer, "grad_scale"):
            optimizer.grad_scale = None


_ATTACHED: "weakref.WeakKeyDictionary[torch.optim.Optimizer, Attachment]" = weakref.WeakKeyDictionary()


def _is_within_step(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of this optimizer was running already when the one at hand began."""
    if torch.compiler.is_compiling():
        return False
    steps = 0
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _STEP and frame.f_locals["args"][0] is optimizer:
            steps += 1
        frame = frame.f_back  # type: ignore[assignment]
    return steps > 1


def _state_of_copy(optimizer: "weakref.ref[torch.optim.Optimizer]") -> dict[str, Any]:
    """What a copy or a pickle of an attached optimizer takes along: instead of our hook one that refuses to step."""
    original = optimizer()
    assert original is not None  # it is being copied
    return {
        **type(original).__getstate__(original),
        "_optimizer_step_pre_hooks": OrderedDict({_REFUSAL: _refuse_step}),
    }


_REFUSAL = -1  # torch counts its hooks from 0


def _refuse_step(_optimizer: torch.optim.Optimizer, _args: Args, _kwargs: Kwargs) -> None:
    raise RuntimeError(
        "expected an optimizer that a TIP is attached to, got a copy of one, which is not attached itself: attach() a "
        "TIP to it, or build an optimizer anew and load_state_dict() into it to train without protection"
    )


def _allow(optimizer: torch.optim.Optimizer) -> None:
    """Ends the refusal of a copy."""
    optimizer._optimizer_step_pre_hooks.pop(_REFUSAL, None)
