"""The facts of a call that its launches are planned by: hashable, without addresses and without tensors."""

import math
from typing import NamedTuple

import torch

from ..._op.schemas import PerturbArguments
from ..._op.shard import Shard, shard_of
from .address import used_words


class TensorFacts(NamedTuple):
    """What the plan needs to know of a gradient; see ``_op/schemas.py``. ``basis`` indexes the bases, -1 for none."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    tensor_id: int
    basis: int
    high_dim: int
    selected: int
    score_count: int
    score_stride: int
    shard: Shard
    amplitudes: int = -1  # index, -1 for none

    @property
    def channels(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def kernels(self) -> int:
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def taps(self) -> int:
        return math.prod(self.shape[2:])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def used_words(self, floor: bool) -> int:
        """Words that a kernel uses."""
        return used_words(self.taps, self.high_dim, floor)


class CallFacts(NamedTuple):
    """The same for all gradients of a call, and what they share."""

    grads: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]  # shape, strides, dtype
    scores: tuple[tuple[torch.Size, tuple[int, ...]], ...]  # shape, strides
    selected: tuple[int, ...]
    tensor_ids: tuple[int, ...]
    basis_ids: tuple[int, ...]
    basis_taps: tuple[int, ...]
    high_dims: tuple[int, ...]
    floor: bool  # whether there is a floor_std
    scale: bool  # whether there is a grad_scale
    keep: bool  # whether some of the high band is taken away
    generator: int
    shards: tuple[int, ...] | None
    amplitude_taps: tuple[int, ...] = ()
    amplitude_ids: tuple[int, ...] | None = None

    def tensor(self, i: int) -> TensorFacts:
        """The facts of gradient ``i``."""
        shape, strides, _ = self.grads[i]
        score_shape, score_strides = self.scores[i]
        basis = self.basis_ids[i]
        return TensorFacts(
            shape=tuple(shape),
            strides=strides,
            tensor_id=self.tensor_ids[i],
            basis=basis,
            high_dim=self.high_dims[basis] if basis >= 0 else 0,
            selected=self.selected[i],
            score_count=math.prod(score_shape),
            score_stride=score_strides[0] if score_strides else 1,
            shard=shard_of(self.shards, i, shape[1] if len(shape) > 1 else 1),
            amplitudes=-1 if self.amplitude_ids is None else self.amplitude_ids[i],
        )


def facts_of(given: PerturbArguments) -> CallFacts:
    """The facts of a call of the op."""
    return CallFacts(
        grads=tuple([(grad.shape, grad.stride(), grad.dtype) for grad in given.grads]),
        scores=tuple([(score.shape, score.stride()) for score in given.scores]),
        selected=tuple(given.selected),
        tensor_ids=tuple(given.tensor_ids),
        basis_ids=tuple(given.basis_ids),
        basis_taps=tuple([len(basis) for basis in given.bases]),
        high_dims=tuple(given.high_dims),
        floor=given.floor_std is not None,
        scale=given.grad_scale is not None,
        keep=given.keep != 1.0,
        generator=given.generator,
        shards=None if given.shards is None else tuple(given.shards),
        amplitude_taps=tuple([table.shape[1] for table in given.amplitudes]),
        amplitude_ids=None if given.amplitude_ids is None else tuple(given.amplitude_ids),
    )
