"""How long functions take, by turns: what disturbs the machine for a while disturbs all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Quartiles(NamedTuple):
    """Milliseconds: the median of the repeats, and the lower and upper quartile."""

    median: float
    lower: float
    upper: float


Contestants = Mapping[str, Callable[[], object]]
"""Functions by name, each of which does its work on one device."""


def in_fair_turns(
    contestants: Contestants,
    device: torch.device,
    seconds: float,
    least: int,
    progress: Callable[[float], None] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of every call of each contestant, after one that warms up.

    The next turn is that of the contestant that has had the least time, so that fast ones are timed often and slow
    ones, spread over the whole run, seldom.

    Args:
        contestants: at least one.
        device: see :func:`milliseconds`.
        seconds: for all of them together.
        least: calls of each, at least, even if that takes longer.
        progress: is told which share is done.
    """
    for contestant in contestants.values():
        milliseconds(contestant, device)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    start = time.perf_counter()
    while True:
        elapsed = time.perf_counter() - start
        waiting = [name for name in contestants if elapsed < seconds or len(times[name]) < least]
        if not waiting:
            return times
        name = min(waiting, key=lambda name: sum(times[name]))
        times[name].append(milliseconds(contestants[name], device))
        if progress is not None:
            had = sum(min(len(each), least) for each in times.values()) / (least * len(contestants))
            progress(min(had, 1.0 if elapsed >= seconds else elapsed / seconds))


def milliseconds(function: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Of a call of the function, as the mean of so many in a row.

    Args:
        function: does its work on ``device``.
        device: on the CPU the wall clock counts, on CUDA the time between two events on the stream.
        calls: at least 1.
    """
    return (_milliseconds_cuda if device.type == "cuda" else _milliseconds_cpu)(function, calls)


def quartiles(times: list[float]) -> Quartiles:
    """Of at least two times."""
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Quartiles(median, lower, upper)


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
    return float(start.elapsed_time(end)) / calls
