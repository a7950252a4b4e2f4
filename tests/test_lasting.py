"""What a CUDA graph or another stream may still read is not given back: tables of amounts, bases, the state."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

import tip_kernels as tip
from tip_kernels._op import call as _call
from tip_kernels._op.call import Options, PreparedCall, prepare
from tip_kernels._runtime import lasting

GPU = torch.device("cuda", 0)


class OnGpu:
    """Stands for a tensor on a GPU: has its device, and remembers the streams that it was recorded for."""

    device = GPU

    def __init__(self) -> None:
        self.recorded: list[object] = []

    def record_stream(self, stream: object) -> None:
        self.recorded.append(stream)


def prepared(ratio: float, **options) -> PreparedCall:
    given = Options(ratio=ratio, std=0.1, floor_std=0.2, rng=tip.NoiseRNG(), cutoff=0.61, **options)
    return prepare([torch.zeros(8, 4, 3, 3)], [torch.arange(8.0)], given)


@pytest.fixture
def captured(monkeypatch) -> list:
    kept: list = []
    monkeypatch.setattr(lasting, "_CAPTURED", kept)
    monkeypatch.setattr(lasting, "is_capturing", lambda device: True)
    monkeypatch.setattr(_call, "is_capturing", lambda device: device.type == "cuda")
    return kept


def test_a_captured_call_keeps_what_it_reads(captured):
    """A plan is forgotten after 64 others, and its basis with it, but a graph has the basis's address for good."""
    call = prepared(0.5)
    given = call.arguments._replace(state=OnGpu())
    read = [*given.scores, *given.bases, given.std, given.floor_std]
    watched = [weakref.ref(tensor) for tensor in read]
    call._replace(op=lambda *_: None, arguments=given).run()
    del call, given, read
    for i in range(70):
        prepared(i / 100)
    gc.collect()
    assert [ref() is not None for ref in watched] == [True] * len(watched)
    assert any(isinstance(thing, OnGpu) for thing in captured[0])


def test_another_stream_keeps_what_it_reads(monkeypatch):
    stream = SimpleNamespace()
    monkeypatch.setattr(lasting, "is_capturing", lambda device: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    tensors = [OnGpu(), OnGpu()]
    lasting.keep(tensors, GPU)
    assert [tensor.recorded for tensor in tensors] == [[stream], [stream]]


def test_amounts_are_complete_when_they_are_made(monkeypatch):
    """Made on the host and copied, which waits: a kernel that fills them would be in the order of one stream only."""
    made = []
    full = torch.full

    def recorded(*args, **options):
        made.append(options["device"])
        return full(*args, **options)

    monkeypatch.setattr(torch, "full", recorded)
    _call.constant(0.123456789, (3,), torch.device("meta"))
    assert made == ["cpu"]
