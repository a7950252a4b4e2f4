"""The compiled CPU kernels used by several threads at once; ``make test-tsan`` watches them for races."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import tip_kernels as tip
from tip_kernels._op import dispatch

pytestmark = pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is absent")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def model(dtype: torch.dtype) -> tuple[list, list]:
    """More than the 2048 groups of words of one portion, in several layouts."""
    draw = torch.Generator().manual_seed(1)
    grads = [torch.randn(size, generator=draw).to(dtype) for size in [(64, 129, 3, 3), (16, 70, 5, 5), (3000, 7), (9,)]]
    grads[1] = grads[1].contiguous(memory_format=torch.channels_last)
    grads.append(torch.randn(32, 64, 3, 3, generator=draw).to(dtype).contiguous(memory_format=torch.channels_last))
    return grads, [torch.rand(len(g), generator=draw) if g.dim() == 4 else None for g in grads]


def floor_noise(state: torch.Tensor) -> list[float]:
    """A step's noise by the bare op, which unlike ``NoiseRNG`` may be used by several threads."""
    zeros, nothing, one = torch.zeros(100), torch.zeros(0), torch.ones(1)
    torch.ops.tip_kernels.perturb_(
        [zeros], [nothing], [0], [0], [-1], [], [], one, one, None, state, 1.0, 12, None, [], None
    )
    return zeros.tolist()


def test_calls_at_once_each_take_a_step_of_their_own():
    at_once, in_turn = (tip.NoiseRNG(bytes(32)).state(torch.device("cpu")) for _ in range(2))
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: floor_noise(at_once), range(24)))
    assert sorted(drawn) == sorted(floor_noise(in_turn) for _ in range(24))
    assert torch.equal(at_once, in_turn)


@pytest.mark.parametrize(
    "given", [{}, {"floor_std": 0.5, "grad_scale": 0.7}, {"keep": 0.5}], ids=["band", "floor", "keep"]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_models_perturbed_at_once_do_not_touch_each_other(dtype, given):
    want = perturbed(dtype, given)
    with ThreadPoolExecutor(3) as pool:
        for got in pool.map(lambda _: perturbed(dtype, given), range(3)):
            assert all(map(torch.equal, got, want))


def perturbed(dtype: torch.dtype, given: dict) -> list[torch.Tensor]:
    grads, scores = model(dtype)
    tip.perturb_(grads, scores, ratio=0.5, std=1.0, rng=tip.NoiseRNG(bytes(32)), backend="cpu", **given)
    return grads


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_saliencies_at_once_are_those_of_one_thread(last):
    x = torch.randn(4, 300, 20, 20, generator=torch.Generator().manual_seed(2))
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    saliency = dispatch.saliency_op("cpu", x.device)
    want = saliency(x)
    with ThreadPoolExecutor(3) as pool:
        assert all(torch.equal(got, want) for got in pool.map(lambda _: saliency(x), range(3)))
