"""From the user's arguments to the op's: every check, once, before anything is touched.

What depends only on shapes and settings is checked and laid out as a cached :class:`Plan`; a call then costs a
cache look-up and the checks that only the tensors' memory can answer.
"""

import functools
import math
import numbers
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from . import spectrum
from ._tracing import cached, constant_when_traced, fixed, is_dry_run

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_FLOAT32_MAX = torch.finfo(torch.float32).max
_NUMBER = (float, int, numbers.Real)  # the first two are found without a search for abstract classes
_GRADIENT = (torch.Tensor, type(None))
_MAX_TENSORS = 2**23
_MAX_ELEMENTS = 2**41  # at most two words each, at least four words a block: 2^40 blocks


class Shard(NamedTuple):
    """Where a part lies in the whole gradient ``[channels, kernels_per_channel, *kernel_size]``.

    A part that is given its place draws the same noise as that region of the whole.
    """

    first_channel: int
    first_kernel: int
    kernels_per_channel: int


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
    names: tuple[str, ...] | None


class Plan(NamedTuple):
    """The static arguments of the op, for the tensors that have data (``live``).

    ``device`` is theirs, None if there are none;
    ``scattered`` lists the positions in ``live`` of scores that the op cannot take as they lie; ``spans`` are the
    bytes from each tensor's first to its last element.
    """

    device: torch.device | None
    live: tuple[int, ...]
    scattered: tuple[int, ...]
    selected: list[int]
    tensor_ids: list[int]
    basis_ids: list[int]
    bases: list[torch.Tensor]
    high_dims: list[int]
    shards: list[int] | None
    spans: list[int]


def check_lists(grads: Sequence, scores: Sequence) -> None:
    """Raises unless these are sequences of one length."""
    for what, tensors in (("grads", grads), ("scores", scores)):
        if not isinstance(tensors, Sequence):
            raise TypeError(f"expected {what} to be a sequence of tensors, got {type(tensors).__name__}")
    _check_length("scores", scores, len(grads))


def places_of_high_bands(grads: Sequence, scores: Sequence, masks: Mapping | None) -> Sequence[int]:
    """Places of what a call without floor and scale looks at, or all places if something there is no tensor.

    Left out is most of a model: whatever has no scores, and 1x1 kernels unless a mask says otherwise.
    """
    if not all(issubclass(kind, _GRADIENT) for kind in set(map(type, grads))):
        return range(len(grads))  # for the checks of all to say what is wrong
    scored = [i for i, score in enumerate(scores) if score is not None]
    if masks is not None:
        return tuple(scored)
    is_pointwise = _is_pointwise if torch.compiler.is_compiling() else _cached_is_pointwise
    return tuple([i for i in scored if grads[i] is None or not is_pointwise(grads[i].shape)])


def _is_pointwise(shape: tuple[int, ...]) -> bool:
    return len(shape) > 2 and max(shape[2:]) == 1


_cached_is_pointwise = functools.lru_cache(maxsize=4096)(_is_pointwise)


def describe(
    tensors: Sequence[torch.Tensor | None], places: Sequence[int], what: str, names: Sequence[str] | None
) -> tuple[tuple | None, ...]:
    """The fields of the Meta of the tensors at ``places``; raises TypeError for what is no tensor."""
    found = [tensors[i] for i in places]
    if not torch.compiler.is_compiling():
        try:  # as fast as Python allows: it is done for every tensor at every step
            return tuple([t if t is None else (t.shape, t.stride(), t.dtype, t.device, t.layout) for t in found])
        except (AttributeError, RuntimeError):  # no tensor, or one without strides
            pass
    return tuple([None if t is None else _fields(t, what, i, names) for t, i in zip(found, places, strict=True)])


def _fields(tensor: torch.Tensor, what: str, index: int, names: Sequence[str] | None) -> tuple:
    if not isinstance(tensor, torch.Tensor):
        got = type(tensor).__name__
        raise TypeError(f"expected {what}{_where(index, names)} to be a tensor or None, got {got}")
    layout = tensor.layout
    shape: tuple[int, ...] = tensor.shape
    strides = tensor.stride() if layout is torch.strided else ()
    if torch.compiler.is_compiling():
        shape, strides = tuple(map(fixed, shape)), tuple(map(fixed, strides))
    return shape, strides, tensor.dtype, tensor.device, layout


def settings(ratio, cutoff, masks, shards, names: tuple[str, ...] | None) -> tuple:
    """The fields of Settings from the user's arguments, hashable."""
    return (
        tuple(map(fixed, ratio)) if isinstance(ratio, Sequence) and not isinstance(ratio, str) else fixed(ratio),
        fixed(cutoff),
        () if masks is None else _hashable_masks(masks),
        None if shards is None else tuple([_as_shard(shard, i, names) for i, shard in enumerate(shards)]),
        names,
    )


def _hashable_masks(masks: Mapping[Sequence[int], torch.Tensor]) -> tuple[Mask, ...]:
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


def _as_shard(value: Sequence[int] | None, index: int, names: tuple[str, ...] | None) -> Shard | None:
    if value is None:
        return None
    try:
        return Shard(*map(operator.index, value))
    except TypeError:
        where = _where(index, names)
        raise TypeError(f"expected shards{where} to be a Shard of three integers or None, got {value}") from None


@constant_when_traced
def plan_for(
    count: int,
    places: Sequence[int],
    grads: tuple[tuple | None, ...],
    scores: tuple[tuple | None, ...],
    settings: tuple,
) -> Plan:
    """Checks everything that shapes and settings decide, and lays out the op's static arguments.

    Args:
        count: length of the user's lists.
        places: of those tensors in them that count; a range or a tuple.
        grads: these tensors, from :func:`describe`.
        scores: likewise.
        settings: from :func:`settings`.

    Raises:
        TypeError, ValueError: see :func:`tip_kernels.perturb_`.
    """
    return _cached_plan(count, places, grads, scores, settings)


@cached(maxsize=64)
def _cached_plan(count: int, places: Sequence[int], grads: tuple, scores: tuple, settings: tuple) -> Plan:
    return _make_plan(count, _metas(places, grads), _metas(places, scores), Settings(*settings))


def _metas(places: Sequence[int], fields: tuple[tuple | None, ...]) -> dict[int, Meta]:
    """By place, for those that are not None."""
    return {i: Meta(*values) for i, values in zip(places, fields, strict=True) if values is not None}


def _make_plan(count: int, grads: dict[int, Meta], scores: dict[int, Meta], settings: Settings) -> Plan:
    _check_settings(count, settings)
    live = tuple(i for i, grad in grads.items() if 0 not in grad.shape)
    layouts: list[tuple[int, int]] = []
    scattered: list[int] = []
    bases = _Bases(settings)
    for position, i in enumerate(live):
        score = scores.get(i)
        where = _where(i, settings.names)
        _check_grad(grads[i], grads[live[0]], where)
        layouts.append(_selection(grads[i], score, i, bases, settings, where))
        if score is not None and score.strides != (1,):
            scattered.append(position)
    device = grads[live[0]].device if live else None
    return Plan(
        device=device,
        live=live,
        scattered=tuple(scattered),
        selected=[selected for _, selected in layouts],
        tensor_ids=list(live),
        basis_ids=[basis for basis, _ in layouts],
        bases=[basis.to(device) for basis in bases.tensors],
        high_dims=bases.high_dims,
        shards=_flat_shards(grads, live, settings),
        spans=[_span(grads[i]) for i in live],
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


def _check_length(name: str, values: Sequence, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"expected {name} of length {count}, one per gradient, got {len(values)}")


def _check_settings(count: int, settings: Settings) -> None:
    if count > _MAX_TENSORS:
        raise ValueError(f"expected at most {_MAX_TENSORS} gradients, got {count}")
    lists = {"shards": settings.shards, "names": settings.names, "ratio": settings.ratio}
    for name, values in lists.items():
        if isinstance(values, tuple):
            _check_length(name, values, count)
    if isinstance(settings.ratio, tuple):
        for i, ratio in enumerate(settings.ratio):
            check_range(f"ratio{_where(i, settings.names)}", ratio, 0.0, 1.0)
    else:
        check_range("ratio", settings.ratio, 0.0, 1.0)
    _check_number("cutoff", settings.cutoff)
    if not 0.0 <= settings.cutoff < 1.0:
        raise ValueError(f"expected cutoff in [0, 1), got {settings.cutoff}")


def _check_grad(grad: Meta, first: Meta, where: str) -> None:
    if grad.layout is not torch.strided:
        raise TypeError(f"expected grads{where} to be strided, got layout {grad.layout}")
    if grad.dtype not in DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"expected grads{where} of dtype {known}, got {str(grad.dtype).removeprefix('torch.')}")
    if grad.device != first.device:
        raise ValueError(f"expected every gradient on {first.device}, got grads{where} on {grad.device}")
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


def _flat_shards(grads: dict[int, Meta], live: tuple[int, ...], settings: Settings) -> list[int] | None:
    """The op's ``shards``: None if every tensor is whole."""
    flat: list[int] = []
    for i in live:
        shape = (*grads[i].shape, 1, 1)
        shard = settings.shards[i] if settings.shards else None
        whole = Shard(0, 0, shape[1])
        shard = whole if shard is None else shard
        _check_shard(shard, shape, _where(i, settings.names))
        flat.extend(shard)
    return flat if settings.shards else None


def _check_shard(shard: Shard, shape: tuple[int, ...], where: str) -> None:
    if min(shard) < 0 or shard.first_kernel + shape[1] > shard.kernels_per_channel:
        raise ValueError(f"expected shards{where} with room for {shape[1]} kernels a channel, got {tuple(shard)}")
    elements = (shard.first_channel + shape[0]) * shard.kernels_per_channel * math.prod(shape[2:])
    if elements > _MAX_ELEMENTS:
        raise ValueError(f"expected grads{where} of at most 2**41 elements in the whole, got {elements}")


def overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """True unless sorted strides step over one another, which every view of dense memory satisfies."""
    reach = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def check_disjoint(grads: list[torch.Tensor], plan: Plan, names: Sequence[str] | None) -> None:
    """Raises ValueError if two gradients share memory. Needs real memory, which a dry run does not have."""
    if is_dry_run():
        return
    _check_disjoint(grads, plan.spans, lambda i: _where(plan.live[i], names))


def check_copies(
    placed: Sequence[torch.Tensor | None], tied: Sequence[tuple[str, torch.Tensor, int]], names: Sequence[str]
) -> None:
    """Raises unless each tensor of ``tied`` (its name, itself, a place) can take the value at that place of ``placed``.

    Raises:
        TypeError: a tensor is not strided or of another dtype than the gradients may have.
        ValueError: it overlaps itself or shares memory with another than the one it is a copy of.
    """
    if not tied or is_dry_run():
        return
    tensors = [(_where(i, names), tensor) for i, tensor in enumerate(placed) if tensor is not None]
    for name, tensor, place in tied:
        where = f"[{place}] ({name})"
        meta = Meta(*_fields(tensor, "grads", place, names))
        _check_grad(meta, meta, where)
        if not _is_same_memory(tensor, placed[place]):
            tensors.append((where, tensor))
    tensors = [(where, tensor) for where, tensor in tensors if tensor.layout is torch.strided and tensor.numel()]
    spans = [_span(Meta(*_fields(tensor, "grads", 0, None))) for _, tensor in tensors]
    _check_disjoint([tensor for _, tensor in tensors], spans, lambda i: tensors[i][0])


def _is_same_memory(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    return b is not None and (a.data_ptr(), a.stride(), a.dtype) == (b.data_ptr(), b.stride(), b.dtype)


def _check_disjoint(tensors: Sequence[torch.Tensor], spans: Sequence[int], where: Callable[[int], str]) -> None:
    starts = [tensor.data_ptr() for tensor in tensors]
    if _clearly_disjoint(starts, spans):
        return
    sorted_spans = sorted((start, start + span, i) for i, (start, span) in enumerate(zip(starts, spans, strict=True)))
    for i, j in _interleaved(sorted_spans):
        if _share_elements(tensors[i], tensors[j]):
            raise ValueError(
                f"expected gradients without shared memory, got an overlap of grads{where(i)} and grads{where(j)}"
            )


def _clearly_disjoint(starts: Sequence[int], spans: Sequence[int]) -> bool:
    """Whether no tensor reaches the next one's start."""
    reach = 0
    for start, span in sorted(zip(starts, spans, strict=True)):
        if start < reach:
            return False
        reach = start + span
    return True


def _interleaved(spans: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """The pairs whose spans (start, end, index), sorted, meet."""
    open_spans: list[tuple[int, int]] = []  # (end, index) of those that reach past the start at hand
    for start, end, i in spans:
        open_spans = [span for span in open_spans if span[0] > start]
        for _, j in open_spans:
            yield j, i
        open_spans.append((end, i))


def _span(grad: Meta) -> int:
    """Bytes from a tensor's first to its last element."""
    return (sum((n - 1) * s for n, s in zip(grad.shape, grad.strides, strict=True)) + 1) * grad.dtype.itemsize


def _share_elements(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors with interleaved spans, such as slices of one matrix, really share an element."""
    return bool(torch.isin(_addresses(a), _addresses(b)).any())


def _addresses(grad: torch.Tensor) -> torch.Tensor:
    address = torch.full((), grad.data_ptr(), dtype=torch.int64, device="cpu")
    for size, stride in zip(grad.shape, grad.stride(), strict=True):
        address = address.unsqueeze(-1) + torch.arange(size, device="cpu") * (stride * grad.element_size())
    return address.flatten()


def amounts(value: float | torch.Tensor, name: str, count: int, device: torch.device) -> torch.Tensor:
    """``std`` or ``floor_std`` as the op wants it: float32 [count] on the device."""
    if isinstance(value, torch.Tensor):
        return _check_table(value, name, (count,), device)
    check_amount(value, name)
    return constant(float(value), (count,), device)


def check_amount(value: float, name: str) -> None:
    """Raises ValueError unless ``value`` can be a standard deviation."""
    _check_number(name, value)
    if not 0 <= value <= _FLOAT32_MAX:
        raise ValueError(f"expected {name} to be finite and at least 0, got {value}")


def scale(value: float | torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """``grad_scale`` as the op wants it: a float32 tensor of one element on the device, or None for 1."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return _check_table(value, "grad_scale", (), device)
    _check_number("grad_scale", value)
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise ValueError(f"expected grad_scale to be finite, got {value}")
    return None if value == 1.0 else constant(float(value), (), device)


def keep_factor(keep: float) -> float:
    check_range("keep", keep, 0.0, 1.0)
    return float(keep)


def _check_table(value: torch.Tensor, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    if value.dtype is not torch.float32:
        raise TypeError(f"expected {name} of dtype float32, got {str(value.dtype).removeprefix('torch.')}")
    if tuple(value.shape) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"expected {name} on {device}, got {value.device}")
    return value.contiguous()


@cached(maxsize=256)
def _cached_constant(value: float, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.float32, device=device)


def constant(value: float, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A float32 tensor filled with ``value``; kept, so that a later call launches nothing to make it."""
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if capturing or torch.compiler.is_compiling():  # memory of a graph's own must not outlive it
        return torch.full(shape, value, dtype=torch.float32, device=device)
    return _cached_constant(value, shape, device)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, _NUMBER):
        raise TypeError(f"expected {name} to be a number, got {type(value).__name__}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    _check_number(name, value)
    if not low <= value <= high:
        raise ValueError(f"expected {name} in [{low:g}, {high:g}], got {value}")


def _where(index: int, names: Sequence[str] | None) -> str:
    return f"[{index}] ({names[index]})" if names and index < len(names) else f"[{index}]"


def check_activation_grad(grad: object) -> None:
    """Raises unless ``grad`` can be the argument of ``channel_saliency``."""
    if not isinstance(grad, torch.Tensor):
        raise TypeError(f"expected activation_grad to be a tensor, got {type(grad).__name__}")
    if grad.layout is not torch.strided or grad.dtype not in DTYPES:
        raise TypeError(
            f"expected a strided activation_grad of dtype float32, float64, bfloat16 or float16, "
            f"got {grad.dtype} with layout {grad.layout}"
        )
    if grad.dim() < 2:
        raise ValueError(f"expected activation_grad of shape [N, C, *spatial], got {tuple(grad.shape)}")
