"""python -m pytest bench/speed/bench_perturb.py --benchmark-only: pytest-benchmark's view of single calls.

``python -m bench.speed.ratios`` compares with other code, in one interleaved run.
"""

import pytest
import torch

import tip_kernels as tip
from bench.speed import models
from tip_kernels.rng import GENERATORS

MODELS = {name: models.MODELS[name]() for name in ("resnet18", "resnet50")}


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("ratio", [0.3, 1.0])
@pytest.mark.parametrize("model", MODELS)
def test_perturb(benchmark, model, ratio, generator):
    grads, rng = models.gradients(MODELS[model]), tip.NoiseRNG(generator=generator)
    benchmark(lambda: tip.perturb_(*grads, ratio=ratio, std=1e-3, rng=rng))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(benchmark, dtype):
    grads, rng = models.gradients(MODELS["resnet18"], dtype=dtype), tip.NoiseRNG()
    benchmark(lambda: tip.perturb_(*grads, ratio=0.3, std=1e-3, rng=rng))


def test_channels_last(benchmark):
    grads, rng = models.gradients(MODELS["resnet18"]), tip.NoiseRNG()
    tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in grads.tensors]
    benchmark(lambda: tip.perturb_(tensors, grads.scores, ratio=0.3, std=1e-3, rng=rng))


@pytest.mark.parametrize(
    "given", [{"floor_std": 1e-4}, {"grad_scale": 0.5}, {"keep": 0.0}], ids=lambda g: next(iter(g))
)
def test_options(benchmark, given):
    grads, rng = models.gradients(MODELS["resnet18"]), tip.NoiseRNG()
    benchmark(lambda: tip.perturb_(*grads, ratio=0.3, std=1e-3, rng=rng, **given))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_channel_saliency(benchmark, memory_format):
    activation_grad = torch.randn(16, 256, 56, 56).contiguous(memory_format=memory_format)
    benchmark(tip.channel_saliency, activation_grad)


def test_call_of_one_channel_tensors(benchmark):
    grads, rng = models.gradients(models.one_channel(MODELS["resnet50"])), tip.NoiseRNG()
    benchmark(lambda: tip.perturb_(*grads, ratio=0.3, std=1e-3, rng=rng))
