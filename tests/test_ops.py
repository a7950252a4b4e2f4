"""The ops as PyTorch sees them: schemas, fakes, functionalization, ``torch.compile``."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch
from released import TINY_FLOOR

import tip_kernels as tip
from tip_kernels._op import dispatch, graph_op
from tip_kernels._op.call import Options, prepare

KEY = bytes(32)
SIZES = [(8, 3, 3, 3), (8,), (4, 8, 5, 5), (0, 3, 3, 3), (6, 4, 1, 1), (3, 8)]


def gradients(device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    draw = torch.Generator().manual_seed(0)
    grads = [torch.randn(size, generator=draw).to(device) for size in SIZES]
    scores = [torch.rand(size[0], generator=draw).to(device) if len(size) > 2 else None for size in SIZES]
    grads[2] = grads[2].contiguous(memory_format=torch.channels_last)
    return grads, scores


def op_and_arguments(backend, **given) -> tuple:
    """What ``perturb_`` calls, with everything optional present unless given otherwise."""
    grads, scores = gradients(backend.device)
    arguments = {"floor_std": 0.2, "grad_scale": 1.5, "shards": [tip.Shard(1, 0, 8), *[None] * 5], **given}
    if arguments["shards"]:
        scores[0] = backend.scores(9)
    call = prepare(grads, scores, Options(0.3, 0.7, tip.NoiseRNG(KEY), keep=0.5, backend=backend.name, **arguments))
    return call.op, call.arguments


@pytest.mark.parametrize(
    "given", [{}, {"floor_std": 0.0, "grad_scale": None, "shards": None}], ids=["everything", "nothing optional"]
)
def test_opcheck_perturb(given, backend):
    op, arguments = op_and_arguments(backend, **given)
    torch.library.opcheck(op, tuple(arguments))


def test_opcheck_perturb_in_graph(backend):
    op, arguments = op_and_arguments(backend)
    op = getattr(torch.ops.tip_kernels, op.name().removeprefix("tip_kernels::").replace("perturb", "perturb_in_graph"))
    torch.library.opcheck(op.default, (*arguments, graph_op.numbers_of(0.5, 2.0, 0.3), [], None))


def test_opcheck_perturb_of_nothing(backend):
    op, arguments = op_and_arguments(backend, shards=None)
    none = {name: [] for name, value in arguments._asdict().items() if isinstance(value, list)}
    torch.library.opcheck(op, tuple(arguments._replace(**none)))


@pytest.mark.parametrize("shape", [(4, 6, 5, 5), (4, 6), (2, 3, 4, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_channel_saliency(shape, dtype, backend):
    op = dispatch.saliency_op(backend.name, backend.device)
    torch.library.opcheck(op, (backend.gradient(*shape, dtype=dtype),))


def test_a_library_that_lacks_an_op_is_named():
    """As one that was built from older sources; the op must not call itself for ever."""
    if "cpu" not in tip.available_backends():
        pytest.skip("no compiled library")
    lacking = dispatch._forward_to_fastest("channel_saliency{}", dispatch._device_of_first)
    with pytest.raises(RuntimeError, match="library of backend 'cpu' lacks channel_saliency: build it again"):
        lacking(torch.zeros(1, 1))


def test_opcheck_words(backend):
    state = tip.NoiseRNG(KEY).state(backend.device)
    op = dispatch.words_op(backend.name, backend.device)
    torch.library.opcheck(op, (backend.zeros(40, dtype=torch.int32), state, 3, 2**40, 12))


@pytest.fixture
def compiled():
    """``torch.compile(fullgraph=True)`` without what earlier tests have compiled."""
    torch.compiler.reset()

    def compile_whole(function, **options):
        return torch.compile(function, fullgraph=True, backend="aot_eager", **options)

    yield compile_whole
    torch.compiler.reset()


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_perturb_equals_eager(dynamic, compiled, backend):
    def step(grads, scores, rng, std):
        grads = [grad * 2 for grad in grads]
        backend.perturb_(grads, scores, ratio=0.3, std=std, floor_std=0.2, rng=rng)
        return [grad + 1 for grad in grads]

    want = step(*gradients(backend.device), tip.NoiseRNG(KEY), 0.7)
    got = compiled(step, dynamic=dynamic)(*gradients(backend.device), tip.NoiseRNG(KEY), 0.7)
    assert all(map(torch.equal, got, want))


def test_compiled_perturb_draws_new_noise_at_each_call(compiled, backend):
    rng = tip.NoiseRNG(KEY)

    @compiled
    def noise():
        zeros = backend.zeros(50)
        backend.perturb_([zeros], [None], ratio=0.3, std=0, floor_std=TINY_FLOOR, rng=rng)
        return zeros

    first, second, third = noise(), noise(), noise()
    assert rng.step == 3
    assert (first != second).all()
    assert (second != third).all()


def test_compiled_perturb_takes_other_models_and_settings(compiled, backend):
    """Shapes and numbers that differ between calls make Dynamo turn them into symbols."""

    def step(grads, scores, ratio, std, cutoff, keep, rng):
        backend.perturb_(grads, scores, ratio=ratio, std=std, cutoff=cutoff, keep=keep, rng=rng)

    compiled_step = compiled(step)
    for channels, *settings in [(5, 0.3, 0.7, 0.5, 1.0), (6, 0.5, 0.8, 0.75, 0.5), (7, 0.9, 0.1, 0.4, 0.0)]:
        grads = [backend.gradient(channels, 4, 3, 3), backend.gradient(channels)]
        want = [grad.clone() for grad in grads]
        scores = [backend.scores(channels), None]
        step(want, scores, *settings, tip.NoiseRNG(KEY))
        compiled_step(grads, scores, *settings, tip.NoiseRNG(KEY))
        assert all(map(torch.equal, grads, want))


@pytest.mark.parametrize("name", ["ratio", "std", "keep", "floor_std", "grad_scale", "max_grad_norm"])
def test_compiled_perturb_takes_a_new_number_at_each_call(name, compiled, backend):
    """The second makes Dynamo leave the number open, and no later one compiles anew; it would give up after eight."""

    def step(grads, scores, rng, number):
        numbers = {"ratio": 0.5, "std": 0.1, "floor_std": 0.01, "max_grad_norm": 5.0, name: number}
        backend.perturb_(grads, scores, rng=rng, **numbers)

    torch._dynamo.utils.counters.clear()
    compiled_step = compiled(step)
    rngs = tip.NoiseRNG(KEY), tip.NoiseRNG(KEY)
    for number in [k / 16 for k in range(1, 5)]:
        (want, scores), (got, _) = gradients(backend.device), gradients(backend.device)
        step(want, scores, rngs[0], number)
        compiled_step(got, scores, rngs[1], number)
        assert all(map(torch.equal, got, want))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"ratio": 1.5}, r"ratio in \[0, 1\], got 1.5"), ({"max_grad_norm": 0.0}, "max_grad_norm to be None or positive")],
)
def test_compiled_perturb_checks_its_numbers(given, expected, compiled, backend):
    def step(grads, rng, **numbers):
        backend.perturb_(grads, [None], rng=rng, **{"ratio": 0.3, "std": 0.1, **numbers})

    with pytest.raises(Exception, match=expected):
        compiled(step)([backend.zeros(3)], tip.NoiseRNG(KEY), **given)


def test_compiled_perturb_checks_its_arguments(compiled, backend):
    rng = tip.NoiseRNG(KEY)

    def step(grads):
        backend.perturb_(grads, [None], ratio=0.3, std=0.1, floor_std=0.1, rng=rng)

    with pytest.raises(Exception, match=r"expected grads\[0\] of dtype float32.*got int64"):
        compiled(step)([backend.zeros(3, dtype=torch.int64)])


def test_compiled_channel_saliency_equals_eager(compiled, backend):
    def saliency(activation_grad):
        return backend.channel_saliency(activation_grad * 2) + 1

    x = backend.gradient(4, 6, 5, 5)
    assert torch.equal(compiled(saliency)(x), saliency(x))


WITHOUT_LIBRARY = """
import warnings
import torch
import tip_kernels as tip

assert tip.available_backends() == ["reference"], tip.available_backends()
warnings.simplefilter("ignore")

def step(grads, scores, rng):
    tip.perturb_(grads, scores, ratio=0.5, std=1.0, rng=rng)
    return tip.channel_saliency(grads[0])

def inputs():
    return [torch.ones(4, 3, 3, 3), torch.ones(4)], [torch.arange(4.0), None], tip.NoiseRNG(bytes(32))

want, got = inputs(), inputs()
compiled = torch.compile(step, fullgraph=True, backend="inductor")
for _ in range(2):
    torch.testing.assert_close(compiled(*got), step(*want))
    assert torch.equal(got[0][0], want[0][0])
assert got[2].step == 2
"""


def test_fullgraph_without_the_compiled_library(tmp_path):
    package = pathlib.Path(tip.__file__).parent
    shutil.copytree(package, tmp_path / "tip_kernels", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARY], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
