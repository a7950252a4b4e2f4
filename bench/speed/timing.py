"""Interleaved timing: each repeat times every contestant, so that what disturbs the machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Quartiles(NamedTuple):
    """Milliseconds: the median of the repeats, and the lower and upper quartile."""

    median: float
    lower: float
    upper: float


def interleaved(
    contestants: dict[str, Callable[[], object]], device: torch.device, repeats: int, calls: int = 1
) -> dict[str, Quartiles]:
    """Milliseconds of one call of each contestant.

    Args:
        contestants: by name; each does its work on ``device``.
        device: on the CPU the wall clock counts, on CUDA the time between two events on the stream.
        repeats: at least 2; each times every contestant once.
        calls: calls in a row that one time is the mean of.
    """
    measure = _milliseconds_cuda if device.type == "cuda" else _milliseconds_cpu
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        measure(contestant, 2)  # warms caches, thread pools, compilers
    for _ in range(repeats):
        for name, contestant in contestants.items():
            times[name].append(measure(contestant, calls))
    return {name: _quartiles(values) for name, values in times.items()}


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


def _milliseconds_cpu(function: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) * 1e3 / calls


def _milliseconds_cuda(function: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def _quartiles(values: list[float]) -> Quartiles:
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median, lower, upper)
