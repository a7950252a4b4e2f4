"""``perturb_in_graph_``, the op that ``torch.compile`` gets for ``perturb_``: its numbers lie in a tensor.

Dynamo compiles anew for every other number that an op takes, and gives up after eight. What a training loop may change
from step to step goes in a tensor instead, on the CPU, where it is read when the graph runs.
"""

from collections.abc import Callable
from typing import Any

import torch

from . import schemas
from .plan import select_count

_SUFFIXES = ("", *(f"_{backend}" for backend in schemas.PYTHON_BACKENDS))
_SCHEMA = schemas.PERTURB_SCHEMA.replace(") ->", ", Tensor numbers, Tensor[] forms, int[]? form_ids) ->")


def numbers_of(keep: float, max_grad_norm: float | None, ratio: float) -> torch.Tensor:
    """The op's ``numbers``: float64 [3]. Products, which Dynamo traces with the number left open, as no other fill."""
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    return torch.cat([one * keep, one * (0.0 if max_grad_norm is None else max_grad_norm), one * ratio])


def _kernel(suffix: str) -> Callable[..., None]:
    """Clips and perturbs; of ``selected``, in which a call has all channels, it takes the ratio."""

    def kernel(*args: Any) -> None:
        *given, numbers, forms, form_ids = args
        arguments = schemas.PerturbArguments(*given)
        keep, max_grad_norm, ratio = numbers.tolist()
        arguments = arguments._replace(keep=keep, selected=[select_count(ratio, n) for n in arguments.selected])
        ops = torch.ops.tip_kernels
        clip = schemas.Clip(getattr(ops, f"clip_scale{suffix}"), max_grad_norm, forms, form_ids)
        schemas.clip_and_perturb(getattr(ops, f"perturb{suffix}_"), arguments, clip if max_grad_norm else None)

    return kernel


def _fake(*args: Any) -> None:
    *given, _numbers, forms, _form_ids = args
    schemas.check_one_device(*given, forms)


for _suffix in _SUFFIXES:
    schemas.define(f"perturb_in_graph{_suffix}_", _SCHEMA, _fake)
    schemas.LIBRARY.impl(f"perturb_in_graph{_suffix}_", _kernel(_suffix), "CompositeExplicitAutograd")
