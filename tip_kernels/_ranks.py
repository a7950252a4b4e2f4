"""What the ranks of a process group must agree on if they are to draw the same noise: key, step, scores."""

import weakref
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from .rng import NoiseRNG


class Ranks:
    """Ranks that hold parts or copies of one message; each method is called by all of them, in the same order.

    Args:
        groups: process groups that reach all of them one after another, such as those of the dimensions of a mesh.
        members: their global ranks.
    """

    def __init__(self, groups: Sequence[dist.ProcessGroup], members: frozenset[int]) -> None:
        self._groups = groups
        self._members = members
        self.size = len(members)

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> "Ranks":
        """The ranks of one process group."""
        return cls([group], ranks_of(group))

    def covers(self, other: "Ranks") -> bool:
        """Whether all of the other's ranks are among these."""
        return other._members <= self._members

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Makes a tensor, in place, the sum of all ranks' tensors; the same bits on every rank."""
        for group in self._groups:
            dist.all_reduce(tensor, group=group)
        return tensor

    def check_key(self, rng: NoiseRNG, device: torch.device) -> None:
        """Raises RuntimeError, on every rank, unless all have the same key, generator and step.

        At each call where that waits for no device, else at the first.
        """
        agreed = _AGREED.setdefault(rng, set())
        if device.type != "cpu" and self._members in agreed:
            return
        key, step = rng.fingerprint(), rng.step
        extremes = torch.tensor([key, -key, step, -step], dtype=torch.int64, device=device)
        for group in self._groups:
            dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
        most_key, least_key, most_step, least_step = extremes.tolist()
        if most_key != -least_key:
            raise RuntimeError(
                "expected one key on all ranks that hold one message, got different ones, with which they would "
                "diverge: call tip_kernels.integrations.distributed.share_key() once on each rank"
            )
        if most_step != -least_step:
            raise RuntimeError(
                f"expected one step on all ranks that hold one message, got {-least_step} to {most_step}: each rank "
                "has to make the same calls; call tip_kernels.integrations.distributed.share_key() again to go on"
            )
        agreed.add(self._members)

    def mean(self, tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """The means over all ranks, on ``device``. Of equal numbers that is the number itself, to the last bit."""
        if not tensors:
            return []
        flat = torch.cat([tensor.detach().to(device, torch.float64) for tensor in tensors])
        means = (self.sum_(flat) / self.size).float()
        return list(means.split([len(tensor) for tensor in tensors]))

    def mean_scores(
        self, scores: Mapping[int, torch.Tensor], channels: Mapping[int, int], device: torch.device
    ) -> dict[int, torch.Tensor]:
        """Scores by index, each the mean over those ranks that have it; without those that no rank has.

        Args:
            scores: of this rank, by index.
            channels: their lengths, of all indices; the same on every rank.
            device: where the ranks exchange them.
        """
        missing = [index for index in channels if index not in scores]
        rows = []
        for index, count in channels.items():
            score = scores.get(index, torch.zeros(count))
            rows += [torch.full((1,), float(index in scores)), score]
        if not rows:
            return {}
        flat = torch.cat([row.detach().to(device, torch.float64) for row in rows])
        parts = self.sum_(flat).split([1 + count for count in channels.values()])
        found = dict(zip(channels, parts, strict=True))
        # Reading waits for the device, and what this rank has is nowhere missing.
        unknown = {index for index in missing if found[index][0].item() == 0}
        return {index: (part[1:] / part[0]).float() for index, part in found.items() if index not in unknown}


def is_distributed() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def ranks_of(group: dist.ProcessGroup) -> frozenset[int]:
    """The global ranks of a process group."""
    return frozenset(dist.get_process_group_ranks(group))


_AGREED: "weakref.WeakKeyDictionary[NoiseRNG, set[frozenset[int]]]" = weakref.WeakKeyDictionary()
