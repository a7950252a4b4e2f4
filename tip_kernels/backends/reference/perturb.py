"""``perturb_`` in plain PyTorch: what happens to every tensor of a call, layer by layer."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..._op.schemas import PerturbArguments
from ..._op.shard import Shard, shard_of
from ..._runtime.locks import ForkSafeLock
from .. import _checks
from . import grid
from .selection import is_selected
from .spectrum import Band, make_band
from .words import Stream

Bands = dict[tuple[int, tuple[int, ...]], Band]
"""By basis and kernel size."""


@torch.inference_mode()  # which writes to any tensor, be it a leaf or an inference tensor
def perturb_(given: PerturbArguments) -> None:
    """See ``_op/schemas.py`` for the arguments and docs/design.md for the result."""
    _checks.check_perturb(given)
    given = given._replace(state=_take_step(given.state))
    touched = [i for i, grad in enumerate(given.grads) if grad.numel() > 0 and _is_touched(given, i)]
    results = [given.grads[i].clone() for i in touched]
    bands: Bands = {}
    for i, result in zip(touched, results, strict=True):
        _perturb_tensor(given, i, result, bands)
    if results:
        torch._foreach_copy_([given.grads[i] for i in touched], results)


def _is_touched(given: PerturbArguments, i: int) -> bool:
    has_high_noise = given.basis_ids[i] >= 0 and given.selected[i] > 0
    return given.floor_std is not None or given.grad_scale is not None or has_high_noise


def _perturb_tensor(given: PerturbArguments, i: int, result: torch.Tensor, bands: Bands) -> None:
    """Perturbs tensor ``i``, of which ``result`` is a copy, in place; ``bands`` is kept for the tensors that follow."""
    layer = _make_layer(given, i, result)
    basis_id, kernels, selected = given.basis_ids[i], layer.kernels, given.selected[i]
    if basis_id < 0:
        _perturb_others(layer, _words_of_flat(layer), None, None)
        return
    kind = (basis_id, tuple(kernels.shape[2:]))
    if kind not in bands:
        bands[kind] = make_band(given.bases[basis_id], given.high_dims[basis_id], kind[1])
    scores = given.scores[i]
    mask = is_selected(scores, selected, layer.shard.first_channel, kernels.shape[0])  # [C]
    words = _words_of_kernels(layer, given.high_dims[basis_id])
    if selected < len(scores):
        _perturb_others(layer, words, mask, bands[kind])
    _perturb_selected(layer, words, mask, min(selected, kernels.shape[0]), bands[kind])


_TAKING = ForkSafeLock()


def _take_step(state: torch.Tensor) -> torch.Tensor:
    """The state for this call alone: a copy, made while no other thread takes a step."""
    with _TAKING:
        taken = state.clone()
        state[4] += 1
    return taken


class _Layer(NamedTuple):
    """One tensor and what happens to it."""

    kernels: torch.Tensor  # [C, M, *kernel_size], a view of the gradient
    stream: Stream
    shard: Shard  # where the tensor lies in the whole
    std: torch.Tensor  # float64 [], as are the other numbers
    floor_std: torch.Tensor | None
    amplitudes: torch.Tensor | None  # float64 [2, K], of selected channels and of others
    grid_step: torch.Tensor | None  # of the released values, 0 for none
    scale: torch.Tensor | None
    keep: float

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """``s * x`` in float64."""
        return values.double() if self.scale is None else values.double() * self.scale

    def released(self, values: torch.Tensor) -> torch.Tensor:
        """Float64 values as the gradient gets them."""
        if self.grid_step is not None:
            values = grid.to_grid(values, self.grid_step, self.kernels.dtype)
        return values.to(self.kernels.dtype)


def _make_layer(given: PerturbArguments, i: int, tensor: torch.Tensor) -> _Layer:
    kernels = tensor.view(*tensor.shape, *[1] * (2 - tensor.dim()))  # [C, M, *kernel_size]
    tensor_id, floor_std, scale = given.tensor_ids[i], given.floor_std, given.grad_scale
    high_dim = given.high_dims[given.basis_ids[i]] if given.basis_ids[i] >= 0 else 0
    amplitudes = _amplitudes_of(given, i)
    return _Layer(
        kernels=kernels,
        stream=Stream(given.state, tensor_id, given.generator),
        shard=shard_of(given.shards, i, kernels.shape[1]),
        std=given.std[tensor_id].double(),
        floor_std=None if floor_std is None else floor_std[tensor_id].double(),
        amplitudes=None if amplitudes is None else amplitudes.double(),
        grid_step=grid.grid_step(given.std, floor_std, tensor_id, high_dim, amplitudes),
        scale=None if scale is None else scale.double(),
        keep=given.keep,
    )


def _amplitudes_of(given: PerturbArguments, i: int) -> torch.Tensor | None:
    place = -1 if given.amplitude_ids is None else given.amplitude_ids[i]
    return None if place < 0 else given.amplitudes[place]


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


def _perturb_others(layer: _Layer, words: _Words, mask: torch.Tensor | None, band: Band | None) -> None:
    """Scale and floor for every channel that is not selected; with amplitudes the floor's noise is of a shape."""
    if layer.floor_std is None and layer.scale is None:
        return
    channels, kernels = layer.kernels.shape[:2]
    whole_rows = kernels == layer.shard.kernels_per_channel
    for rows, columns in _chunks(channels, kernels, words.pitch, layer.kernels.device):
        part = layer.kernels[rows.start : rows.stop, columns.start : columns.stop]  # [R, m, *kernel_size]
        result = layer.scaled(part)
        if layer.floor_std is not None:
            if whole_rows and len(columns) == kernels:  # the kernels of all these channels are one run of words
                first = torch.full((1,), rows.start, device=part.device)  # [1]
            else:
                first = torch.arange(rows.start, rows.stop, device=part.device)  # [R]
            zeta = _normals(layer, words, first, columns.start, len(rows) * len(columns) // len(first))
            if band is not None and layer.amplitudes is not None:
                zeta = band.synthesize(layer.amplitudes[1] * zeta)
            result = result + layer.floor_std * zeta.reshape(part.shape)
        result = layer.released(result)
        if mask is not None:
            result = torch.where(_like(mask[rows.start : rows.stop], part), part, result)
        part.copy_(result)


def _perturb_selected(layer: _Layer, words: _Words, mask: torch.Tensor, at_most: int, band: Band) -> None:
    """Noise in the high band, and the floor in the rest, of the selected channels."""
    taps = math.prod(layer.kernels.shape[2:])
    candidates = mask.int().argsort(descending=True, stable=True)[:at_most]  # [n], selected channels first
    for rows, columns in _chunks(at_most, layer.kernels.shape[1], words.pitch, layer.kernels.device):
        channels = candidates[rows.start : rows.stop]  # [R]
        part = layer.kernels[:, columns.start : columns.stop]  # [C, m, *kernel_size]
        before = part.index_select(0, channels)  # [R, m, *kernel_size]
        normals = _normals(layer, words, channels, columns.start, len(columns))  # [R, m, used]
        coefficients = normals.new_zeros(*normals.shape[:2], taps)  # [R, m, K]
        coefficients[..., : band.high_dim] = layer.std * normals[..., : band.high_dim]
        if layer.floor_std is not None:
            coefficients[..., band.high_dim :] = layer.floor_std * normals[..., band.high_dim :]
        if layer.amplitudes is not None:
            coefficients = coefficients * layer.amplitudes[0]
        result = layer.scaled(before)
        if layer.keep != 1.0:
            result = result + (layer.keep - 1.0) * band.filter(result)
        result = layer.released(result + band.synthesize(coefficients))
        part.index_copy_(0, channels, torch.where(_like(mask[channels], before), result, before))


def _normals(layer: _Layer, words: _Words, channels: torch.Tensor, column: int, count: int) -> torch.Tensor:
    """Normals of ``count`` kernels from kernel ``column`` of each channel [R] on: float64 [R, count, used]."""
    shard = layer.shard
    first = (shard.first_channel + channels) * shard.kernels_per_channel + shard.first_kernel + column  # [R]
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
