"""What a TIP knows of other ranks: whether they hold the same message, and what they then have to exchange."""

import contextlib
import functools
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .._budget.spending import Spending
from .._op.plan import Tensors
from .._runtime.tracing import call_untraced, is_dry_run, untraced
from .._tip.layout import Layout, refuse_flattened
from .._tip.mechanism import Mechanism
from ..rng import NoiseRNG
from ..saliency import GradCAM
from . import dtensor
from .ranks import Ranks, is_distributed, number_of

_HELP = (
    "call share_key(defense) of tip_kernels.integrations.distributed once on every rank, after the process group is "
    "initialized, for one client on several devices"
)


Method = TypeVar("Method", bound=Callable[..., None])


def on_all_ranks(method: Method) -> Method:
    """For a method of TIP that perturbs: what it raises on one rank before anything has changed, it raises on all."""

    @functools.wraps(method)
    def call(tip: Any, *args: Any, **kwargs: Any) -> None:
        sharing: Sharing = tip._sharing
        if sharing.ranks is None or is_dry_run():
            method(tip, *args, **kwargs)
        else:
            sharing.call_together(functools.partial(method, tip, *args, **kwargs))

    return call  # type: ignore[return-value]


class Sharing:
    """Of one TIP; ``ranks``, once :meth:`share` has been called, hold one message with one key.

    In each call they meet twice: before they exchange scores, and before anything changes. A rank that fails goes to
    the next meeting all the same, so that none waits for it in vain and none goes on without it.

    ``has_hook`` says that a communication hook perturbs the gradients of this rank before they meet the others'.
    """

    def __init__(self, layout: Layout, cam: GradCAM, mechanism: Mechanism) -> None:
        self.ranks: Ranks | None = None
        self.has_hook = False
        self._layout = layout
        self._cam = cam
        self._mechanism = mechanism
        self._wrapper: weakref.ref[DistributedDataParallel] | None = None
        self._has_searched = False
        self._is_awaited = False  # at a meeting of the call that is under way

    def share(self, ranks: Ranks) -> None:
        """From now on all of these ranks make the same calls."""
        self.ranks = ranks
        self._mechanism.has_met = True

    @untraced
    def call_together(self, call: Callable[[], None]) -> None:
        """Makes a perturb call of all ranks, or a part of one."""
        call_untraced(call if self._is_awaited else functools.partial(self._call_together, call))

    def _call_together(self, call: Callable[[], None]) -> None:
        self._is_awaited = True
        try:
            call()
        except Exception as error:
            if self._is_awaited:
                self._meet(error)
            raise
        else:
            if self._is_awaited:  # it has found nothing to perturb
                self._meet()
        finally:
            self._is_awaited = False

    def _meet(self, error: Exception | None = None, call: int = 0, rng: NoiseRNG | None = None) -> None:
        assert self.ranks is not None  # asked before
        self._is_awaited = False  # if this raises, it does on every rank
        self.ranks.meet(error, call, rng)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """What one rank raises in here after the noise has been added, all do at its end."""
        return contextlib.nullcontext() if self.ranks is None or is_dry_run() else self.ranks.together()

    def spend(self, spending: Spending | None, device: torch.device) -> None:
        """Before anything changes: counts the message on the first of the ranks, then on the others.

        Raises:
            BudgetExceeded: it would exceed the budget.
            RuntimeError, OSError: it cannot be counted, or another rank cannot go on.
        """
        if self.ranks is None or is_dry_run():
            if spending is not None:
                spending.spend(device)
            return
        if spending is not None and self.ranks.is_first:
            spending.spend(device)
        self._meet()
        if spending is not None and not self.ranks.is_first:
            spending.follow()

    def check_gradients(self) -> None:
        """Raises RuntimeError if these gradients are other ranks' too, who would add other noise to them.

        Also if a communication hook has perturbed them.
        """
        if self.has_hook:
            raise RuntimeError(
                "expected the communication hook alone to perturb gradients, got a call for those that it has made: "
                "do not attach() an optimizer or call perturb_gradients() with local_privacy_hook"
            )
        if is_distributed():
            self._check_wrapper()

    def scores(self, tensors: Tensors, convs: Sequence[int]) -> dict[int, torch.Tensor]:
        """By index: what the hooks have added up on this rank, or on all that share a key.

        Raises:
            RuntimeError: there are parts of gradients on ranks without the key, or the ranks have different keys,
                steps or calls.
        """
        if not torch.compiler.is_compiling() and not self._covers(dtensor.ranks_apart(tensors)):
            raise RuntimeError(f"expected one key for all ranks that hold parts of one message: {_HELP}")
        if self.ranks is None:
            return self._cam.scores
        return self._cam.scores if is_dry_run() else self._exchange(tensors, convs)

    @untraced
    def _exchange(self, tensors: Tensors, convs: Sequence[int]) -> dict[int, torch.Tensor]:
        present = [(index, tuple(tensor.shape)) for index, tensor in enumerate(tensors) if tensor is not None]
        self._meet(None, number_of(present, *convs), self._mechanism.options.rng)
        self._is_awaited = True  # once more, by spend()
        ranks = self.ranks
        assert ranks is not None  # asked before
        device = next(tensor.device for tensor in tensors if tensor is not None)
        channels = {index: self._layout.channels[index] for index in convs if tensors[index] is not None}
        own = {index: self._cam.scores[index] for index in channels if index in self._cam.scores}
        return ranks.mean_scores(own, channels, device)

    @untraced
    def _check_wrapper(self) -> None:
        parameters = [slot.holder.get(slot.key) for slot in self._layout.all.slots]
        refuse_flattened([parameter for parameter in parameters if parameter is not None])
        wrapper = self._find_wrapper()
        if wrapper is None or wrapper.process_group.size() == 1:
            return
        if not self._covers(Ranks.of(wrapper.process_group)):
            raise RuntimeError(
                f"expected the {wrapper.process_group.size()} ranks of DistributedDataParallel to share a key, or each "
                f"would add other noise to the same gradients and they would diverge: {_HELP}, or register "
                "local_privacy_hook in place of attach() and perturb_gradients() for noise before the all-reduce"
            )

    def _covers(self, needed: Ranks | None) -> bool:
        return needed is None or (self.ranks is not None and self.ranks.covers(needed))

    def _find_wrapper(self) -> DistributedDataParallel | None:
        """What reduces the gradients of this model: seen by the hooks in a forward pass, or looked for once."""
        if self._cam.wrapper is not None:
            self._wrapper = self._cam.wrapper
        if self._wrapper is None and not self._has_searched:  # compiled models call no hook
            self._has_searched = True
            self._wrapper = wrapper_of([slot.holder.get(slot.key) for slot in self._layout.all.slots])
        return None if self._wrapper is None else self._wrapper()


def unwrapped(model: nn.Module) -> nn.Module:
    """What DistributedDataParallel wraps, whose forward pass waits for no backward pass."""
    module: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return module


def wrapper_of(parameters: Sequence[torch.Tensor | None]) -> "weakref.ref[DistributedDataParallel] | None":
    """Looks through all objects of the process for a wrapper with one of these parameters."""
    own = {id(parameter) for parameter in parameters if parameter is not None}
    for found in gc.get_objects():
        if not issubclass(type(found), DistributedDataParallel) or "_modules" not in vars(found):
            continue
        if any(id(parameter) in own for parameter in found.parameters()):
            return weakref.ref(found)
    return None
