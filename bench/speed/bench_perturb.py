"""python -m pytest bench/speed/bench_perturb.py --benchmark-only: pytest-benchmark's view of single calls.

The axes are op, backend, generator, dtype, layout and model. Each case differs from the first one in one of them; with
--every all combinations are measured, with --model NAME those of another model. Beside milliseconds stand GB/s of what
an op must read and write, and their share of a copy's. ``make bench-save`` keeps figures by commit, and
``bench.speed.compare`` says what became slower. ``python -m bench.speed.ratios`` compares with other code.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

import tip_kernels as tip
from bench.speed import models
from tip_kernels._bench.parameters import Gradients, count, gradients, selected
from tip_kernels._op import dispatch, plan
from tip_kernels.rng import GENERATORS

RATIO, STD = 0.3, 1e-3
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in plan.DTYPES}
LAYOUTS = ("contiguous", "channels_last")


class Case(NamedTuple):
    """By name, one level of each axis."""

    op: str
    backend: str
    generator: str
    dtype: str
    layout: str
    model: str


def perturb(case: Case, grads: Gradients, **options: float) -> Callable[[], None]:
    rng = tip.NoiseRNG(generator=case.generator)
    settings = {"ratio": RATIO, "std": STD, **options}
    return lambda: tip.perturb_(*grads, rng=rng, backend=case.backend, **settings)


def clip_scale(case: Case, grads: Gradients) -> Callable[[], object]:
    device = grads.tensors[0].device
    op, state = dispatch.clip_op(case.backend, device), tip.NoiseRNG().state(device)
    return lambda: op(grads.tensors, None, state, 1.0, [], None)


OPS = {
    "perturb_": (perturb, lambda parameters: 2 * selected(parameters, RATIO)),
    "perturb_ with a floor": (
        lambda case, grads: perturb(case, grads, floor_std=STD),
        lambda parameters: 2 * count(parameters),
    ),
    "clip_scale": (clip_scale, count),
}
"""Functions that make a call, and elements that it reads and writes."""


def cases(config: pytest.Config) -> list[Case]:
    """Those that are asked for."""
    axes = {
        "op": list(OPS),
        "backend": tip.available_backends(config.getoption("--device")),
        "generator": sorted(GENERATORS, key=lambda name: name != "chacha12"),
        "dtype": list(DTYPES),
        "layout": list(LAYOUTS),
        "model": config.getoption("--model") or ["resnet18"],
    }
    if config.getoption("--every"):
        every = [Case(*levels) for levels in itertools.product(*axes.values())]
        return [case for case in every if case.op != "clip_scale" or case.generator == axes["generator"][0]]
    found = []
    for model in axes["model"]:
        first = Case(*(levels[0] for levels in axes.values()))._replace(model=model)
        others = [first._replace(**{axis: level}) for axis in axes if axis != "model" for level in axes[axis][1:]]
        found += [first, *others]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases(metafunc.config), ids="-".join)


def test_op(measure, device, case):
    parameters = models.MODELS[case.model]()
    make, elements = OPS[case.op]
    dtype = DTYPES[case.dtype]
    grads = laid_out(gradients(parameters, device, dtype), case.layout)
    measure(make(case, grads), dtype.itemsize * elements(parameters))


@pytest.mark.parametrize(
    "given", [{"ratio": 1.0}, {"grad_scale": 0.5}, {"keep": 0.0}, {"max_grad_norm": 1.0}], ids=lambda g: next(iter(g))
)
def test_options(measure, device, given):
    parameters = models.resnet18()
    case = Case("perturb_", tip.available_backends(device)[0], "chacha12", "float32", "contiguous", "resnet18")
    touched = 2 * selected(parameters, given.get("ratio", RATIO))
    if "grad_scale" in given or "max_grad_norm" in given:  # of everything; a norm reads it once more
        touched = (2 + ("max_grad_norm" in given)) * count(parameters)
    measure(perturb(case, gradients(parameters, device), **given), 4 * touched)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channel_saliency(measure, device, layout):
    activations = Gradients([torch.randn(16, 256, 56, 56, device=device)], [None])
    [activation_grad] = laid_out(activations, layout).tensors
    measure(lambda: tip.channel_saliency(activation_grad), activation_grad.nbytes)


def test_call_of_one_channel_tensors(measure, device):
    parameters = models.one_channel(models.resnet50())
    case = Case("perturb_", tip.available_backends(device)[0], "chacha12", "float32", "contiguous", "resnet50")
    measure(perturb(case, gradients(parameters, device)), 8 * selected(parameters, RATIO))


def laid_out(grads: Gradients, layout: str) -> Gradients:
    """With kernels [C, M, ...] in memory as they are, or with M last."""
    if layout == "contiguous":
        return grads
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    tensors = [t.contiguous(memory_format=formats[t.dim()]) if t.dim() in formats else t for t in grads.tensors]
    return Gradients(tensors, grads.scores)
