"""From the user's arguments to a call of the op: everything checked, nothing changed yet.

What shapes and settings decide is checked and laid out by ``plan.py``, which keeps its plans; here is added what only
this call's memory and values can tell.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.autograd.graph import increment_version

from .._distributed import dtensor
from .._distributed.ranks import number_of
from .._runtime import lasting
from .._runtime.tracing import cached, is_capturing, is_dry_run, refuse_recorders
from ..rng import NoiseRNG
from . import dispatch, graph_op, memory
from . import norm_weights as _norm_weights
from . import plan as _plan
from .amplitudes import Amplitudes, shapes_of
from .naming import label, names_of
from .numbers import FLOAT32_MAX, check_amount, check_max_grad_norm, check_number, check_range
from .plan import Masks, Tensors
from .schemas import Clip, PerturbArguments, clip_and_perturb
from .shard import Shard


class Options(NamedTuple):
    """The keyword arguments of :func:`tip_kernels.perturb_`, which documents them."""

    ratio: float | Sequence[float]
    std: float | torch.Tensor
    rng: NoiseRNG
    cutoff: float = 0.5
    masks: Masks | None = None
    keep: float = 1.0
    floor_std: float | torch.Tensor = 0.0
    grad_scale: float | torch.Tensor | None = None
    max_grad_norm: float | None = None
    shards: Sequence[Shard | None] | None = None
    amplitudes: Sequence[Amplitudes | None] | None = None
    norm_weights: _norm_weights.Given | None = None
    names: Sequence[str] | None = None
    backend: str | None = None


# Not as properties of Options, which torch.compile before 2.12 does not know.
def _has_floor(options: Options) -> bool:
    return isinstance(options.floor_std, torch.Tensor) or options.floor_std != 0


def _touches_all(options: Options) -> bool:
    """Whether tensors without a high band are changed, too."""
    return _has_floor(options) or options.grad_scale is not None or options.max_grad_norm is not None


class PreparedCall(NamedTuple):
    """An op, its checked arguments, and what makes of these the scale that clips, if gradients are to be clipped."""

    op: Callable[..., None]
    arguments: PerturbArguments
    clip: Clip | None
    agree: Callable[[PerturbArguments, Clip | None], PerturbArguments] | None = None
    """exchanges with other ranks what a call on parts of gradients needs, and clips the whole"""

    def run(self) -> None:
        """Calls the op, and tells autograd that the gradients have changed, which compiled kernels do not."""
        if torch.compiler.is_compiling():
            self._run()
            return
        if is_dry_run():
            self._check_fake()
            return
        self._keep()
        try:
            self._run()
        except BaseException as error:
            # The frames below hold the key, which a traceback that prints variables would show.
            raise error.with_traceback(None) from None
        finally:  # of an interrupted call too: autograd must not use what may have changed
            increment_version([grad for grad in self.arguments.grads if not grad.is_inference()])

    def _check_fake(self) -> None:
        if any(type(grad) in (torch.Tensor, torch.nn.Parameter) for grad in self.arguments.grads):
            raise RuntimeError("expected fake gradients under FakeTensorMode, got real ones, which get no noise there")

    def _keep(self) -> None:
        given = self.arguments
        device = given.state.device
        if device.type != "cpu":  # where nothing runs later than it is called
            read = [given.std, given.floor_std, given.grad_scale, given.state, *given.bases, *given.amplitudes]
            read += [] if self.clip is None else self.clip.forms
            scores = given.scores if is_capturing(device) else []
            lasting.keep([tensor for tensor in (*read, *scores) if tensor is not None], device)

    def _run(self) -> None:
        with torch.no_grad():
            if self.agree is None:
                clip_and_perturb(self.op, self.arguments, self.clip)
            else:
                clip_and_perturb(self.op, self.agree(self.arguments, self.clip), None)


def prepare(grads: Tensors, scores: Tensors, options: Options, has_met: bool = False) -> PreparedCall:
    """What :func:`tip_kernels.perturb_` runs; raises as it does.

    Of DTensors, ``has_met`` says that all ranks have met already and have one key, and the same scores in this call.
    """
    refuse_recorders()
    if not isinstance(options.rng, NoiseRNG):
        raise TypeError(f"expected rng to be a NoiseRNG, got {type(options.rng).__name__}")
    check_max_grad_norm(options.max_grad_norm)
    if options.norm_weights is not None and options.max_grad_norm is None:
        raise ValueError("expected max_grad_norm beside norm_weights, which weigh coefficients in that norm, got None")
    _plan.check_lists(grads, scores)
    options = options._replace(names=names_of(options.names))
    if not torch.compiler.is_compiling() and dtensor.any_in(grads):
        return _prepare_parts(grads, scores, options, has_met)
    if options.max_grad_norm is not None and any(shard is not None for shard in options.shards or ()):
        raise ValueError(
            "expected max_grad_norm to be None with shards, since the norm of a part is not the whole's and more than "
            "it would be sent: give the factor that clips the whole as grad_scale"
        )
    return _prepare_tensors(grads, scores, options)


def _prepare_tensors(grads: Tensors, scores: Tensors, options: Options) -> PreparedCall:
    """The call on plain tensors."""
    rng = options.rng
    indices: Sequence[int] = range(len(grads))
    names = None if options.names is None else tuple(options.names)
    amplitudes = shapes_of(options.amplitudes, len(grads), names)
    weights = _norm_weights.weights_of(options.norm_weights, len(grads), names)
    if not _touches_all(options):
        indices = _plan.indices_of_high_bands(grads, scores, options.masks, amplitudes)
    ratio, later_ratio = options.ratio, 1.0  # later: a graph takes it of what the plan has selected
    if torch.compiler.is_compiling() and not isinstance(ratio, Sequence):
        check_range("ratio", ratio, 0.0, 1.0)
        ratio, later_ratio = 1.0, ratio
    plan = _plan.plan_for(
        len(grads),
        indices,
        _plan.describe(grads, indices, "grads", names),
        _plan.describe(scores, indices, "scores", names),
        _plan.settings(ratio, options.cutoff, options.masks, options.shards, amplitudes, weights, names),
    )
    nonempty: list[torch.Tensor] = [grads[i] for i in plan.tensor_ids]  # type: ignore[misc]
    if not (torch.compiler.is_compiling() or is_dry_run()):
        memory.check_disjoint(nonempty, plan.extents, lambda i: label(plan.tensor_ids[i], names))
    device = plan.device or _device_of_nothing(grads, rng)
    std = _amounts(options.std, "std", len(grads), device)
    floor_std = _amounts(options.floor_std, "floor_std", len(grads), device) if _has_floor(options) else None
    grad_scale = _scale(options.grad_scale, device)
    check_range("keep", options.keep, 0.0, 1.0)
    op = dispatch.perturb_op(options.backend, device)
    arguments = PerturbArguments(
        grads=nonempty,
        scores=_scores(scores, plan, std),
        selected=plan.selected,
        tensor_ids=plan.tensor_ids,
        basis_ids=plan.basis_ids,
        bases=plan.bases,
        high_dims=plan.high_dims,
        std=std,
        floor_std=floor_std,
        grad_scale=grad_scale,
        state=rng.state(device),
        keep=float(options.keep),
        generator=rng.generator_id,
        shards=plan.shards,
        amplitudes=plan.amplitudes,
        amplitude_ids=plan.amplitude_ids,
    )
    if not torch.compiler.is_compiling():
        return PreparedCall(op, arguments, _clip(options, plan, device))
    numbers = graph_op.numbers_of(arguments.keep, options.max_grad_norm, later_ratio)
    in_graph = functools.partial(op, numbers=numbers, forms=plan.forms, form_ids=plan.form_ids)
    return PreparedCall(in_graph, arguments._replace(keep=1.0), None)


def _prepare_parts(grads: Tensors, scores: Tensors, options: Options, has_met: bool) -> PreparedCall:
    """The call on this rank's parts of DTensors; all ranks of their mesh make it, or raise."""
    try:
        return _parts_call(grads, scores, options, has_met)
    except Exception as error:
        ranks = None if has_met or is_dry_run() else dtensor.ranks_among(grads)
        if ranks is not None:  # the others are on their way to it
            ranks.meet(error)
        raise


def _parts_call(grads: Tensors, scores: Tensors, options: Options, has_met: bool) -> PreparedCall:
    if options.shards is not None:
        raise ValueError("expected no shards with DTensors, whose placements say where their parts lie")
    dtensor.check_scores(grads, scores, options.names)
    parts = dtensor.split(grads, options.names)
    call = _prepare_tensors(parts.tensors, scores, options._replace(shards=parts.shards))
    return call._replace(
        agree=dtensor.Agreement(
            parts,
            scores=None if has_met else scores,
            call=_number_of(grads, scores, options),
            rng=None if has_met else options.rng,
        ),
    )


def _number_of(grads: Tensors, scores: Tensors, options: Options) -> int:
    """What is to be the same on all ranks that make a call, in one number."""
    shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (*grads, *scores)]
    told = [value for value in options if value is None or isinstance(value, (int, float, str))]
    amplitudes = shapes_of(options.amplitudes, len(grads), options.names)
    weights = _norm_weights.weights_of(options.norm_weights, len(grads), options.names)
    return number_of(shapes, told, amplitudes, weights)


def _clip(options: Options, plan: _plan.Plan, device: torch.device) -> Clip | None:
    if options.max_grad_norm is None:
        return None
    op = dispatch.clip_op(options.backend, device)
    return Clip(op, float(options.max_grad_norm), plan.forms, plan.form_ids)


def _device_of_nothing(grads: Tensors, rng: NoiseRNG) -> torch.device:
    """Where a call that changes no gradient takes its step: beside the gradients, if these hold data."""
    return next((grad.device for grad in grads if grad is not None and grad.device.type != "meta"), rng.device)


def _scores(scores: Tensors, plan: _plan.Plan, unread: torch.Tensor) -> list[torch.Tensor]:
    """Those of the nonempty gradients, as the op wants them; ``unread`` stands where there are none."""
    found = [unread if scores[i] is None else scores[i] for i in plan.tensor_ids]
    for position in plan.noncontiguous:
        found[position] = found[position].contiguous()  # type: ignore[union-attr]
    return found  # type: ignore[return-value]


def _amounts(value: float | torch.Tensor, name: str, count: int, device: torch.device) -> torch.Tensor:
    """``std`` or ``floor_std`` as the op wants it: float32 [count] on the device."""
    if isinstance(value, torch.Tensor):
        return _checked_table(value, name, (count,), device)
    check_amount(name, value)
    return constant(float(value), (count,), device)


def _scale(value: float | torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """``grad_scale`` as the op wants it: a float32 tensor of one element on the device, or None for 1."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return _checked_table(value, "grad_scale", (), device)
    check_number("grad_scale", value)
    if not -FLOAT32_MAX <= value <= FLOAT32_MAX:
        raise ValueError(f"expected grad_scale to be finite, got {value}")
    return None if value == 1.0 else constant(float(value), (), device)


def _checked_table(value: torch.Tensor, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    if value.dtype is not torch.float32:
        raise TypeError(f"expected {name} of dtype float32, got {str(value.dtype).removeprefix('torch.')}")
    if tuple(value.shape) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"expected {name} on {device}, got {value.device}")
    return value.contiguous()


@cached(maxsize=256)
def _cached_constant(value: float, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    # A copy from the host is complete when it returns, for all streams; a kernel that fills would be for one only.
    return torch.full(shape, value, dtype=torch.float32, device="cpu").to(device)


def constant(value: float, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A float32 tensor filled with ``value``; kept, so that a later call copies nothing to make it."""
    if torch.compiler.is_compiling():  # a product, which Dynamo traces with the number left open
        return torch.ones(shape, dtype=torch.float32, device=device) * value
    if is_capturing(device):  # memory of a graph's own must not outlive it
        return torch.full(shape, value, dtype=torch.float32, device=device)
    return _cached_constant(value, shape, device)
