"""The same key, step and shapes give the same noise, however a call is run, and in every version of a contract."""

import itertools
import multiprocessing
import os
import subprocess
import sys

import contract_model as model
import golden
import pytest
import torch
from calls import Call

import tip_kernels as tip
from tip_kernels.rng import CONTRACT_VERSION

KEY = golden.KEY
CASES = [(section, name) for section, named in golden.calls().items() for name in named]


@pytest.fixture(scope="module")
def kept() -> dict:
    return golden.read()


def test_the_file_is_of_this_version_and_complete(kept):
    assert kept["contract_version"] == CONTRACT_VERSION, golden.ADVICE
    assert [{k: v for k, v in run.items() if k != "words"} for run in kept["words"]] == golden.addresses()
    assert {section: list(kept[section]) for section in golden.calls()} == {
        section: list(named) for section, named in golden.calls().items()
    }


def test_golden_words(kept, backend):
    """Bit for bit, of every generator."""
    for run in kept["words"][:: 7 if backend.interpreted else 1]:
        rng = tip.NoiseRNG(KEY, run["generator"], run["step"])
        got = backend.words(
            rng.state(torch.device("cpu")).clone(),
            run["tensor_id"],
            run["first"],
            golden.WORDS_AT_ONCE,
            rng.generator_id,
        )
        assert golden.as_text(got.numpy()) == run["words"], f"{run} on {backend.name}: {golden.ADVICE}"


@pytest.mark.parametrize(("section", "name"), CASES)
def test_golden_noise(section, name, kept, backend):
    """To float32 rounding."""
    call = golden.calls()[section][name]
    grads = [None if grad is None else grad.to(backend.device) for grad in call.grads()]
    scores = [None if score is None else score.to(backend.device) for score in call.scores()]
    call.run(backend.name, grads, scores)
    for place, (grad, want, result) in enumerate(zip(grads, call.expected(), kept[section][name], strict=True)):
        if want is None:
            continue
        try:
            golden.kept(want, result).check(grad.cpu().double().numpy())
        except AssertionError as error:
            raise AssertionError(f"{section} {name}, tensor {place}: {golden.ADVICE}\n{error}") from None


def test_golden_model(kept):
    """The model of the contract has not changed either."""
    made = golden.contents()
    assert made["words"] == kept["words"], golden.ADVICE
    for section, name in CASES:
        for now, before in zip(made[section][name], kept[section][name], strict=True):
            assert (now is None) == (before is None)
            if now is not None:
                assert now["grid"] == before["grid"], golden.ADVICE
                assert now["exact"] == pytest.approx(before["exact"], rel=1e-10, abs=1e-12), golden.ADVICE


@pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is absent")
@pytest.mark.parametrize("variant", ["generic", "avx2", "avx512", "neon"])
def test_golden_on_every_instruction_set(variant):
    if torch.ops.tip_kernels.cpu_variant() == variant:
        pytest.skip("the variant of this process, which the tests above are about")
    environment = {**os.environ, "TIP_KERNELS_CPU": variant, "OMP_NUM_THREADS": "1"}
    chosen = "(golden_words or golden_noise) and cpu"
    tests = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", chosen, __file__]
    result = subprocess.run(tests, env=environment, capture_output=True, text=True, check=False)
    if "expected TIP_KERNELS_CPU to be one of" in result.stdout:
        pytest.skip(f"this processor or build has no {variant}")
    assert result.returncode == 0, result.stdout[-3000:]


# Ways to run one call. Each takes the gradients and the rest of a call, and gives its results as contiguous tensors.

GENERATORS = ("chacha12", "philox")
SHAPES = ((9, 40, 3, 3), (40,), (6, 5, 5, 5), (5, 40, 3, 3), (8, 33, 7), (21, 1, 3, 3), (7, 11), (3, 4, 2, 3, 2), ())
AMOUNTS = {"ratio": 0.4, "std": 0.7}
SETTINGS = {
    "noise": {},
    "floor": {"floor_std": 0.3},
    "keep and scale": {"keep": 0.25, "grad_scale": -1.7},
    "all": {"keep": 0.25, "grad_scale": -1.7, "floor_std": 0.3},
}


def gradients(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Values that every dtype has."""
    return [(torch.arange(n).reshape(s) * 37 % 17 - 8).to(dtype) / 8 for s in SHAPES for n in [torch.Size(s).numel()]]


def all_scores() -> list[torch.Tensor | None]:
    return [torch.arange(float(s[0])) * 7 % 5 if len(s) > 2 else None for s in SHAPES]


def run(grads: list, backend: str, generator: str, setting: str, **more) -> list:
    rng = tip.NoiseRNG(KEY, generator, 2**33 + 7)
    tip.perturb_(grads, all_scores(), rng=rng, backend=backend, **AMOUNTS, **SETTINGS[setting], **more)
    return grads


def with_threads(count: int):
    def way(*call) -> list:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return run(gradients(), *call)
        finally:
            torch.set_num_threads(before)

    return way


def lying(lay_out):
    return lambda *call: run([lay_out(grad) for grad in gradients()], *call)


def backwards(grad: torch.Tensor) -> torch.Tensor:
    """Axes in memory in reverse order."""
    axes = list(range(grad.dim()))[::-1]
    return grad.permute(axes).contiguous().permute(axes)


def channels_last(grad: torch.Tensor) -> torch.Tensor:
    return grad.movedim(1, -1).contiguous().movedim(-1, 1) if grad.dim() > 2 else grad


def every_other(grad: torch.Tensor) -> torch.Tensor:
    return torch.stack([grad, -grad], dim=-1)[..., 0]


def one_by_one(*call) -> list:
    results = []
    for i, grad in enumerate(gradients()):
        alone = [None] * len(SHAPES)
        alone[i] = grad
        results.append(run(alone, *call)[i])
    return results


def in_parts(channels: int, kernels: int):
    """Tensors with channels and kernels are split into pieces of so many, which stay views of the whole."""

    def way(*call) -> list:
        grads = gradients()
        for i, grad in enumerate(grads):
            for place, piece in _pieces(grad, channels, kernels):
                parts, shards = [None] * len(SHAPES), [None] * len(SHAPES)
                parts[i], shards[i] = piece, place
                run(parts, *call, shards=shards)
        return grads

    return way


def _pieces(grad: torch.Tensor, channels: int, kernels: int):
    if grad.dim() < 2:
        return [(None, grad)]
    return [
        (tip.Shard(c, m, grad.shape[1]), grad[c : c + channels, m : m + kernels])
        for c in range(0, grad.shape[0], channels)
        for m in range(0, grad.shape[1], kernels)
    ]


def compiled(backend: str, generator: str, setting: str) -> list:
    torch.compiler.reset()

    def step(grads, scores, rng):
        tip.perturb_(grads, scores, rng=rng, backend=backend, **AMOUNTS, **SETTINGS[setting])
        return grads

    rng = tip.NoiseRNG(KEY, generator, 2**33 + 7)
    results = torch.compile(step, fullgraph=True, backend="aot_eager")(gradients(), all_scores(), rng)
    torch.compiler.reset()
    return results


def as_dtype(dtype: torch.dtype):
    return lambda *call: run(gradients(dtype), *call)


WAYS = {
    "1 thread": with_threads(1),
    "2 threads": with_threads(2),
    "3 threads": with_threads(3),
    "reversed axes": lying(backwards),
    "channels last": lying(channels_last),
    "every other element": lying(every_other),
    "one by one": one_by_one,
    "channel by channel": in_parts(1, 10**6),
    "parts of 2 x 7": in_parts(2, 7),
    "bfloat16": as_dtype(torch.bfloat16),
    "float16": as_dtype(torch.float16),
    "float64": as_dtype(torch.float64),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same(way, generator, setting, backend):
    skip_interpreted(backend)
    want = run(gradients(), backend.name, generator, setting)
    for got, base in zip(WAYS[way](backend.name, generator, setting), want, strict=True):
        if got.dtype == torch.float64:  # the same words and normals in other arithmetic
            grid = 2.0**-12 if "floor_std" in SETTINGS[setting] else 0.0
            torch.testing.assert_close(got, base.double(), rtol=1e-5, atol=1e-5 + grid)
        else:
            assert torch.equal(got, base.to(got.dtype)), tuple(got.shape)


@pytest.mark.parametrize("setting", ["noise", "all"])
def test_compiled_gives_the_same(setting, backend):
    skip_interpreted(backend)
    want = run(gradients(), backend.name, "chacha12", setting)
    assert all(map(torch.equal, compiled(backend.name, "chacha12", setting), want))


def skip_interpreted(backend) -> None:
    if backend.interpreted:
        pytest.skip("Triton's interpreter is compared by golden calls and properties")


def _work(job: tuple) -> list:
    """A process of its own makes the noise of the channels that are its part."""
    rank, count, backend, generator, setting = job
    torch.set_num_threads(1)
    grads, shards, places = gradients(), [None] * len(SHAPES), []
    for i, grad in enumerate(grads):
        if grad.dim() < 2:
            continue
        share = -(-grad.shape[0] // count)
        grads[i] = grad[rank * share : (rank + 1) * share]
        shards[i] = tip.Shard(rank * share, 0, grad.shape[1])
        places.append(i)
    run(grads, backend, generator, setting, shards=shards)
    return [grads[i].tolist() for i in places]


def test_any_number_of_processes_gives_the_same():
    """Each perturbs its channels of every tensor, in a process that was spawned."""
    names = [name for name in ("cpu", "reference") if name in tip.available_backends()]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for name, count in itertools.product(names, (1, 2, 3)):
            want = run(gradients(), name, "chacha12", "all")
            parts = pool.map(_work, [(rank, count, name, "chacha12", "all") for rank in range(count)])
            whole = [torch.cat([torch.tensor(piece) for piece in pieces]) for pieces in zip(*parts, strict=True)]
            assert all(map(torch.equal, whole, [grad for grad in want if grad.dim() > 1]))


def test_portions_of_the_work_do_not_show(backend):
    """A tensor that threads take in several portions, against the model."""
    skip_interpreted(backend)
    shape, floor = (40, 500, 3, 3), 0.5
    for generator in model.GENERATORS:
        results = []
        for threads in (1, 2, 3):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            grad = backend.zeros(*shape)
            rng = tip.NoiseRNG(KEY, generator)
            backend.perturb_([grad], [backend.scores(40)], ratio=0.5, std=0.25, floor_std=floor, rng=rng)
            torch.set_num_threads(before)
            results.append(grad.cpu())
        mask = model.high_bins((3, 3), 0.5)
        tensor = model.Tensor(
            results[0].double().numpy() * 0, "float32", backend.scores(40).tolist(), 0.5, 0.25, floor, mask=mask
        )
        (want,) = model.perturb(model.Noise(KEY, generator, 0), [tensor])
        want.check(results[0].double().numpy())
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_calls_of_the_golden_file_are_small():
    """So that the file can be read."""
    assert golden.path().stat().st_size < 100_000
    assert all(isinstance(call, Call) for named in golden.calls().values() for call in named.values())
