"""The public functions: what they compute and accept, documented and checked; the work is done by the ops."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.autograd.graph import increment_version

from . import _arguments, _dispatch
from ._arguments import Shard
from ._tracing import is_dry_run, refuse_recorders
from .rng import NoiseRNG, Secret

__all__ = ["Shard", "channel_saliency", "perturb", "perturb_"]


def perturb_(
    grads: Sequence[torch.Tensor | None],
    scores: Sequence[torch.Tensor | None],
    *,
    ratio: float | Sequence[float],
    std: float | torch.Tensor,
    rng: NoiseRNG,
    cutoff: float = 0.5,
    masks: Mapping[Sequence[int], torch.Tensor] | None = None,
    keep: float = 1.0,
    floor_std: float | torch.Tensor = 0.0,
    grad_scale: float | torch.Tensor | None = None,
    shards: Sequence[Shard | None] | None = None,
    names: Sequence[str] | None = None,
    backend: str | None = None,
) -> None:
    """Applies TIP (arXiv 2602.11633) to the gradients of a whole model, in place and in one op.

    Of every tensor with scores, the ``ceil(ratio * C)`` highest-scored output channels get Gaussian noise in the
    high band of their kernels; with ``floor_std`` every other coordinate gets noise too. Waits for no device, so
    after a first call it can be captured in a CUDA graph; each replay draws new noise. Without floor and scale,
    tensors without scores and 1x1 kernels are not looked at, let alone changed.

    Args:
        grads: gradients or updates on one device; float32, float64, bfloat16 or float16, any strides without
            overlap. ``[C, M, *kernel_size]`` (C output channels) for convolutions, any shape for others. None
            and empty tensors are skipped but keep their place, which is part of the noise address.
        scores: for each gradient a float32 tensor ``[C]`` on its device (higher: more sensitive; NaN: highest;
            ties: lower index first), or None for a tensor that is no conv weight: it gets scale and floor only.
        ratio: share of channels to select, in [0, 1]; one for all, or one for each gradient.
        std: noise of one coefficient of the orthonormal high-band basis, in gradient units, at least 0. A float,
            or a float32 tensor ``[len(grads)]`` on the device, whose values are not checked.
        rng: key and step; the call uses one step.
        cutoff: bins of normalised radius above it are the high band, in [0, 1). Kernels with an empty high band
            (1x1) get no ``std`` noise.
        masks: high bands by kernel size, ``{(3, 3): mask}``, bool in ``rfftn`` layout on the CPU, instead of
            ``cutoff``. Not under ``torch.compile``.
        keep: what is left of the high band under the noise, in [0, 1]: 1 adds noise (the paper), 0 replaces.
        floor_std: noise on every coordinate that ``std`` does not cover; given like ``std``. The results are multiples
            of a step below a thousandth of the least noise, so that their low bits tell nothing of the gradients.
        grad_scale: multiplies every gradient first (clipping, AMP unscaling). A finite float, or a float32 tensor
            of shape ``[]`` on the device, whose value is not checked.
        shards: for each gradient its place in the whole, or None if it is the whole. The scores of a shard are
            those of all channels.
        names: names of the tensors, for error messages.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``; None takes the fastest that can run.

    Raises:
        TypeError: an argument or gradient of the wrong type or dtype.
        ValueError: a wrong shape, device, stride or value, an unknown backend.
        RuntimeError: the explicit backend cannot run; the message says why.
        The message names the argument and the layer, and nothing has changed.
    """
    call = checked_call(
        grads, scores, ratio=ratio, std=std, rng=rng, cutoff=cutoff, masks=masks, keep=keep, floor_std=floor_std,
        grad_scale=grad_scale, shards=shards, names=names, backend=backend,
    )  # fmt: skip
    call.run()


def perturb(
    grads: Sequence[torch.Tensor | None], scores: Sequence[torch.Tensor | None], **options: object
) -> list[torch.Tensor | None]:
    """Like :func:`perturb_`, on copies: returns the perturbed tensors (None where None was given)."""
    _arguments.check_lists(grads, scores)
    copies = [grad.detach().clone() if isinstance(grad, torch.Tensor) else grad for grad in grads]
    perturb_(copies, scores, **options)  # type: ignore[arg-type]
    return copies


def channel_saliency(activation_grad: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """The Grad-CAM sensitivity of every channel: ``sum_n |mean_space(activation_grad[n, c])|``.

    Grad-CAM (Selvaraju et al. 2017, eq. 1) weights; TIP (arXiv 2602.11633, section 4) sums them over the batch.
    The absolute value is taken per sample, because behind a batch norm the batch sum of the gradient is zero.

    Args:
        activation_grad: gradient of a class logit or loss by a layer's output, ``[N, C, *spatial]``, float32,
            float64, bfloat16 or float16; contiguous or channels_last are read once as they lie.
        backend: see :func:`perturb_`.

    Returns:
        float32 tensor ``[C]`` on the same device.

    Raises:
        TypeError: not a tensor, or of another dtype or layout.
        ValueError: fewer than 2 dimensions, an unknown backend.
        RuntimeError: the explicit backend cannot run.
    """
    _arguments.check_activation_grad(activation_grad)
    with torch.no_grad():
        return _dispatch.saliency_op(backend, activation_grad.device)(activation_grad)


class Call(NamedTuple):
    """An op and its checked arguments, in the order of its schema in ``_ops.py``; the state is out of sight."""

    op: Callable[..., None]
    grads: list[torch.Tensor]
    scores: list[torch.Tensor]
    selected: list[int]
    tensor_ids: list[int]
    basis_ids: list[int]
    bases: list[torch.Tensor]
    high_dims: list[int]
    std: torch.Tensor
    floor_std: torch.Tensor | None
    grad_scale: torch.Tensor | None
    secret: Secret
    keep: float
    rounds: int
    shards: list[int] | None

    def arguments(self) -> tuple:
        """Those of the op, with the key."""
        return tuple(value.tensor if isinstance(value, Secret) else value for value in self[1:])

    def run(self) -> None:
        """Calls the op, and tells autograd that the gradients have changed, which compiled kernels do not."""
        if torch.compiler.is_compiling():
            self._run()
            return
        if is_dry_run():
            self._check_fake()
            return
        try:
            self._run()
        except BaseException as error:
            # The frames below hold the key, which a traceback that prints variables would show.
            raise error.with_traceback(None) from None
        finally:  # of an interrupted call too: autograd must not use what may have changed
            increment_version([grad for grad in self.grads if not grad.is_inference()])

    def _check_fake(self) -> None:
        if any(type(grad) in (torch.Tensor, torch.nn.Parameter) for grad in self.grads):
            raise RuntimeError("expected fake gradients under FakeTensorMode, got real ones, which get no noise there")

    def _run(self) -> None:
        with torch.no_grad():
            self.op(*self.arguments())


def checked_call(grads, scores, *, ratio, std, rng, cutoff, masks, keep, floor_std, grad_scale, shards, names, backend):
    """What ``perturb_`` runs, everything checked and nothing changed."""
    refuse_recorders()
    if not isinstance(rng, NoiseRNG):
        raise TypeError(f"expected rng to be a NoiseRNG, got {type(rng).__name__}")
    names = None if names is None else tuple(names)
    has_floor = isinstance(floor_std, torch.Tensor) or floor_std != 0
    _arguments.check_lists(grads, scores)
    places: Sequence[int] = range(len(grads))
    if not has_floor and grad_scale is None:
        places = _arguments.places_of_high_bands(grads, scores, masks)
    plan = _arguments.plan_for(
        len(grads),
        places,
        _arguments.describe(grads, places, "grads", names),
        _arguments.describe(scores, places, "scores", names),
        _arguments.settings(ratio, cutoff, masks, shards, names),
    )
    live = [grads[i] for i in plan.live]
    if not torch.compiler.is_compiling():
        _arguments.check_disjoint(live, plan, names)
    device = plan.device or _device_of_nothing(grads, rng)
    std = _arguments.amounts(std, "std", len(grads), device)
    floor = _arguments.amounts(floor_std, "floor_std", len(grads), device) if has_floor else None
    factor = _arguments.scale(grad_scale, device)
    keep = _arguments.keep_factor(keep)
    op = _dispatch.perturb_op(backend, device)
    live_scores = [std if scores[i] is None else scores[i] for i in plan.live]
    for position in plan.scattered:
        live_scores[position] = live_scores[position].contiguous()
    return Call(
        op, live, live_scores, plan.selected, plan.tensor_ids, plan.basis_ids, plan.bases, plan.high_dims,
        std, floor, factor, Secret(rng.state(device)), keep, rng.rounds, plan.shards,
    )  # fmt: skip


def _device_of_nothing(grads: Sequence[torch.Tensor | None], rng: NoiseRNG) -> torch.device:
    """Where a call that changes no gradient takes its step: beside the gradients, if these hold data."""
    return next((grad.device for grad in grads if grad is not None and grad.device.type != "meta"), rng.device)
