"""What the Python backends check of a raw call, as ``csrc/op/check_arguments.h`` does for the compiled ones.

Whatever the arguments, an op touches no memory but that of its tensors, and after an error nothing has changed. What
users get wrong is explained by ``_op/plan.py`` and ``_op/call.py``; here is what would be unsafe. What follows from the
arguments' descriptions is found once, since a training loop makes the same call at every step.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch

from .._op.memory import extent, overlaps_itself
from .._op.plan import DTYPES, MAX_TENSORS
from .._op.schemas import ClipArguments, PerturbArguments
from .._op.shard import MAX_ELEMENTS, shard_of
from ..rng import GENERATORS, MAX_STEP, block_words

_GENERATORS = frozenset(GENERATORS.values())
_MAX_DIMS = 64
_MAX_STREAMS = 2**24  # that the counter of a block can tell apart
_MAX_BLOCKS = 2**40  # of a tensor


class _Meta(NamedTuple):
    """What a call's safety needs to know of a tensor, besides its memory."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """Bytes of storage that it needs."""
        if self.elements == 0:
            return 0
        return self.offset * self.dtype.itemsize + extent(self.shape, self.strides, self.dtype)

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


_Description = Any  # PerturbArguments of hashable values, see _described


def check_perturb(given: PerturbArguments) -> None:
    """Raises RuntimeError unless ``perturb_`` can run with these arguments."""
    _check_lengths(given)
    is_read = [basis >= 0 for basis in given.basis_ids]
    given = given._replace(scores=[s if read else None for s, read in zip(given.scores, is_read, strict=True)])  # type: ignore[misc]
    described = PerturbArguments(*(_described(value, name) for name, value in given._asdict().items()))
    single = [given.std, given.floor_std, given.grad_scale, given.state]
    read = [*given.scores, *given.bases, *given.amplitudes, *single]
    _check_memory(given.grads, read, _ends(described))
    _check_step(given.state)


def check_words(out: torch.Tensor, state: torch.Tensor, tensor_id: int, first_position: int, generator: int) -> None:
    """Raises RuntimeError unless ``words_`` can run with these arguments. It shows the words of any step."""
    _check_generator(generator)
    meta, key = _Meta(*_described(out, "out")), _Meta(*_described(state, "state"))
    _check_state(key)
    if meta.dtype is not torch.int32:
        _refuse(f"out of dtype int32, got {meta.dtype}")
    _check_device(meta, key, "out")
    if meta.elements and overlaps_itself(meta.shape, meta.strides):
        _refuse(f"out without overlapping memory, got strides {meta.strides}")
    if not 0 <= tensor_id < _MAX_STREAMS:
        _refuse(f"tensor_id in [0, 2**24), got {tensor_id}")
    words = _MAX_BLOCKS * block_words(generator)
    if not 0 <= first_position <= words - meta.elements:
        _refuse(f"words below position {words}, got first_position {first_position} and {meta.elements}")
    _check_memory([out], [state], [meta.end, key.end])


def check_activation_grad(grad: torch.Tensor) -> None:
    """Raises RuntimeError unless ``channel_saliency`` can run with this argument."""
    meta = _Meta(*_described(grad, "activation_grad"))
    if meta.dtype not in DTYPES:
        _refuse(f"activation_grad of dtype float32, float64, bfloat16 or float16, got {meta.dtype}")
    if len(meta.shape) < 2:
        _refuse(f"activation_grad of at least 2 dimensions, got {len(meta.shape)}")
    _check_memory([], [grad], [meta.end])


def check_clip(given: ClipArguments) -> None:
    """Raises RuntimeError unless ``clip_scale`` can run with these arguments."""
    grads, grad_scale, state = given.grads, given.grad_scale, given.state
    key = _Meta(*_described(state, "state"))
    _check_state(key)
    if not given.max_norm > 0:
        _refuse(f"max_norm above 0, got {given.max_norm}")
    scale = (
        None
        if grad_scale is None
        else _table(_described(grad_scale, "grad_scale"), "grad_scale", torch.float32, 0, key)
    )
    forms = [_square(values, f"forms[{f}]", key) for f, values in enumerate(_described_tensors(given.forms, "forms"))]  # type: ignore[arg-type]
    if given.form_ids is not None and len(given.form_ids) != len(grads):
        _refuse(f"form_ids of length {len(grads)}, got {len(given.form_ids)}")
    metas = [_Meta(*values) for values in _described_tensors(grads, "grads") if values is not None]
    for i, meta in enumerate(metas):
        if meta.dtype not in DTYPES:
            _refuse(f"grads[{i}] of dtype float32, float64, bfloat16 or float16, got {meta.dtype}")
        _check_device(meta, key, f"grads[{i}]")
        _check_form_id(-1 if given.form_ids is None else given.form_ids[i], meta, forms, i)
    read = [*grads, *given.forms, state] if grad_scale is None else [*grads, *given.forms, state, grad_scale]
    ends = [meta.end for meta in (*metas, *forms, key)] + ([] if scale is None else [scale.end])
    _check_memory([], read, ends)


def without_repeats(grad: torch.Tensor) -> torch.Tensor:
    """The same without the repetitions of expanded dimensions of space, which change no mean."""
    for dim in range(2, grad.dim()):
        if grad.shape[dim] > 1 and grad.stride(dim) == 0:
            grad = grad.narrow(dim, 0, 1)
    return grad


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(f"expected {what}")


def _check_lengths(given: PerturbArguments) -> None:
    count = len(given.grads)
    for name in ("scores", "selected", "tensor_ids", "basis_ids"):
        values = getattr(given, name)
        if len(values) != count:
            _refuse(f"{name} of length {count}, got {len(values)}")
    if len(given.high_dims) != len(given.bases):
        _refuse(f"high_dims of length {len(given.bases)}, one per basis, got {len(given.high_dims)}")
    if given.shards is not None and len(given.shards) != 3 * count:
        _refuse(f"shards of length {3 * count}, got {len(given.shards)}")
    if given.amplitude_ids is not None and len(given.amplitude_ids) != count:
        _refuse(f"amplitude_ids of length {count}, got {len(given.amplitude_ids)}")


def _described(value: Any, name: str) -> Any:
    """An argument as a hashable value: of tensors the fields of their :class:`_Meta`, of lists tuples."""
    if isinstance(value, torch.Tensor):
        return _described_tensors([value], name)[0]
    if not isinstance(value, list):
        return value
    return tuple(value) if value and isinstance(value[0], int) else _described_tensors(value, name)


def _described_tensors(tensors: Sequence[torch.Tensor | None], name: str) -> tuple[tuple[Any, ...] | None, ...]:
    try:  # without a call for each tensor, of which a model has hundreds
        if all(t is None or t.layout is torch.strided for t in tensors):
            return tuple(
                [t if t is None else (t.shape, t.stride(), t.dtype, t.device, t.storage_offset()) for t in tensors]
            )
    except (NotImplementedError, RuntimeError):  # nested tensors and others without a shape, strides or storage
        pass
    got = ", ".join(str(None if t is None else t.layout) for t in tensors)
    _refuse(f"strided tensors as {name}, got {got}")


@functools.lru_cache(maxsize=64)
def _ends(described: _Description) -> list[int]:
    """Bytes of storage that each tensor of the call needs, the lists first; 0 for those that are not read."""
    _check_generator(described.generator)
    if not 0.0 <= described.keep <= 1.0:
        _refuse(f"keep in [0, 1], got {described.keep}")
    state = _Meta(*described.state)
    _check_state(state)
    std = _table(described.std, "std", torch.float32, 1, state)
    floor, scale = std, None
    if described.floor_std is not None:
        floor = _table(described.floor_std, "floor_std", torch.float32, 1, state)
    if described.grad_scale is not None:
        scale = _table(described.grad_scale, "grad_scale", torch.float32, 0, state)
    bases = [_basis(described, b, state) for b in range(len(described.bases))]
    amplitudes = [_amplitudes(values, a, state) for a, values in enumerate(described.amplitudes)]
    grads = [_Meta(*values) for values in described.grads]
    for i, grad in enumerate(grads):
        _check_grad(described, i, grad, bases, min(std.elements, floor.elements, MAX_TENSORS), state)
        _check_amplitude_id(described, i, bases, amplitudes)
    scores = [None if values is None else _Meta(*values) for values in described.scores]
    single = [std, None if described.floor_std is None else floor, scale, state]
    return [0 if meta is None else meta.end for meta in (*grads, *scores, *bases, *amplitudes, *single)]


def _check_generator(generator: int) -> None:
    if generator not in _GENERATORS:
        _refuse(f"generator to be 8, 12 or 20 (ChaCha) or 10 (Philox), got {generator}")


def _check_state(state: _Meta) -> None:
    if state.dtype is not torch.int64 or tuple(state.shape) != (6,) or state.strides != (1,):
        _refuse(f"state to be a contiguous int64 tensor of 6 elements, got {state.dtype} of shape {tuple(state.shape)}")


def _check_step(state: torch.Tensor) -> None:
    """The last step has no successor, and those below 0 never occur. Elsewhere than on a CPU reading it would wait."""
    if state.device.type != "cpu":
        return
    step = int(state[4])
    if step < 0 or step == MAX_STEP:
        _refuse(f"state with a step in [0, 2**63 - 1), got {step}")


def _check_device(meta: _Meta, state: _Meta, name: str) -> None:
    if meta.device != state.device:
        _refuse(f"{name} on the device of state, {state.device}, got {meta.device}")


def _table(values: tuple[Any, ...], name: str, dtype: torch.dtype, dims: int, state: _Meta) -> _Meta:
    meta = _Meta(*values)
    if meta.dtype is not dtype:
        _refuse(f"{name} of dtype {dtype}, got {meta.dtype}")
    if len(meta.shape) != dims:
        _refuse(f"{name} of {dims} dimensions, got {len(meta.shape)}")
    if not meta.is_contiguous:
        _refuse(f"{name} to be contiguous, got strides {meta.strides}")
    _check_device(meta, state, name)
    return meta


def _square(values: tuple[Any, ...], name: str, state: _Meta) -> _Meta:
    meta = _table(values, name, torch.float64, 2, state)
    if meta.shape[0] != meta.shape[1] or meta.elements == 0:
        _refuse(f"{name} of shape [K, K], got {tuple(meta.shape)}")
    return meta


def _check_form_id(place: int, grad: _Meta, forms: list[_Meta], i: int) -> None:
    if not -1 <= place < len(forms):
        _refuse(f"form_ids[{i}] in [-1, {len(forms)}), got {place}")
    taps = 1 if place < 0 else forms[place].shape[0]
    if taps > 1 and (len(grad.shape) < 3 or math.prod(grad.shape[2:]) != taps):
        _refuse(f"grads[{i}] with kernels of {taps} taps, as forms[{place}] has, got shape {tuple(grad.shape)}")


def _basis(described: _Description, b: int, state: _Meta) -> _Meta:
    meta = _square(described.bases[b], f"bases[{b}]", state)
    taps = meta.shape[0]
    if not 1 <= described.high_dims[b] <= taps:
        _refuse(f"high_dims[{b}] in [1, {taps}], got {described.high_dims[b]}")
    return meta


def _amplitudes(values: tuple[Any, ...], a: int, state: _Meta) -> _Meta:
    meta = _table(values, f"amplitudes[{a}]", torch.float32, 2, state)
    if meta.shape[0] != 2 or meta.elements == 0:
        _refuse(f"amplitudes[{a}] of shape [2, K], got {tuple(meta.shape)}")
    return meta


def _check_amplitude_id(described: _Description, i: int, bases: list[_Meta], amplitudes: list[_Meta]) -> None:
    place = -1 if described.amplitude_ids is None else described.amplitude_ids[i]
    if not -1 <= place < len(amplitudes):
        _refuse(f"amplitude_ids[{i}] in [-1, {len(amplitudes)}), got {place}")
    taps = bases[described.basis_ids[i]].shape[0] if described.basis_ids[i] >= 0 else 0
    if place >= 0 and amplitudes[place].shape[1] != taps:
        coefficients = amplitudes[place].shape[1]
        _refuse(f"amplitudes[{place}] of as many coefficients as grads[{i}] has, {taps}, got {coefficients}")


def _check_grad(described: _Description, i: int, grad: _Meta, bases: list[_Meta], ids: int, state: _Meta) -> None:
    name, basis = f"grads[{i}]", described.basis_ids[i]
    if len(grad.shape) > _MAX_DIMS:
        _refuse(f"{name} of at most {_MAX_DIMS} dimensions, got {len(grad.shape)}")
    if grad.dtype not in DTYPES:
        _refuse(f"{name} of dtype float32, float64, bfloat16 or float16, got {grad.dtype}")
    _check_device(grad, state, name)
    if not 0 <= described.tensor_ids[i] < ids:
        _refuse(f"tensor_ids[{i}] in [0, {ids}), got {described.tensor_ids[i]}")
    if not -1 <= basis < len(bases):
        _refuse(f"basis_ids[{i}] in [-1, {len(bases)}), got {basis}")
    if grad.elements == 0:
        return
    if overlaps_itself(grad.shape, grad.strides):
        _refuse(f"{name} without overlapping memory, got shape {tuple(grad.shape)} with strides {grad.strides}")
    first_channel = _check_shard(described, i, grad)
    if basis < 0:
        return
    taps = bases[basis].shape[0]
    if len(grad.shape) < 3 or math.prod(grad.shape[2:]) != taps:
        _refuse(f"{name} with kernels of {taps} taps, as bases[{basis}] has, got shape {tuple(grad.shape)}")
    _check_scores(described, i, first_channel + grad.shape[0], state)


def _check_shard(described: _Description, i: int, grad: _Meta) -> int:
    """The first channel of the whole; refuses a place outside of what the noise has words for."""
    channels, kernels, *kernel_size = (*grad.shape, 1, 1) if len(grad.shape) < 2 else grad.shape
    shard = shard_of(described.shards, i, kernels)
    if min(shard) < 0 or shard.first_kernel + kernels > shard.kernels_per_channel:
        _refuse(f"shards[{i}] with room for {kernels} kernels a channel, got {tuple(shard)}")
    if (shard.first_channel + channels) * shard.kernels_per_channel * math.prod(kernel_size) > MAX_ELEMENTS:
        _refuse(f"grads[{i}] of at most 2**41 elements in the whole, got more")
    return shard.first_channel


def _check_scores(described: _Description, i: int, channels: int, state: _Meta) -> None:
    scores = _table(described.scores[i], f"scores[{i}]", torch.float32, 1, state)
    if scores.elements < channels:
        _refuse(f"scores[{i}] of all channels, at least {channels}, got {scores.elements}")
    if not 0 <= described.selected[i] <= scores.elements:
        _refuse(f"selected[{i}] in [0, {scores.elements}], got {described.selected[i]}")


def _check_memory(written: list[torch.Tensor], read: Sequence[torch.Tensor | None], ends: list[int]) -> None:
    """Refuses tensors that reach out of their storage, and written ones that lie in one place or in what is read."""
    ranges = []
    for i, (tensor, end) in enumerate(zip((*written, *read), ends, strict=True)):
        if tensor is None or end == 0:
            continue
        start = tensor.data_ptr()
        if start == 0 or tensor.untyped_storage().size() < end:
            _refuse("tensors with storage for all of their elements, got one whose storage was resized")
        if start % tensor.element_size():
            _refuse("tensors at multiples of their element size, got an address in between")
        length = end - int(tensor.storage_offset()) * tensor.element_size()
        ranges.append((start, start + length, i < len(written)))
    reach = {True: 0, False: 0}
    last_written = -1
    for start, stop, is_written in sorted(ranges):
        if start < reach[not is_written]:
            _refuse("written tensors without memory of another argument, got an overlap")
        if is_written and start == last_written:
            _refuse("written tensors without memory of another argument, got one twice")
        reach[is_written] = max(reach[is_written], stop)
        last_written = start if is_written else last_written
