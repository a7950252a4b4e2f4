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
    patience: float,
    progress: Callable[[float], None] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of every call of each contestant, after one that warms up; of a very slow one, of that one.

    The next turn is that of the contestant that has had the least time, so that fast ones are timed often and slow
    ones, spread over the whole run, seldom.

    Args:
        contestants: at least one.
        device: see :func:`milliseconds`.
        seconds: for all of them together.
        least: calls of each, at least, even if that takes longer.
        patience: seconds; whose first call takes longer is called no more.
        progress: is told which share is done.
    """
    first = {name: milliseconds(contestant, device) for name, contestant in contestants.items()}
    slow = {name for name, time in first.items() if time > 1e3 * patience}
    times = {name: [first[name]] if name in slow else [] for name in contestants}
    start = time.perf_counter()
    while True:
        elapsed = time.perf_counter() - start
        waiting = [n for n in contestants if n not in slow and (elapsed < seconds or len(times[n]) < least)]
        if not waiting:
            return times
        name = min(waiting, key=lambda name: sum(times[name]))
        times[name].append(milliseconds(contestants[name], device))
        if progress is not None:
            had = sum(min(len(times[n]), least) for n in contestants if n not in slow)
            due = least * (len(contestants) - len(slow))
            progress(min(had / due, 1.0 if elapsed >= seconds else elapsed / seconds))


def milliseconds(function: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Of a call of the function, as the mean of so many in a row.

    Args:
        function: does its work on ``device``.
        device: on CUDA the time between two events on the stream counts, else the wall clock.
        calls: at least 1.
    """
    if device.type == "cuda":
        return _milliseconds_cuda(function, calls)
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    _synchronize(device)
    return (time.perf_counter() - start) * 1e3 / calls


def quartiles(times: list[float]) -> Quartiles:
    """Of at least one time."""
    if len(times) == 1:
        return Quartiles(*times, *times, *times)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Quartiles(median, lower, upper)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _milliseconds_cuda(function: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / calls
