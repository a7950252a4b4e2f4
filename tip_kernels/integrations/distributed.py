"""torch.distributed: one client on several devices, or ranks that do not trust one another.

* One client on several devices (``DistributedDataParallel``, FSDP2): :func:`share_key` once on every rank, then the
  TIP as ever. The noise comes after the reduction, the same on all ranks.
* A client on each rank of ``DistributedDataParallel``: :class:`LocalPrivacy` and :func:`local_privacy_hook`. Clipping
  and noise come before the all-reduce, with a key of each rank's own, so that no rank sees what another has computed.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .._ranks import Ranks
from ..defense import TIP

__all__ = ["LocalPrivacy", "local_privacy_hook", "share_key"]


def share_key(defense: TIP, process_group: dist.ProcessGroup | None = None) -> None:
    """Makes the ranks of a process group one client: all take the key and step of its first rank.

    Call it once on every rank, after the process group is initialized and before the first perturb call. From then on
    all ranks make the same calls, in the same order. Each call takes the mean of the ranks' scores first, and raises
    on every rank if their keys or steps differ, so that parameters that are equal stay equal to the last bit. The key
    goes through the process group once, as clear as gradients do.

    Args:
        defense: of this rank, with settings that are equal on all ranks.
        process_group: at least all ranks among which the gradients are reduced or sharded; the default group if absent.

    Raises:
        TypeError: not a TIP.
        RuntimeError: no process group is initialized, or :class:`LocalPrivacy` has this TIP.
    """
    _check(defense)
    if defense._sharing.has_hook:
        raise RuntimeError("expected a TIP without local_privacy_hook, for which each rank needs a key of its own")
    group = _initialized(process_group)
    device = next(defense.model.parameters()).device
    first = dist.get_global_rank(group, 0)
    defense.rng.exchange(lambda state: dist.broadcast(state, src=first, group=group), device)
    defense._sharing.share(Ranks.of(group))


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
        wrapper = self._defense._sharing.find_wrapper()
        if wrapper is None:
            raise RuntimeError("expected DistributedDataParallel around the TIP's model, got none")
        problem = None
        try:
            _refuse_what_passes_by(wrapper)
            self._perturb(waiting)
        except Exception as error:  # the other ranks must not wait for this one
            problem = error
        self._check_ranks(problem, wrapper.process_group, waiting[0].buffer.device)
        for bucket in waiting:
            bucket.buffer.div_(wrapper.process_group.size())
            dist.all_reduce(bucket.buffer, group=wrapper.process_group)
            bucket.future.set_result(bucket.buffer)

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

    def _check_ranks(self, problem: Exception | None, group: dist.ProcessGroup, device: torch.device) -> None:
        """Raises, on every rank, if one of them has a problem, or two have the same key."""
        own = torch.tensor([problem is not None, self._defense.rng.fingerprint()], dtype=torch.int64, device=device)
        gathered = [torch.empty_like(own) for _ in range(group.size())]
        dist.all_gather(gathered, own, group=group)
        if problem is not None:
            raise problem
        rows = [row.tolist() for row in gathered]
        failed = [rank for rank, (has_failed, _) in enumerate(rows) if has_failed]
        if failed:
            raise RuntimeError(
                f"expected gradients with noise from every rank, got errors on {failed}: nothing is sent"
            )
        if len({key for _, key in rows}) < len(rows):
            raise RuntimeError(
                "expected a key of each rank's own, got the same on two: the difference of what they send would have "
                "no noise left; let each TIP make its key"
            )


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
