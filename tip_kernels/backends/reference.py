"""The reference backend: the contract in plain PyTorch, on any device, the long way round.

It is the oracle of the tests and the fallback where nothing is compiled. It goes through ``torch.fft`` where the
others multiply by a basis, and computes in float64 from the random words on. It waits for no device.

A call takes its step before it draws anything, works on copies and writes them back at the end by one operation, which
Python cannot interrupt: after an exception all gradients are as they were, and the step is not used again.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from .. import _ops
from .._locks import ForkSafeLock
from . import _checks
from .reference_spectrum import Band, make_band
from .reference_words import Stream


def why_not(device: torch.device) -> str | None:
    """None: the reference runs on every device."""
    return None


@torch.inference_mode()  # which writes to any tensor, be it a leaf or an inference tensor
def perturb_(
    grads: list[torch.Tensor],
    scores: list[torch.Tensor],
    selected: list[int],
    tensor_ids: list[int],
    basis_ids: list[int],
    bases: list[torch.Tensor],
    high_dims: list[int],
    std: torch.Tensor,
    floor_std: torch.Tensor | None,
    grad_scale: torch.Tensor | None,
    state: torch.Tensor,
    keep: float,
    rounds: int,
    shards: list[int] | None,
) -> None:
    """See ``_ops.py`` for the arguments and docs/design.md for the result."""
    _checks.check_perturb(
        grads, scores, selected, tensor_ids, basis_ids, bases, high_dims, std, floor_std, grad_scale, state, keep,
        rounds, shards,
    )  # fmt: skip
    key_and_step = _take_step(state)
    bands: dict[tuple[int, tuple[int, ...]], Band] = {}
    originals, results = [], []
    for i, grad in enumerate(grads):
        is_touched = floor_std is not None or grad_scale is not None or (basis_ids[i] >= 0 and selected[i] > 0)
        if grad.numel() == 0 or not is_touched:
            continue
        result = grad.clone()
        originals.append(grad)
        results.append(result)
        kernels = result.view(*grad.shape, *[1] * (2 - grad.dim()))  # [C, M, *kernel_size]
        layer = _Layer(
            kernels=kernels,
            stream=Stream(key_and_step, tensor_ids[i], rounds),
            place=_Place(*shards[3 * i : 3 * i + 3]) if shards else _Place(0, 0, kernels.shape[1]),
            std=std[tensor_ids[i]].double(),
            floor_std=None if floor_std is None else floor_std[tensor_ids[i]].double(),
            grid=_grid_step(std if basis_ids[i] >= 0 else None, floor_std, tensor_ids[i]),
            scale=None if grad_scale is None else grad_scale.double(),
            keep=keep,
        )
        basis_id = basis_ids[i]
        if basis_id < 0:
            _perturb_others(layer, _words_of_flat(layer), None)
            continue
        kind = (basis_id, tuple(kernels.shape[2:]))
        if kind not in bands:
            bands[kind] = make_band(bases[basis_id], high_dims[basis_id], kind[1])
        is_selected = _is_selected(scores[i], selected[i], layer)  # [C]
        words = _words_of_kernels(layer, high_dims[basis_id])
        if selected[i] < len(scores[i]):
            _perturb_others(layer, words, is_selected)
        _perturb_selected(layer, words, is_selected, min(selected[i], kernels.shape[0]), bands[kind])
    if originals:
        torch._foreach_copy_(originals, results)


def channel_saliency(activation_grad: torch.Tensor) -> torch.Tensor:
    """``sum_n |mean_space(activation_grad[n, c])|``: [N, C, *spatial] to float32 [C]."""
    _checks.check_activation_grad(activation_grad)
    activation_grad = _checks.without_repeats(activation_grad)
    spatial = tuple(range(2, activation_grad.dim()))
    alpha = activation_grad.double() if not spatial else activation_grad.mean(spatial, dtype=torch.float64)  # [N, C]
    return alpha.abs().sum(0).float()  # [C]


@torch.inference_mode()  # as copy_ writes to an inference tensor and raises then
def words_(out: torch.Tensor, state: torch.Tensor, tensor_id: int, first_position: int, rounds: int) -> None:
    """Fills ``out`` with consecutive words of one stream; the state is not advanced."""
    _checks.check_words(out, state, tensor_id, first_position, rounds)
    first = torch.full((1,), first_position, dtype=torch.int64, device=out.device)
    words = Stream(state, tensor_id, rounds).words(first, out.numel())  # [1, numel]
    out.copy_(words.to(torch.int32).reshape(out.shape))  # keeps the low 32 bits


_TAKING = ForkSafeLock()


def _take_step(state: torch.Tensor) -> torch.Tensor:
    """The state for this call alone: a copy, made while no other thread takes a step."""
    with _TAKING:
        taken = state.clone()
        state[4] += 1
    return taken


class _Place(NamedTuple):
    """Where the tensor lies in the whole of which it may be a shard."""

    first_channel: int
    first_kernel: int
    kernels_per_channel: int


class _Layer(NamedTuple):
    """One tensor and what happens to it."""

    kernels: torch.Tensor  # [C, M, *kernel_size], a view of the gradient
    stream: Stream
    place: _Place
    std: torch.Tensor  # float64 [], as are the next three
    floor_std: torch.Tensor | None
    grid: torch.Tensor | None  # the step of the released values, 0 for none
    scale: torch.Tensor | None
    keep: float

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """``s * x`` in float64."""
        return values.double() if self.scale is None else values.double() * self.scale

    def released(self, values: torch.Tensor) -> torch.Tensor:
        """Float64 values as the gradient gets them."""
        if self.grid is not None:
            values = to_grid(values, self.grid, self.kernels.dtype)
        return values.to(self.kernels.dtype)


class _Words(NamedTuple):
    """Which words of the stream a kernel uses: ``used`` from every multiple of ``pitch``."""

    used: int
    pitch: int


def _words_of_kernels(layer: _Layer, high_dim: int) -> _Words:
    used = high_dim if layer.floor_std is None else math.prod(layer.kernels.shape[2:])
    return _Words(used, 1 << (used - 1).bit_length() if used <= 16 else -(-used // 16) * 16)


def _words_of_flat(layer: _Layer) -> _Words:
    """For a tensor without a high band, whose elements use one word each."""
    taps = math.prod(layer.kernels.shape[2:])
    return _Words(taps, taps)


def _is_selected(scores: torch.Tensor, count: int, layer: _Layer) -> torch.Tensor:
    """Bool [C]: which of this tensor's channels are among the ``count`` highest of all."""
    if count in (0, len(scores)):
        return torch.full(layer.kernels.shape[:1], count > 0, device=scores.device)  # [C]
    unknown = scores.isnan()
    order = torch.where(unknown, 0.0, scores).argsort(descending=True, stable=True)  # [all channels]
    order = order[unknown[order].int().argsort(descending=True, stable=True)]  # [all channels], unknown first
    mask = torch.zeros_like(unknown).index_fill_(0, order[:count], True)  # [all channels]
    return mask.narrow(0, layer.place.first_channel, layer.kernels.shape[0])  # [C]


def _perturb_others(layer: _Layer, words: _Words, is_selected: torch.Tensor | None) -> None:
    """Scale and floor for every channel that is not selected."""
    if layer.floor_std is None and layer.scale is None:
        return
    channels, kernels = layer.kernels.shape[:2]
    whole_rows = kernels == layer.place.kernels_per_channel
    for rows, columns in _chunks(channels, kernels, words.pitch, layer.kernels.device):
        part = layer.kernels[rows.start : rows.stop, columns.start : columns.stop]  # [R, m, *kernel_size]
        result = layer.scaled(part)
        if layer.floor_std is not None:
            if whole_rows and len(columns) == kernels:  # the kernels of all these channels are one run of words
                first = torch.full((1,), rows.start, device=part.device)  # [1]
            else:
                first = torch.arange(rows.start, rows.stop, device=part.device)  # [R]
            zeta = _normals(layer, words, first, columns.start, len(rows) * len(columns) // len(first))
            result = result + layer.floor_std * zeta.reshape(part.shape)
        result = layer.released(result)
        if is_selected is not None:
            result = torch.where(_like(is_selected[rows.start : rows.stop], part), part, result)
        part.copy_(result)


def _perturb_selected(layer: _Layer, words: _Words, is_selected: torch.Tensor, at_most: int, band: Band) -> None:
    """Noise in the high band, and the floor in the rest, of the selected channels."""
    taps = math.prod(layer.kernels.shape[2:])
    candidates = is_selected.int().argsort(descending=True, stable=True)[:at_most]  # [n], selected channels first
    for rows, columns in _chunks(at_most, layer.kernels.shape[1], words.pitch, layer.kernels.device):
        channels = candidates[rows.start : rows.stop]  # [R]
        part = layer.kernels[:, columns.start : columns.stop]  # [C, m, *kernel_size]
        before = part.index_select(0, channels)  # [R, m, *kernel_size]
        normals = _normals(layer, words, channels, columns.start, len(columns))  # [R, m, used]
        coefficients = normals.new_zeros(*normals.shape[:2], taps)  # [R, m, K]
        coefficients[..., : band.high_dim] = layer.std * normals[..., : band.high_dim]
        if layer.floor_std is not None:
            coefficients[..., band.high_dim :] = layer.floor_std * normals[..., band.high_dim :]
        result = layer.scaled(before)
        if layer.keep != 1.0:
            result = result + (layer.keep - 1.0) * band.filter(result)
        result = layer.released(result + band.synthesise(coefficients))
        part.index_copy_(0, channels, torch.where(_like(is_selected[channels], before), result, before))


def _grid_step(std: torch.Tensor | None, floor_std: torch.Tensor | None, tensor_id: int) -> torch.Tensor | None:
    """The step of a tensor's released values, float64 []; see csrc/core/grid.h. ``std`` is None without a high band."""
    if floor_std is None:
        return None
    floor = floor_std[tensor_id].view(torch.int32)  # []: bits are in the order of the numbers they stand for
    least = floor
    if std is not None:
        high = std[tensor_id].view(torch.int32)
        least = torch.where((high > 0) & (high < floor), high, floor)
    exponent = (least >> 23) - 10
    is_normal = (floor > 0) & (exponent >= 1) & (exponent <= 254 - 23)
    return torch.where(is_normal, exponent << 23, 0).view(torch.float32).double()


def to_grid(values: torch.Tensor, step: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float64 values at the nearest multiples of a step, ties to even and zeros positive.

    The arithmetic of float64 gradients has 53 bits, that of the others 24: where these reach no further than the step,
    values stay what they are. Tests replace this function to see what was rounded.
    """
    limit = step * 2.0 ** (52 if dtype == torch.float64 else 23)  # 0 without a step
    return torch.where(values.abs() < limit, (values / step).round() * step + 0.0, values)


def _normals(layer: _Layer, words: _Words, channels: torch.Tensor, column: int, count: int) -> torch.Tensor:
    """Normals of ``count`` kernels from kernel ``column`` of each channel [R] on: float64 [R, count, used]."""
    place = layer.place
    first = (place.first_channel + channels) * place.kernels_per_channel + place.first_kernel + column  # [R]
    normals = layer.stream.normals(first * words.pitch, count * words.pitch, words.pitch)  # [R, count * pitch]
    return normals.reshape(len(channels), count, words.pitch)[..., : words.used].double()  # [R, count, used]


def _chunks(rows: int, columns: int, weight: int, device: torch.device) -> Iterator[tuple[range, range]]:
    """Splits rows x columns kernels of ``weight`` words into pieces that fit a cache (a GPU wants large ones)."""
    budget = 2**16 if device.type == "cpu" else 2**22
    width = min(columns, max(1, budget // weight))
    height = max(1, budget // (weight * width))
    for row, column in itertools.product(range(0, rows, height), range(0, columns, width)):
        yield range(row, min(row + height, rows)), range(column, min(column + width, columns))


def _like(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A mask [R] as [R, 1, ..., 1], to go with values [R, ...]."""
    return mask.reshape(-1, *[1] * (values.dim() - 1))


_ops.LIBRARY.impl("perturb_reference_", perturb_, "CompositeExplicitAutograd")
_ops.LIBRARY.impl("channel_saliency_reference", channel_saliency, "CompositeExplicitAutograd")
_ops.LIBRARY.impl("words_reference_", words_, "CompositeExplicitAutograd")
