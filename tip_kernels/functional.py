"""The public functions: what they compute and accept; ``_op/call.py`` checks, the ops do the work."""

from collections.abc import Sequence

import torch

from ._op import dispatch
from ._op.amplitudes import Amplitudes
from ._op.call import Options, prepare
from ._op.plan import DTYPES, Masks, Tensors, check_lists
from ._op.shard import Shard
from .rng import NoiseRNG

__all__ = ["Amplitudes", "Shard", "channel_saliency", "perturb", "perturb_"]


def perturb_(
    grads: Tensors,
    scores: Tensors,
    *,
    ratio: float | Sequence[float],
    std: float | torch.Tensor,
    rng: NoiseRNG,
    cutoff: float = 0.5,
    masks: Masks | None = None,
    keep: float = 1.0,
    floor_std: float | torch.Tensor = 0.0,
    grad_scale: float | torch.Tensor | None = None,
    max_grad_norm: float | None = None,
    shards: Sequence[Shard | None] | None = None,
    amplitudes: Sequence[Amplitudes | None] | None = None,
    norm_weights: Sequence[float | Sequence[float] | None] | None = None,
    names: Sequence[str] | None = None,
    backend: str | None = None,
) -> None:
    """Applies TIP (arXiv 2602.11633) to the gradients of a whole model, in place and in one op.

    Of every tensor with scores, the ``ceil(ratio * C)`` highest-scored output channels get Gaussian noise in the
    high band of their kernels; with ``floor_std`` every other coordinate gets noise too. Waits for no device, so
    after a first call it can be captured in a CUDA graph; each replay draws new noise. Without floor, scale and
    clipping, tensors without scores and 1x1 kernels are not looked at, let alone changed.

    Of DTensors, all on one mesh with placements ``Replicate()``, ``Shard(0)`` and ``Shard(1)``, each rank's part gets
    the noise of the whole there. All ranks of the mesh call with one key and step, or all raise; the norm is the
    whole's, and the scores, plain tensors, are the mean of the ranks'.

    Args:
        grads: gradients or updates on one device; float32, float64, bfloat16 or float16, any strides without
            overlap. ``[C, M, *kernel_size]`` (C output channels) for convolutions, any shape for others. None
            and empty tensors are skipped but keep their index, which is part of the noise address.
        scores: for each gradient a float32 tensor ``[C]`` on its device (higher: more sensitive; NaN: highest;
            ties: lower index first), or None for a tensor that is no conv weight: it gets scale and floor only.
        ratio: share of channels to select, in [0, 1]; one for all, or one for each gradient.
        std: noise of one coefficient of the orthonormal high-band basis, in gradient units, at least 0. A float,
            or a float32 tensor ``[len(grads)]`` on the device, whose values are not checked.
        rng: key and step; the call uses one step.
        cutoff: bins of normalized radius above it are the high band, in [0, 1). Kernels with an empty high band
            (1x1) get no ``std`` noise.
        masks: high bands by kernel size, ``{(3, 3): mask}``, bool in ``rfftn`` layout on the CPU, instead of
            ``cutoff``. Not under ``torch.compile``.
        keep: what is left of the high band under the noise, in [0, 1]: 1 adds noise (the paper), 0 replaces.
        floor_std: noise on every coordinate that ``std`` does not cover; given like ``std``. The results are multiples
            of a step below a thousandth of the least noise, so that their low bits tell nothing of the gradients.
        grad_scale: multiplies every gradient first (AMP unscaling, a clip factor of your own). A finite float, or a
            float32 tensor of shape ``[]`` on the device, whose value is not checked.
        max_grad_norm: clips the L2 norm of all scaled gradients together, as ``torch.nn.utils.clip_grad_norm_`` does,
            in the same pass; None does not clip. Not with ``shards``: the norm of a part is not the whole's.
        shards: for each gradient its place in the whole, or None if it is the whole. The scores of a shard are
            those of all channels.
        amplitudes: for each gradient the shape of its noise, see :class:`Amplitudes`: what multiplies ``std`` and
            ``floor_std`` for each coefficient of a kernel; or None, for 1. Only of tensors with a high band.
        norm_weights: for each gradient what multiplies it in the norm that ``max_grad_norm`` bounds: one number, or of
            a tensor with a high band one for each coefficient of a kernel, in the order of :class:`Amplitudes`; or
            None, for 1. All above 0.
        names: names of the tensors, for error messages.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``; None takes the fastest that can run.

    Raises:
        TypeError: an argument or gradient of the wrong type or dtype.
        ValueError: a wrong shape, device, stride or value, an unknown backend.
        RuntimeError: the explicit backend cannot run; the message says why.

    Whatever is raised, the message names the argument and the layer, and nothing has changed.
    """
    options = Options(
        ratio=ratio, std=std, rng=rng, cutoff=cutoff, masks=masks, keep=keep, floor_std=floor_std,
        grad_scale=grad_scale, max_grad_norm=max_grad_norm, shards=shards, amplitudes=amplitudes,
        norm_weights=norm_weights, names=names, backend=backend,
    )  # fmt: skip
    prepare(grads, scores, options).run()


def perturb(
    grads: Tensors,
    scores: Tensors,
    *,
    ratio: float | Sequence[float],
    std: float | torch.Tensor,
    rng: NoiseRNG,
    cutoff: float = 0.5,
    masks: Masks | None = None,
    keep: float = 1.0,
    floor_std: float | torch.Tensor = 0.0,
    grad_scale: float | torch.Tensor | None = None,
    max_grad_norm: float | None = None,
    shards: Sequence[Shard | None] | None = None,
    amplitudes: Sequence[Amplitudes | None] | None = None,
    norm_weights: Sequence[float | Sequence[float] | None] | None = None,
    names: Sequence[str] | None = None,
    backend: str | None = None,
) -> list[torch.Tensor | None]:
    """Like :func:`perturb_`, on copies: returns the perturbed tensors (None where None was given)."""
    check_lists(grads, scores)
    copies = [grad.detach().clone() if isinstance(grad, torch.Tensor) else grad for grad in grads]
    options = Options(
        ratio=ratio, std=std, rng=rng, cutoff=cutoff, masks=masks, keep=keep, floor_std=floor_std,
        grad_scale=grad_scale, max_grad_norm=max_grad_norm, shards=shards, amplitudes=amplitudes,
        norm_weights=norm_weights, names=names, backend=backend,
    )  # fmt: skip
    prepare(copies, scores, options).run()
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
    check_activation_grad(activation_grad)
    with torch.no_grad():
        score: torch.Tensor = dispatch.saliency_op(backend, activation_grad.device)(activation_grad)
    return score


def check_activation_grad(grad: object) -> None:
    """Raises unless :func:`channel_saliency` takes it."""
    if not isinstance(grad, torch.Tensor):
        raise TypeError(f"expected activation_grad to be a tensor, got {type(grad).__name__}")
    if grad.layout is not torch.strided or grad.dtype not in DTYPES:
        raise TypeError(
            f"expected a strided activation_grad of dtype float32, float64, bfloat16 or float16, "
            f"got {grad.dtype} with layout {grad.layout}"
        )
    if grad.dim() < 2:
        raise ValueError(f"expected activation_grad of shape [N, C, *spatial], got {tuple(grad.shape)}")
