"""Interleaved timing: each repeat times every contestant, so that what disturbs the machine disturbs all alike."""

from collections.abc import Callable

import torch

from tip_kernels._bench.timing import Contestants, Quartiles, milliseconds, quartiles


def interleaved(contestants: Contestants, device: torch.device, repeats: int, calls: int = 1) -> dict[str, Quartiles]:
    """Milliseconds of one call of each contestant.

    Args:
        contestants: by name; each does its work on ``device``.
        device: on the CPU the wall clock counts, on CUDA the time between two events on the stream.
        repeats: at least 2; each times every contestant once.
        calls: calls in a row that one time is the mean of.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        milliseconds(contestant, device, 2)  # warms caches, thread pools, compilers
    for _ in range(repeats):
        for name, contestant in contestants.items():
            times[name].append(milliseconds(contestant, device, calls))
    return {name: quartiles(values) for name, values in times.items()}


def as_graph(function: Callable[[], object]) -> Callable[[], object]:
    """The replay of a CUDA graph of the function: its time without Python's."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
