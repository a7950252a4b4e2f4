"""What shapes and settings decide of a call: checked and laid out once, and kept as a :class:`Plan`."""

import functools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .. import spectrum
from .._runtime.tracing import cached, constant_when_traced, specialize
from .amplitudes import Shapes, Tables
from .memory import extent, overlaps_itself
from .naming import check_length, label
from .norm_weights import Forms, Weights
from .numbers import check_number, check_range, numbers_of
from .shard import Shard, as_shard, check_shard

Tensors = Sequence[torch.Tensor | None]
Masks = Mapping[Sequence[int], torch.Tensor]
Fields = tuple[Any, ...]
"""The fields of a NamedTuple: hashed as they are, since making the named one for each tensor of a call takes longer."""

Described = tuple[Fields | None, ...]
"""A list of tensors as a plan knows it: the fields of the :class:`Meta` of each."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_TENSORS = 2**23

_GRADIENT = (torch.Tensor, type(None))


class Meta(NamedTuple):
    """What a plan knows of a tensor."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    layout: torch.layout


class Mask(NamedTuple):
    """A user's mask as a hashable value."""

    kernel_size: tuple[int, ...]
    shape: torch.Size
    values: bytes


class Settings(NamedTuple):
    """What a plan knows of a call besides its tensors."""

    ratio: float | tuple[float, ...]
    cutoff: float
    masks: tuple[Mask, ...]
    shards: tuple[Shard | None, ...] | None
    amplitudes: Shapes | None
    norm_weights: tuple[Weights | None, ...] | None
    names: tuple[str, ...] | None


class Plan(NamedTuple):
    """The static arguments of the op, for the tensors that have elements.

    ``tensor_ids`` are their indices in the user's lists; ``device`` is theirs, None if there are none;
    ``noncontiguous`` lists the positions among them of scores that the op cannot take as they lie; ``extents`` are
    the bytes from each tensor's first to its last element.
    """

    device: torch.device | None
    tensor_ids: list[int]
    noncontiguous: tuple[int, ...]
    selected: list[int]
    basis_ids: list[int]
    bases: list[torch.Tensor]
    high_dims: list[int]
    shards: list[int] | None
    amplitudes: list[torch.Tensor]
    amplitude_ids: list[int] | None
    forms: list[torch.Tensor]
    form_ids: list[int] | None
    extents: list[int]


def check_lists(grads: Tensors, scores: Tensors) -> None:
    """Raises unless these are sequences of one length."""
    for what, tensors in (("grads", grads), ("scores", scores)):
        if not isinstance(tensors, Sequence):
            raise TypeError(f"expected {what} to be a sequence of tensors, got {type(tensors).__name__}")
    check_length("scores", scores, len(grads))


def indices_of_high_bands(
    grads: Tensors, scores: Tensors, masks: Masks | None, amplitudes: Shapes | None
) -> Sequence[int]:
    """Indices of what a call looks at that changes high bands only, or all if something there is no tensor.

    Left out is most of a model: whatever has no scores, and 1x1 kernels unless a mask says otherwise. What has
    amplitudes is looked at, since it must have a high band.
    """
    if not all(issubclass(kind, _GRADIENT) for kind in set(map(type, grads))):
        return range(len(grads))  # for the checks of all to say what is wrong
    if amplitudes is not None:
        return tuple([i for i, one in enumerate(amplitudes) if one is not None or scores[i] is not None])
    scored = tuple([i for i, score in enumerate(scores) if score is not None])
    if masks is not None:
        return scored
    shapes = tuple([getattr(grads[i], "shape", None) for i in scored])
    leave_out = _without_pointwise if torch.compiler.is_compiling() else _cached_without_pointwise
    return leave_out(scored, shapes)


def _without_pointwise(indices: tuple[int, ...], shapes: tuple[tuple[int, ...] | None, ...]) -> tuple[int, ...]:
    """The indices of those that are no 1x1 kernels; None is no gradient."""
    return tuple([i for i, n in zip(indices, shapes, strict=True) if n is None or len(n) < 3 or max(n[2:]) != 1])


_cached_without_pointwise = functools.lru_cache(maxsize=64)(_without_pointwise)


def describe(tensors: Tensors, indices: Sequence[int], what: str, names: Sequence[str] | None) -> Described:
    """The fields of the Meta of the tensors at ``indices``; raises TypeError for what is no tensor."""
    found = [tensors[i] for i in indices]
    if not torch.compiler.is_compiling():
        try:  # as fast as Python allows: it is done for every tensor at every step
            return tuple([t if t is None else (t.shape, t.stride(), t.dtype, t.device, t.layout) for t in found])
        except (AttributeError, RuntimeError):  # no tensor, or one without strides
            pass
    return tuple([None if t is None else _fields(t, what, i, names) for t, i in zip(found, indices, strict=True)])


def _fields(tensor: torch.Tensor, what: str, index: int, names: Sequence[str] | None) -> Fields:
    if not isinstance(tensor, torch.Tensor):
        got = type(tensor).__name__
        raise TypeError(f"expected {what}{label(index, names)} to be a tensor or None, got {got}")
    layout = tensor.layout
    shape: tuple[int, ...] = tensor.shape
    strides = tensor.stride() if layout is torch.strided else ()
    if torch.compiler.is_compiling():
        shape, strides = tuple(map(specialize, shape)), tuple(map(specialize, strides))
    return shape, strides, tensor.dtype, tensor.device, layout


def meta(tensor: torch.Tensor) -> Meta:
    """What a plan would know of this tensor."""
    return Meta(*_fields(tensor, "grads", 0, None))


def settings(
    ratio: float | Sequence[float],
    cutoff: float,
    masks: Masks | None,
    shards: Sequence[Sequence[int] | None] | None,
    amplitudes: Shapes | None,
    norm_weights: tuple[Weights | None, ...] | None,
    names: tuple[str, ...] | None,
) -> Fields:
    """The fields of Settings from the user's arguments, hashable."""
    check_number("cutoff", cutoff)
    return (
        _one_or_many(ratio),
        specialize(cutoff),
        () if masks is None else hashable_masks(masks),
        None if shards is None else tuple([as_shard(shard, i, names) for i, shard in enumerate(shards)]),
        amplitudes,
        norm_weights,
        names,
    )


def _one_or_many(ratio: float | Sequence[float]) -> float | tuple[float, ...]:
    if isinstance(ratio, Sequence) and not isinstance(ratio, str):
        return numbers_of("ratio", ratio)
    check_number("ratio", ratio)
    return specialize(ratio)


def hashable_masks(masks: Masks) -> tuple[Mask, ...]:
    """The user's masks as values; raises TypeError and ValueError for what maps no kernel sizes to bool tensors."""
    if not isinstance(masks, Mapping):
        raise TypeError(f"expected masks to map kernel sizes to bool tensors, got {type(masks).__name__}")
    return tuple(_hashable_mask(kernel_size, mask) for kernel_size, mask in masks.items())


def _hashable_mask(kernel_size: Sequence[int], mask: torch.Tensor) -> Mask:
    if not isinstance(kernel_size, Sequence) or not all(isinstance(n, numbers.Integral) for n in kernel_size):
        raise TypeError(f"expected masks to have kernel sizes such as (3, 3) for keys, got {kernel_size!r}")
    if not kernel_size or min(kernel_size) < 1:
        raise ValueError(f"expected masks to have kernel sizes such as (3, 3) for keys, got {kernel_size!r}")
    if not isinstance(mask, torch.Tensor) or mask.dtype is not torch.bool or mask.device.type != "cpu":
        got = f"{mask.dtype} on {mask.device}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"expected masks[{kernel_size}] to be a bool tensor on the CPU, got {got}")
    return Mask(tuple(kernel_size), mask.shape, mask.numpy().tobytes())


@constant_when_traced
@cached(maxsize=64)
def plan_for(
    count: int,
    indices: Sequence[int],
    grads: Described,
    scores: Described,
    settings: Fields,
) -> Plan:
    """Checks everything that shapes and settings decide, and lays out the op's static arguments.

    Args:
        count: length of the user's lists.
        indices: of those tensors in them that count; a range or a tuple.
        grads: these tensors, from :func:`describe`.
        scores: likewise.
        settings: from :func:`settings`.

    Raises:
        TypeError, ValueError: see :func:`tip_kernels.perturb_`.
    """
    return _make_plan(count, _metas(indices, grads), _metas(indices, scores), Settings(*settings))


def _metas(indices: Sequence[int], fields: Described) -> dict[int, Meta]:
    """By index, for those that are not None."""
    return {i: Meta(*values) for i, values in zip(indices, fields, strict=True) if values is not None}


def _make_plan(count: int, grads: dict[int, Meta], scores: dict[int, Meta], settings: Settings) -> Plan:
    _check_settings(count, settings)
    nonempty = [i for i, grad in grads.items() if 0 not in grad.shape]
    basis_ids: list[int] = []
    selected: list[int] = []
    noncontiguous: list[int] = []
    amplitude_ids: list[int] = []
    form_ids: list[int] = []
    bases, tables, forms = _Bases(settings), Tables(), Forms()
    for position, i in enumerate(nonempty):
        score = scores.get(i)
        where = label(i, settings.names)
        check_grad(grads[i], grads[nonempty[0]].device, where)
        basis_id, channels = _selection(grads[i], score, i, bases, settings, where)
        basis_ids.append(basis_id)
        selected.append(channels)
        if settings.amplitudes:
            taps = math.prod(grads[i].shape[2:]) if basis_id >= 0 else 0
            amplitude_ids.append(tables.id_of(settings.amplitudes[i], taps, where))
        if settings.norm_weights:
            basis = bases.tensors[basis_id] if basis_id >= 0 else None
            form_ids.append(forms.id_of(settings.norm_weights[i], basis, where))
        if score is not None and score.strides != (1,):
            noncontiguous.append(position)
    device = grads[nonempty[0]].device if nonempty else None
    return Plan(
        device=device,
        tensor_ids=nonempty,
        noncontiguous=tuple(noncontiguous),
        selected=selected,
        basis_ids=basis_ids,
        bases=[basis.to(device) for basis in bases.tensors],  # complete when it returns, for all streams
        high_dims=bases.high_dims,
        shards=_flat_shards(grads, nonempty, settings),
        amplitudes=[table.to(device) for table in tables.tensors],
        amplitude_ids=amplitude_ids if settings.amplitudes else None,
        forms=[form.to(device) for form in forms.tensors],
        form_ids=form_ids if settings.norm_weights else None,
        extents=[extent(grads[i].shape, grads[i].strides, grads[i].dtype) for i in nonempty],
    )


def select_count(ratio: float, channels: int) -> int:
    """``ceil(ratio * channels)``, after rounding to 9 decimals so that 0.7 of 10 is 7 and not 8."""
    return math.ceil(round(ratio * channels, 9))


class _Bases:
    """The distinct bases of one plan, by kernel size."""

    def __init__(self, settings: Settings) -> None:
        self.tensors: list[torch.Tensor] = []
        self.high_dims: list[int] = []
        self._cutoff = settings.cutoff
        self._masks = {mask.kernel_size: _rebuilt(mask) for mask in settings.masks}
        self._ids: dict[tuple[int, ...], int] = {}

    def id_of(self, kernel_size: tuple[int, ...]) -> int:
        """Index of the basis of this kernel size; -1 if its high band is empty."""
        if kernel_size not in self._ids:
            mask = self._masks.get(kernel_size)
            if mask is None:
                mask = spectrum.radial_mask(kernel_size, self._cutoff)
            basis, high_dim = spectrum.real_basis(kernel_size, mask)
            self._ids[kernel_size] = len(self.tensors) if high_dim else -1
            if high_dim:
                self.tensors.append(basis)
                self.high_dims.append(high_dim)
        return self._ids[kernel_size]


def _rebuilt(mask: Mask) -> torch.Tensor:
    """The user's mask again; raises unless it is one that a real kernel can have."""
    tensor = torch.tensor(list(mask.values), dtype=torch.bool, device="cpu").reshape(mask.shape)
    spectrum.check_mask(tensor, mask.kernel_size)
    return tensor


def _selection(
    grad: Meta, score: Meta | None, index: int, bases: _Bases, settings: Settings, where: str
) -> tuple[int, int]:
    """(basis id, number of selected channels) of one tensor."""
    if score is None:
        return -1, 0
    if len(grad.shape) < 3:
        raise ValueError(
            f"expected grads{where} to have at least 3 dimensions [C, M, *kernel_size] since it has scores, "
            f"got shape {tuple(grad.shape)}"
        )
    shard = settings.shards[index] if settings.shards else None
    _check_score(score, grad, shard, where)
    basis = bases.id_of(tuple(grad.shape[2:]))
    ratio = settings.ratio[index] if isinstance(settings.ratio, tuple) else settings.ratio
    return basis, select_count(ratio, score.shape[0]) if basis >= 0 else 0


def _check_settings(count: int, settings: Settings) -> None:
    if count > MAX_TENSORS:
        raise ValueError(f"expected at most {MAX_TENSORS} gradients, got {count}")
    lists = {"shards": settings.shards, "names": settings.names, "ratio": settings.ratio}
    for name, values in lists.items():
        if isinstance(values, tuple):
            check_length(name, values, count)
    if isinstance(settings.ratio, tuple):
        for i, ratio in enumerate(settings.ratio):
            check_range(f"ratio{label(i, settings.names)}", ratio, 0.0, 1.0)
    else:
        check_range("ratio", settings.ratio, 0.0, 1.0)
    check_cutoff(settings.cutoff)


def check_cutoff(cutoff: float) -> None:
    """Raises TypeError unless it is a number, and ValueError unless that is in [0, 1)."""
    check_number("cutoff", cutoff)
    if not 0.0 <= cutoff < 1.0:
        raise ValueError(f"expected cutoff in [0, 1), got {cutoff}")


def check_grad(grad: Meta, device: torch.device, where: str) -> None:
    """Raises unless this can be a gradient of a call on ``device``."""
    if grad.layout is not torch.strided:
        raise TypeError(f"expected grads{where} to be strided, got layout {grad.layout}")
    if grad.dtype not in DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"expected grads{where} of dtype {known}, got {str(grad.dtype).removeprefix('torch.')}")
    if grad.device != device:
        raise ValueError(f"expected every gradient on {device}, got grads{where} on {grad.device}")
    if grad.device.type == "meta":
        raise ValueError(f"expected grads{where} to hold data, got a tensor on meta")
    if overlaps_itself(grad.shape, grad.strides):
        raise ValueError(
            f"expected grads{where} without overlapping memory, got shape {tuple(grad.shape)} "
            f"with strides {grad.strides}"
        )


def _check_score(score: Meta, grad: Meta, shard: Shard | None, where: str) -> None:
    if score.layout is not torch.strided:
        raise TypeError(f"expected scores{where} to be strided, got layout {score.layout}")
    if score.dtype is not torch.float32:
        raise TypeError(f"expected scores{where} of dtype float32, got {str(score.dtype).removeprefix('torch.')}")
    if score.device != grad.device:
        raise ValueError(f"expected scores{where} on {grad.device}, got {score.device}")
    channels = grad.shape[0]
    if shard is None and tuple(score.shape) != (channels,):
        raise ValueError(f"expected scores{where} of shape ({channels},), got {tuple(score.shape)}")
    if shard is not None and (len(score.shape) != 1 or score.shape[0] < shard.first_channel + channels):
        raise ValueError(
            f"expected scores{where} of all channels, at least {shard.first_channel + channels} for this shard, "
            f"got shape {tuple(score.shape)}"
        )


def _flat_shards(grads: dict[int, Meta], indices: list[int], settings: Settings) -> list[int] | None:
    """The op's ``shards``: None if every tensor is whole."""
    flat: list[int] = []
    for i in indices:
        shape = (*grads[i].shape, 1, 1)
        shard = settings.shards[i] if settings.shards else None
        whole = Shard(0, 0, shape[1])
        shard = whole if shard is None else shard
        check_shard(shard, shape, label(i, settings.names))
        flat.extend(shard)
    return flat if settings.shards else None
