"""The Triton backend without a GPU: its host code as on one, and the PTX of its kernels executed on the CPU (tests/ptx).

Triton takes half a minute for some kernels, which it keeps for the next time: each row is a kernel of its own.
"""

import pytest
import test_perturb
import torch
from ptx.backend import backend_on_ptx
from ptx.rows import KEY
from released import assert_on_grid, step_of, unrounded
from test_saliency_op import assert_saliency

import tip_kernels as tip

pytest.importorskip("triton")
from ptx.triton_on_cpu import TritonOnCpu  # noqa: E402 it imports Triton


@pytest.fixture
def device(monkeypatch) -> TritonOnCpu:
    device = TritonOnCpu()
    device.install(monkeypatch)
    return device


@pytest.fixture
def backend(device, monkeypatch):
    return backend_on_ptx("triton", device.op, monkeypatch)


@pytest.mark.parametrize("generator", tip.rng.GENERATORS)
@pytest.mark.parametrize("first", [0, 5, 2**36 - 70])
def test_words(generator, first, device, backend):
    state = tip.NoiseRNG(KEY, generator, 2**33 + 7).state(backend.device)
    number = tip.rng.GENERATORS[generator]
    want = torch.empty(700, dtype=torch.int32)
    torch.ops.tip_kernels.words_reference_(want, state, 5, first, number)
    assert backend.words(state, 5, first, 700, number).tolist() == (want.long() & 0xFFFFFFFF).tolist()
    assert device.launches


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 9, 15), (3, 83, 3, 3)], ids=str)
def test_saliency(shape, dtype, layout, device, backend):
    grad = backend.gradient(*shape, dtype=dtype, layout=layout)
    assert_saliency(backend.channel_saliency(grad), grad)
    assert device.launches
