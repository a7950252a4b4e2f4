"""What ranks agree on before they draw the same noise: that each of them can, in one way, with one key; scores."""

import contextlib
import hashlib
import weakref
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist

from ..budget import BudgetExceeded
from ..rng import NoiseRNG


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
        self.first = min(members)
        self.is_first = dist.get_rank() == self.first

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

    def meet(self, error: Exception | None, call: int = 0, rng: NoiseRNG | None = None) -> None:
        """Where each rank waits for the others: all go on, or none does.

        Key and step are compared where reading them waits for no device, elsewhere at the first meeting alone.

        Args:
            error: why this rank cannot go on. It is the caller's to raise; the others get one that names the rank.
            call: what this rank is about to do, as :func:`number_of` has it.
            rng: what it draws noise from.

        Raises:
            BudgetExceeded: another rank has one.
            RuntimeError: another rank has another error, or they have different calls, keys, generators or steps.
        """
        refused = isinstance(error, BudgetExceeded)
        agreed = set() if rng is None else _AGREED.setdefault(rng, set())
        if rng is None or error is not None or (rng.device.type != "cpu" and self._members in agreed):
            key = step = 0
        else:
            key, step = rng.fingerprint(), rng.step
        failed = 0 if error is None else dist.get_rank() + 1
        most = self._most([failed, failed and not refused, call, -call, key, -key, step, -step])
        if error is not None:
            return
        if most[0] > 0:
            kind = RuntimeError if most[1] else BudgetExceeded
            raise kind(f"expected all ranks to go on, got an error on rank {most[0] - 1}: none of them does")
        if most[2] != -most[3]:
            raise RuntimeError(
                "expected one call on all ranks that hold one message, got different ones: each rank has to give the "
                "same tensors and settings, and scores of the same layers, in the same order"
            )
        if most[4] != -most[5]:
            raise RuntimeError(
                "expected one key on all ranks that hold one message, got different ones, with which they would "
                "diverge: call tip_kernels.integrations.distributed.share_key() once on each rank"
            )
        if most[6] != -most[7]:
            raise RuntimeError(
                f"expected one step on all ranks that hold one message, got {-most[7]} to {most[6]}: each rank "
                "has to make the same calls; call tip_kernels.integrations.distributed.share_key() again to go on"
            )
        agreed.add(self._members)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What one rank raises in here, all of them do at its end."""
        try:
            yield
        except Exception as error:
            self.meet(error)
            raise
        self.meet(None)

    def _most(self, numbers: Sequence[int]) -> list[int]:
        """The largest of each number among all ranks. On the CPU if it can be, where reading waits for no GPU."""
        kinds = [{device.type for device in group._device_types} for group in self._groups]
        shared = set.intersection(*kinds)
        device = "cpu" if "cpu" in shared else min(shared)
        most = torch.tensor(numbers, dtype=torch.int64, device=device)
        for group in self._groups:
            dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
        return list(most.tolist())

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


def number_of(*facts: object) -> int:
    """62 bits that tell these from others, by what is printed of them."""
    return int.from_bytes(hashlib.sha256(repr(facts).encode()).digest()[:8], "little") >> 2


def is_distributed() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def ranks_of(group: dist.ProcessGroup) -> frozenset[int]:
    """The global ranks of a process group."""
    return frozenset(dist.get_process_group_ranks(group))


_AGREED: "weakref.WeakKeyDictionary[NoiseRNG, set[frozenset[int]]]" = weakref.WeakKeyDictionary()
