"""How tensors are cut into runs, and runs into portions, of which each is a program's."""

from collections.abc import Sequence
from typing import NamedTuple

from .address import GROUP
from .facts import TensorFacts
from .table import ELEMENTS, IDLE, SMALL_KERNELS

_ENOUGH_PROGRAMS = 2**14  # eight programs for each of the 2,000 warps that a large GPU runs of these kernels at once


class Cut(NamedTuple):
    """Lengths in kernels, on the path ELEMENTS in groups of words. The last portion of a run may be shorter."""

    runs: int
    run_length: int
    portion: int

    @property
    def programs_per_run(self) -> int:
        return -(-self.run_length // self.portion)

    @property
    def programs(self) -> int:
        return self.runs * self.programs_per_run


def cut_tensors(tensors: Sequence[TensorFacts], paths: Sequence[int], lanes: int) -> list[Cut]:
    """Cuts the tensors of a launch whose programs have ``lanes`` lanes, into enough portions for a large GPU."""
    by_tile = [_cut(tensor, path, lanes, 1) for tensor, path in zip(tensors, paths, strict=True)]
    tiles_per_portion = max(1, sum(cut.programs for cut in by_tile) // _ENOUGH_PROGRAMS)
    return [_cut(tensor, path, lanes, tiles_per_portion) for tensor, path in zip(tensors, paths, strict=True)]


def _cut(tensor: TensorFacts, path: int, lanes: int, tiles_per_portion: int) -> Cut:
    """Where a channel fills a tile it is a run, so that a program finds one channel's rank for many tiles.

    Smaller channels share tiles, and then a program has a single tile.
    """
    tile = 4 * lanes if path == SMALL_KERNELS else lanes
    if path == IDLE:
        return Cut(0, 0, tile)
    if path == ELEMENTS:
        return Cut(*_element_runs(tensor), tile * tiles_per_portion)
    if tensor.kernels >= tile:
        return Cut(tensor.channels, tensor.kernels, tile * tiles_per_portion)
    return Cut(1, tensor.channels * tensor.kernels, tile)


def _element_runs(tensor: TensorFacts) -> tuple[int, int]:
    """(runs, groups in a run): a run is a stretch of consecutive words, the whole tensor if possible."""
    first_channel, first_kernel, kernels_per_channel = tensor.shard
    elements = tensor.kernels * tensor.taps  # of a channel
    if tensor.channels == 1 or kernels_per_channel == tensor.kernels:
        skipped = (first_channel * kernels_per_channel + first_kernel) * tensor.taps % GROUP
        return 1, -(-(skipped + tensor.channels * elements) // GROUP)
    return tensor.channels, -(-(GROUP - 1 + elements) // GROUP)
