"""The Triton backend without a GPU: its host code as on one, and its kernels' PTX executed on the CPU (tests/ptx).

Triton takes half a minute for some kernels, which it keeps for the next time: each row is a kernel of its own.
"""

import math

import pytest
import test_perturb
import torch
from ptx.backend import backend_on_ptx
from ptx.launch import Schedule
from ptx.rows import KEY
from released import least_amounts, step_of, unrounded
from test_saliency_op import assert_saliency

import tip_kernels as tip

pytest.importorskip("triton")
from ptx.triton_on_cpu import TritonOnCpu  # it imports Triton


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


CONV, LAST, UNALIGNED = (12, 8, 3, 3), {"last": True}, {"offset": 1}
SHAPE = tip.Amplitudes(tuple(0.2 + j / 12 for j in range(9)), tuple(0.9 - j / 12 for j in range(9)))
LARGE = (2, 264, 3, 3)  # several tiles of a program
EVERYTHING = {"floor_std": 0.3, "grad_scale": -1.7, "keep": 0.5}
ROWS = {  # shapes, dtype, generator, options, layout: the paths and arithmetics of test_triton_compile.launches
    "3x3": ([CONV], torch.float32, "chacha12", {}, {}),
    "3x3 floor": ([CONV], torch.float32, "chacha8", {"floor_std": 0.3}, {}),
    "3x3 16-bit": ([CONV], torch.bfloat16, "chacha20", {}, {}),
    "3x3 channels_last": ([CONV], torch.float32, "chacha12", {"keep": 0.5}, LAST),
    "3x3 unaligned": ([LARGE], torch.float16, "philox", {"grad_scale": -1.7}, UNALIGNED),
    "any": ([(5, 3, 7, 7), (3, 5, 3, 3)], torch.float32, "chacha12", {}, {}),
    "3x3 shaped": ([CONV], torch.float32, "chacha12", {"floor_std": 0.3, "amplitudes": [SHAPE]}, {}),
    "any shaped": ([(5, 3, 9)], torch.float64, "chacha12", {"floor_std": 0.3, "amplitudes": [SHAPE]}, {}),
    "any 16-bit": ([(4, 2, 9, 9)], torch.bfloat16, "philox", EVERYTHING, {}),
    "network": ([(5, 3, 7, 7), CONV, (40,), (7, 30)], torch.float32, "philox", EVERYTHING, {}),
    "network in double": ([(3, 3, 5, 5), (40,), (7, 30)], torch.float64, "chacha12", EVERYTHING, {}),
}


def gradients(shapes: list, dtype: torch.dtype, last: bool = False, offset: int = 0) -> tuple[list, list]:
    draw = torch.Generator().manual_seed(4)
    grads, scores = [], []
    for shape in shapes:
        values = torch.randn(shape, generator=draw).to(dtype)
        memory = torch.zeros(values.numel() + offset, dtype=dtype)[offset:]
        grad = memory.view(shape)
        if last:
            grad = memory.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
        grads.append(grad.copy_(values))
        scores.append(torch.rand(shape[0], generator=draw) if len(shape) > 2 else None)
    return grads, scores


def perturbed(name: str, backend: str) -> tuple[list, tip.NoiseRNG]:
    shapes, dtype, generator, options, layout = ROWS[name]
    grads, scores = gradients(shapes, dtype, **layout)
    if backend == "reference":
        grads = [grad.to(torch.float64 if dtype == torch.float64 else torch.float32) for grad in grads]
    rng = tip.NoiseRNG(KEY, generator, test_perturb.STEP)
    tip.perturb_(grads, scores, ratio=0.4, std=0.7, rng=rng, backend=backend, **options)
    return grads, rng


def tolerance_of(result: torch.Tensor, options: dict) -> float:
    """As test_perturb.float_tolerance derives it, for gradients below 5."""
    taps = math.prod(result.shape[2:])
    roundoff = 2.0**-53 if result.dtype == torch.float64 else test_perturb.U32
    noise = (0.7 + options.get("floor_std", 0.0)) * test_perturb.NORMAL_MAX
    largest = abs(options.get("grad_scale", 1.0)) * 5 + noise
    return math.sqrt(taps) * ((2 * taps + 8) * roundoff * largest + 8 * test_perturb.U32 * noise)


@pytest.mark.parametrize("seed", [None, 0], ids=["lockstep", "shuffled"])
@pytest.mark.parametrize("name", ROWS)
def test_equals_the_reference(name, seed, device, backend):
    _, dtype, _, options, _ = ROWS[name]
    device.schedule = Schedule(seed)
    got, rng = perturbed(name, "triton")
    assert rng.step == test_perturb.STEP + 1
    assert device.launches
    with unrounded():
        want, _ = perturbed(name, "reference")
    for result, expected in zip(got, want, strict=True):
        tolerance = tolerance_of(result, options)
        amounts = options.get("floor_std", 0.0), 0.7 if result.dim() > 2 else 0.0
        step = step_of(*(least_amounts(*amounts, SHAPE, 8) if "amplitudes" in options else amounts))
        test_perturb.assert_close(result, expected, dtype, tolerance, step)
