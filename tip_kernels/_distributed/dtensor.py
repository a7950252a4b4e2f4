"""DTensor, as FSDP2 and tensor parallelism make it: the part of a gradient that lies on this rank, and where.

The only module that knows of DTensor. It imports nothing of it: a program that has DTensors has it loaded.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._op.naming import label
from .._op.norm import factor, norm_of
from .._op.plan import Tensors
from .._op.schemas import Clip, PerturbArguments
from .._op.shard import Shard
from .._runtime.tracing import is_dry_run
from ..rng import NoiseRNG
from .ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_dtensor(tensor: object) -> bool:
    """Whether this is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, getattr(module, "DTensor", ()))


def any_in(tensors: Sequence[object]) -> bool:
    """Whether there is a DTensor among these."""
    return "torch.distributed.tensor" in sys.modules and any(map(is_dtensor, tensors))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a DTensor that lies on this rank, in the same memory; other tensors as they are."""
    if not is_dtensor(tensor):
        return tensor
    with torch.no_grad():  # where it is the tensor itself and no view in a graph
        part: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def version(tensor: torch.Tensor) -> tuple[int, int]:
    """What changes when a tensor does; a DTensor may be written to as one, or through its part."""
    return tensor._version, local(tensor)._version


def ranks_apart(tensors: Tensors) -> Ranks | None:
    """The ranks of the first DTensor among these that is on a mesh of more than one."""
    if not any_in(tensors):
        return None
    meshes = (_mesh(tensor) for tensor in tensors if is_dtensor(tensor))
    mesh = next((mesh for mesh in meshes if mesh.size() > 1), None)
    return None if mesh is None else ranks_of_mesh(mesh)


class Parts(NamedTuple):
    """The parts of a list of DTensors on this rank; ``counts``: whether this rank's copy counts in a sum over all."""

    tensors: list[torch.Tensor | None]
    shards: list[Shard | None]
    counts: list[bool]
    ranks: Ranks


def split(grads: Tensors, names: Sequence[str] | None) -> Parts:
    """Takes DTensors on one mesh apart.

    Raises:
        ValueError: not all are DTensors on one mesh, or a part is not what ``Shard`` can say.
    """
    meshes = [_mesh(grad) for grad in grads if is_dtensor(grad)]
    parts: list[torch.Tensor | None] = []
    shards: list[Shard | None] = []
    counts = []
    for i, grad in enumerate(grads):
        where = label(i, names)
        if grad is not None and (not is_dtensor(grad) or _mesh(grad) != meshes[0]):
            got = f"one on {_mesh(grad)}" if is_dtensor(grad) else "a plain tensor"
            raise ValueError(
                f"expected all gradients to be DTensors on one mesh, got {got} besides some on {meshes[0]}: its copies "
                f"on the ranks may differ; call for each mesh and for plain tensors on their own (grads{where})"
            )
        part, shard, counted = (None, None, False) if grad is None else _place(grad, where)
        parts.append(part)
        shards.append(shard)
        counts.append(counted)
    return Parts(parts, shards, counts, ranks_of_mesh(meshes[0]))


def ranks_among(grads: Tensors) -> Ranks | None:
    """The ranks of the first DTensor; None if this is none of them."""
    mesh = next(_mesh(grad) for grad in grads if is_dtensor(grad))
    return None if mesh.get_coordinate() is None else ranks_of_mesh(mesh)


def ranks_of_mesh(mesh: "DeviceMesh") -> Ranks:
    """All ranks of a mesh."""
    groups = [mesh.get_group(dim) for dim in range(mesh.ndim)]
    return Ranks(groups, frozenset(mesh.mesh.flatten().tolist()))


def _mesh(tensor: Any) -> "DeviceMesh":
    mesh: DeviceMesh = tensor.device_mesh
    return mesh


def _place(tensor: Any, where: str) -> tuple[torch.Tensor, Shard, bool]:
    """The part on this rank, where it lies in the whole, and whether this rank's copy counts in a sum over all."""
    sizes, starts, counts = _region(tensor, where)
    part = local(tensor)
    if tuple(part.shape) != tuple(sizes):
        raise ValueError(
            f"expected grads{where} of shape {tuple(tensor.shape)} to be cut by placements {tensor.placements} into "
            f"{tuple(sizes)} on this rank, got {tuple(part.shape)}"
        )
    if type(part) not in (torch.Tensor, torch.nn.Parameter) and not is_dry_run():
        raise TypeError(f"expected grads{where} to hold a torch.Tensor on each rank, got {type(part).__name__}")
    starts, shape = [*starts, 0, 0], (*tensor.shape, 1, 1)
    return part, Shard(starts[0], starts[1], shape[1]), counts


def _region(tensor: Any, where: str) -> tuple[list[int], list[int], bool]:
    """Sizes and first indices of the region on this rank by the placements, and whether its copy counts."""
    kinds = sys.modules["torch.distributed.tensor"]
    coordinate = _mesh(tensor).get_coordinate()
    if coordinate is None:
        raise ValueError(f"expected grads{where} on a mesh with this rank, got {_mesh(tensor)}")
    sizes, starts, counts = list(tensor.shape), [0] * tensor.dim(), True
    for mesh_dim, placement in enumerate(tensor.placements):
        if type(placement) is kinds.Replicate:
            counts = counts and coordinate[mesh_dim] == 0
            continue
        if type(placement) is not kinds.Shard or placement.dim > 1:
            raise ValueError(
                f"expected grads{where} to be split into channels or kernels, by Replicate(), Shard(0) and Shard(1), "
                f"got {placement} in {tensor.placements}: noise is addressed by whole kernels [C, M, *kernel_size]; "
                "redistribute() it first"
            )
        dim = placement.dim
        chunk = -(-sizes[dim] // _mesh(tensor).size(mesh_dim))
        start = min(sizes[dim], chunk * coordinate[mesh_dim])
        starts[dim] += start
        sizes[dim] = min(chunk, sizes[dim] - start)
    return sizes, starts, counts


def check_scores(grads: Tensors, scores: Tensors, names: Sequence[str] | None) -> None:
    """Raises unless the scores of DTensors are plain float32 tensors [C], also where no part of them lies."""
    for i, (grad, score) in enumerate(zip(grads, scores, strict=True)):
        if score is None or grad is None:
            continue
        if is_dtensor(score) or not isinstance(score, torch.Tensor) or score.dtype is not torch.float32:
            got = f"{type(score).__name__} of {getattr(score, 'dtype', 'no dtype')}"
            raise TypeError(
                f"expected scores{label(i, names)} of a DTensor to be a plain float32 tensor with the scores of all "
                f"channels, whose mean over the ranks is taken, got {got}"
            )
        if tuple(score.shape) != tuple(grad.shape[:1]):
            raise ValueError(
                f"expected scores{label(i, names)} of shape {tuple(grad.shape[:1])}, got {tuple(score.shape)}"
            )


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What a call on parts exchanges with the other ranks before it changes anything.

    Args:
        parts: of the gradients.
        scores: of all gradients, this rank's own; None where they have been exchanged already.
        call: what the ranks must be about to do alike, as ``number_of`` has it.
        rng: the key that all ranks must have; None where they have met already.
    """

    parts: Parts
    scores: Tensors | None
    call: int
    rng: NoiseRNG | None

    def __call__(self, arguments: PerturbArguments, clip: Clip | None) -> PerturbArguments:
        """The arguments of the op with the scores of all ranks, and the factor that clips the whole.

        The op itself would clip by the norm of a part.
        """
        device, ranks = arguments.state.device, self.parts.ranks
        if self.rng is not None:
            ranks.meet(None, self.call, self.rng)
        if self.scores is not None:
            present = {i: score for i, score in enumerate(self.scores) if score is not None}
            means = dict(zip(present, ranks.mean(list(present.values()), device), strict=True))
            arguments = arguments._replace(scores=[means.get(i, arguments.std) for i in arguments.tensor_ids])
        if clip is not None:
            arguments = arguments._replace(grad_scale=_clip_scale(self.parts, arguments, clip))
        return arguments


def _clip_scale(parts: Parts, given: PerturbArguments, clip: Clip) -> torch.Tensor:
    """What the op ``clip_scale`` gives for the whole, as float32 []; every rank gets the same."""
    ids = clip.form_ids or [-1] * len(given.grads)
    all_of_them = zip(given.grads, ids, given.tensor_ids, strict=True)
    counted = [(grad, form) for grad, form, i in all_of_them if parts.counts[i]]
    forms = [None if form < 0 else clip.forms[form] for _, form in counted]
    norm = norm_of([grad for grad, _ in counted], forms, torch.float64, given.state.device)
    return factor(parts.ranks.sum_(norm.square()).sqrt(), given.grad_scale, clip.max_norm)
