"""Tied parameters in an update: one tensor is perturbed, and its value copied to the other names."""

import dataclasses
from collections.abc import Sequence

import torch

from .._distributed.dtensor import is_dtensor, local
from .._op import memory, plan
from .._op.naming import label
from .._runtime.tracing import is_dry_run


@dataclasses.dataclass(frozen=True)
class Tie:
    """A tensor of an update, under another name of the parameter at an index."""

    name: str
    tensor: torch.Tensor
    index: int


def check_ties(tensors: Sequence[torch.Tensor | None], ties: Sequence[Tie], names: Sequence[str]) -> None:
    """Raises unless each tie can take the value of ``tensors[tie.index]``.

    Raises:
        TypeError: a tensor is not strided or of another dtype than the gradients may have.
        ValueError: it overlaps itself, shares memory with another than the one it is a copy of, or is another DTensor.
    """
    if not ties or is_dry_run():
        return
    named = [(label(i, names), local(tensor)) for i, tensor in enumerate(tensors) if tensor is not None]
    for tie in ties:
        where = f"[{tie.index}] ({tie.name})"
        if tie.tensor is tensors[tie.index]:
            continue
        if is_dtensor(tie.tensor):
            raise ValueError(f"expected one DTensor under all names of a tied parameter, got another for grads{where}")
        plan.check_grad(plan.meta(tie.tensor), tie.tensor.device, where)
        if not _is_same_memory(tie.tensor, tensors[tie.index]):
            named.append((where, tie.tensor))
    named = [(where, tensor) for where, tensor in named if tensor.layout is torch.strided and tensor.numel()]
    extents = [memory.extent(tensor.shape, tensor.stride(), tensor.dtype) for _, tensor in named]
    memory.check_disjoint([tensor for _, tensor in named], extents, lambda i: named[i][0])


def copy_to_ties(tensors: Sequence[torch.Tensor | None], ties: Sequence[Tie]) -> None:
    """Gives each tie the value of ``tensors[tie.index]``."""
    for tie in ties:
        source = tensors[tie.index]
        assert source is not None  # the first name of the parameter brought it
        if tie.tensor is source:
            continue
        with torch.inference_mode(tie.tensor.is_inference()):
            tie.tensor.detach().copy_(source)


def _is_same_memory(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    return b is not None and (a.data_ptr(), a.stride(), a.dtype) == (b.data_ptr(), b.stride(), b.dtype)
