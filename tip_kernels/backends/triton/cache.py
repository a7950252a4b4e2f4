"""Memory on devices that outlives a call: kept for the next ones, on all streams, and filled without waiting."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..._runtime.tracing import is_capturing


class _Made(NamedTuple):
    """A thing with memory on a device: ready on ``stream`` at once, and elsewhere after ``ready``."""

    value: Any
    memory: list[torch.Tensor]
    stream: torch.cuda.Stream | None
    ready: torch.cuda.Event | None


class DeviceCache:
    """The least recently used things on devices, for all streams.

    What a CUDA graph captures is kept for good, since it may be replayed at any time. What is made during a capture
    is the graph's own, since its content exists only after a replay. A capture begins when the device is idle, so it
    need not wait for what was made before.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[Hashable, _Made] = {}
        self._captured: list[_Made] = []

    def get(self, key: Hashable, device: torch.device, make: Callable[[], tuple[Any, list[torch.Tensor]]]) -> Any:
        """The value that ``make`` returned, with its memory, when it was first asked for this key."""
        made = self._values.pop(key, None)
        if is_capturing(device):
            if made is None:
                made = _Made(*make(), None, None)
            else:
                self._values[key] = made
            self._captured.append(made)
            return made.value
        if made is None:
            made = _make(device, make)
            if len(self._values) == self._size:
                del self._values[next(iter(self._values))]
        else:
            _make_ready(made, device)
        self._values[key] = made
        return made.value


def _make(device: torch.device, make: Callable[[], tuple[Any, list[torch.Tensor]]]) -> _Made:
    value, memory = make()
    if device.type != "cuda":
        return _Made(value, memory, None, None)
    stream = torch.cuda.current_stream(device)
    return _Made(value, memory, stream, stream.record_event())


def _make_ready(made: _Made, device: torch.device) -> None:
    """Has the current stream wait for what was made on another, and its memory be kept until the stream has read it."""
    if made.stream is None or made.ready is None or made.stream == torch.cuda.current_stream(device):
        return
    torch.cuda.current_stream(device).wait_event(made.ready)
    for tensor in made.memory:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(device))


_SPARE: dict[int, torch.Tensor] = {}
"""Pinned memory by size, for captures, during which the driver may refuse to give any."""


def upload(array: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(copy on the device, the host memory that is copied from) without a wait. A graph copies at each replay."""
    source = torch.from_numpy(array)
    if device.type != "cuda":
        return source, source
    pinned = _SPARE.pop(array.nbytes, None) if is_capturing(device) else None
    if pinned is None:
        pinned = torch.empty(array.nbytes, dtype=torch.uint8, pin_memory=True)
    if not is_capturing(device) and array.nbytes not in _SPARE:
        _SPARE[array.nbytes] = torch.empty(array.nbytes, dtype=torch.uint8, pin_memory=True)
    pinned = pinned.view(source.dtype).view(source.shape)
    pinned.copy_(source)
    return pinned.to(device, non_blocking=True), pinned
