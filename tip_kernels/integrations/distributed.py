"""torch.distributed: one client on several devices, or ranks that do not trust one another.

* One client on several devices (``DistributedDataParallel``, FSDP2): :func:`share_key` once on every rank, then the
  TIP as ever. The noise comes after the reduction, the same on all ranks.
* A client on each rank of ``DistributedDataParallel``: :class:`LocalPrivacy` and :func:`local_privacy_hook`. Clipping
  and noise come before the all-reduce, with a key of each rank's own, so that no rank sees what another has computed.
"""

import socket
import weakref
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .._distributed.ranks import Ranks, number_of
from .._distributed.sharing import wrapper_of
from ..defense import TIP

__all__ = ["LocalPrivacy", "local_privacy_hook", "share_key"]


def share_key(defense: TIP, process_group: dist.ProcessGroup | None = None) -> None:
    """Makes the ranks of a process group one client: all take the key and step of its first rank.

    Call it once on every rank, after the process group is initialized and before the first perturb call, and again
    where only some ranks have loaded a saved state. From then on all ranks make the same calls, in the same order. Each
    call takes the mean of the ranks' scores first, so that parameters that are equal stay equal to the last bit. If it
    fails on one rank before anything changes there, or if their keys, steps or calls differ, it raises on every rank.
    The key goes through the process group once, as clear as gradients do.

    A message of all ranks is one for a privacy budget: the first rank counts it, in its file or in memory, before
    anything changes, and the others follow in memory. All begin with the most that one of them has counted.

    Args:
        defense: of this rank, with settings that are equal on all ranks; a budget with a path on the first rank only.
        process_group: at least all ranks among which the gradients are reduced or sharded; the default group if absent.

    Raises:
        TypeError: not a TIP.
        ValueError: a budget's path on another rank than the first, or settings that differ, on any rank.
        RuntimeError: no process group is initialized, :class:`LocalPrivacy` has this TIP, or another rank has an error.
    """
    _check(defense)
    group = _initialized(process_group)
    ranks = Ranks.of(group)
    with ranks.together():
        _check_shareable(defense, ranks)
        told = _told(defense)
    rows: list[Any] = [None] * ranks.size
    dist.all_gather_object(rows, told, group=group)
    with ranks.together():
        _check_equal([row.settings for row in rows])
        for row in rows:
            if defense.budget is not None:
                defense.budget.load_state_dict(row.counted)
    device = next(defense.model.parameters()).device
    defense.rng.exchange(lambda state: dist.broadcast(state, src=ranks.first, group=group), device)
    defense._sharing.share(ranks)


class LocalPrivacy:
    """The state of :func:`local_privacy_hook`: perturbs what a rank sends to the others, by a TIP of its own.

        model = DistributedDataParallel(net, broadcast_buffers=False)
        model.register_comm_hook(LocalPrivacy(TIP(net, ...)), local_privacy_hook)

    Clipping is of all gradients of a backward pass together, so all buckets wait for the last one: the hook does not
    overlap communication with the backward pass. With ``no_sync()`` the sum of several passes is clipped.
    Do not ``attach`` an optimizer as well. What is sent besides gradients is not covered: with
    ``find_unused_parameters=True`` DDP tells which parameters a rank has used.

    Args:
        defense: of this rank, with a key of its own, as a TIP has unless it is given one.

    Raises:
        TypeError: not a TIP.
        ValueError: the model has ``SyncBatchNorm``, which sends statistics of the images as they are.
        RuntimeError: the ranks of this TIP share a key.

    A budget counts what this rank sends, so that each has a file of its own, or none.
    """

    def __init__(self, defense: TIP) -> None:
        _check(defense)
        if defense._sharing.ranks is not None:
            raise RuntimeError("expected a TIP with a key of its own, got one whose key share_key() has shared")
        for name, module in defense.model.named_modules():
            if isinstance(module, nn.SyncBatchNorm):
                raise ValueError(f"expected no SyncBatchNorm, which sends statistics without noise, got one ({name})")
        defense._sharing.has_hook = True
        self._defense = defense
        self._waiting: list[_Waiting] = []
        self._wrapper: weakref.ref[DistributedDataParallel] | None = None
        self._are_apart = False  # this rank and all others, by key and budget

    def _add(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        if bucket.index() == 0:  # what waits is of a backward pass that failed
            self._waiting.clear()
        buffer = bucket.buffer()
        future: torch.futures.Future[torch.Tensor]
        future = torch.futures.Future(devices=[buffer.device] if buffer.is_cuda else None)
        self._waiting.append(_Waiting(buffer, bucket.parameters(), bucket.gradients(), future))
        if bucket.is_last():
            waiting, self._waiting = self._waiting, []
            self._reduce(waiting)
        return future

    def _reduce(self, waiting: "list[_Waiting]") -> None:
        wrapper = self._find_wrapper(waiting[0].parameters)
        ranks = Ranks.of(wrapper.process_group)
        if not self._are_apart:
            self._check_apart(wrapper.process_group)
        with ranks.together():
            _refuse_what_passes_by(wrapper)
            self._perturb(waiting)
        for bucket in waiting:
            bucket.buffer.div_(ranks.size)
            dist.all_reduce(bucket.buffer, group=wrapper.process_group)
            bucket.future.set_result(bucket.buffer)

    def _find_wrapper(self, parameters: list[torch.Tensor]) -> DistributedDataParallel:
        """What has called the hook."""
        wrapper = None if self._wrapper is None else self._wrapper()
        if wrapper is None:
            self._wrapper = wrapper_of(parameters)
            wrapper = None if self._wrapper is None else self._wrapper()
        assert wrapper is not None
        return wrapper

    def _perturb(self, waiting: "list[_Waiting]") -> None:
        layout = self._defense._layout
        layout.check_gradients()
        indices = {id(slot.holder.get(slot.key)): slot.index for slot in layout.all.slots}
        grads: list[torch.Tensor | None] = [None] * len(layout.parameter_names)
        for bucket in waiting:
            for parameter, grad in zip(bucket.parameters, bucket.grads, strict=True):
                if id(parameter) not in indices:
                    raise RuntimeError(
                        "expected DistributedDataParallel to have no more parameters than the TIP's model, got one of "
                        f"shape {tuple(parameter.shape)} that would be sent as it is"
                    )
                grads[indices[id(parameter)]] = grad
        self._defense._perturb(grads, layout.all.convs, layout.parameter_names)

    def _check_apart(self, group: dist.ProcessGroup) -> None:
        """Raises RuntimeError, on every rank, if two of them have one key, or one file for their budgets."""
        budget = self._defense.budget
        path = None if budget is None else budget.path
        file = None if path is None else number_of(socket.gethostname(), path)
        rows: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(rows, (self._defense.rng.fingerprint(), file), group=group)
        keys, files = [key for key, _ in rows], [file for _, file in rows if file is not None]
        if len(set(keys)) < len(keys):
            raise RuntimeError(
                "expected a key of each rank's own, got the same on two: the difference of what they send would have "
                "no noise left; let each TIP make its key"
            )
        if len(set(files)) < len(files):
            raise RuntimeError(
                "expected a budget's file of each rank's own, got the same on two, each of which is a client: it would "
                "count the messages of both as if one had sent them; put the rank into the path"
            )
        self._are_apart = True


def local_privacy_hook(
    state: LocalPrivacy,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """A communication hook of ``DistributedDataParallel``: clips and perturbs, then averages over the ranks.

    Raises:
        RuntimeError, ValueError: in the backward pass and on every rank, before any gradient is sent: the perturb call
            fails on one of them, two have the same key, or something of the model would be sent past the hook.
    """
    return state._add(bucket)


class _Waiting(NamedTuple):
    """A bucket that waits for the last one; ``grads`` are views of ``buffer``."""

    buffer: torch.Tensor
    parameters: list[torch.Tensor]
    grads: list[torch.Tensor]
    future: torch.futures.Future[torch.Tensor]


def _refuse_what_passes_by(wrapper: DistributedDataParallel) -> None:
    if wrapper.broadcast_buffers and next(wrapper.module.buffers(), None) is not None:
        raise ValueError(
            "expected DistributedDataParallel(..., broadcast_buffers=False), got one that sends the first rank's "
            "buffers, such as running statistics, without noise"
        )
    if wrapper._delay_all_reduce_params:
        raise ValueError("expected no param_to_hook_all_reduce, whose parameters are reduced without the hook")


class _Told(NamedTuple):
    """What a rank tells the others about its TIP, by which they must not differ, and what its budget has counted."""

    settings: dict[str, str]
    counted: dict[str, Any] | None


def _told(defense: TIP) -> _Told:
    budget, masks = defense.budget, defense._settings["masks"]
    facts = {
        **defense._settings,
        "rng": None,  # share_key() makes it the same
        "budget": None if budget is None else budget.terms,
        "masks": masks and {size: mask.tolist() for size, mask in masks.items()},
    }
    settings = {name: repr(fact) for name, fact in facts.items()}
    return _Told(settings, None if budget is None else budget.state_dict())


def _check_equal(settings: list[dict[str, str]]) -> None:
    """Raises ValueError unless all ranks have the settings of the first."""
    for rank, own in enumerate(settings):
        for name, value in own.items():
            if value != settings[0][name]:
                raise ValueError(
                    f"expected a TIP with the same {name} on all ranks, got {settings[0][name]} on the first and "
                    f"{value} on rank {rank} of the group"
                )


def _check_shareable(defense: TIP, ranks: Ranks) -> None:
    if defense._sharing.has_hook:
        raise RuntimeError("expected a TIP without local_privacy_hook, for which each rank needs a key of its own")
    if defense.budget is not None and defense.budget.path is not None and not ranks.is_first:
        raise ValueError(
            f"expected a budget with a path on rank {ranks.first} only, which counts for all ranks, got one on rank "
            f"{dist.get_rank()}: build it there without a path, by the same arguments otherwise"
        )


def _check(defense: object) -> None:
    if not isinstance(defense, TIP):
        raise TypeError(f"expected defense to be a TIP, got {type(defense).__name__}")


def _initialized(process_group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("expected an initialized process group, got none: call init_process_group() first")
    group: dist.ProcessGroup | None = dist.group.WORLD if process_group is None else process_group
    if group is None or dist.get_rank(group) < 0:
        raise RuntimeError("expected a process group with this rank")
    return group
