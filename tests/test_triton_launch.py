"""The launches of the Triton backend: who takes the step, programs as on a GPU, and what outlives a call."""

import pytest
import torch
from released import assert_on_grid, step_of, unrounded

import tip_kernels as tip
from tip_kernels.backends.triton import availability, cache, device, launch, portions, resident
from tip_kernels.backends.triton.cache import DeviceCache


@pytest.fixture(params=["as on a GPU", "as in the interpreter"])
def who_takes_the_step(request, monkeypatch):
    """The first launch, or the host before it."""
    on_gpu = request.param == "as on a GPU"
    monkeypatch.setattr(launch, "can_be_interrupted", lambda _device: not on_gpu)
    return on_gpu


def test_the_step_is_used_when_a_later_launch_fails(backend, who_takes_the_step, monkeypatch):
    """The noise of the first launch stays; a second call must not repeat it."""
    if backend.name != "triton":
        pytest.skip("about launches by dtype")
    grads = [backend.zeros(64), backend.zeros(64, dtype=torch.float64)]
    compile_time, calls = launch._constants, []

    def fails_once(variant):
        calls.append(variant)
        if len(calls) == 2:
            raise OSError("on purpose")
        return compile_time(variant)

    monkeypatch.setattr(launch, "_constants", fails_once)
    rng = tip.NoiseRNG.from_seed(3)
    options = {"ratio": 0, "std": 0.0, "floor_std": 1.0}
    with pytest.raises(OSError, match="on purpose"):
        backend.perturb_(grads, [None, None], rng=rng, **options)
    assert rng.step == 1
    first = grads[0].clone()
    assert first.all()
    grads[0].zero_()
    backend.perturb_(grads, [None, None], rng=rng, **options)
    assert not torch.isin(grads[0], first).any()


def test_mixed_dtypes_and_formats_in_one_call(backend, who_takes_the_step):
    """Several launches, of which one advances the step, and once."""
    if backend.name not in ("triton", "reference"):
        pytest.skip("about launches by dtype")
    like = {"layout": "channels_last"}
    kinds = [(torch.float32, {}), (torch.bfloat16, like), (torch.float64, {}), (torch.float32, like)]
    grads = [backend.gradient(5, 4, 3, 3, dtype=dtype, seed=i, **layout) for i, (dtype, layout) in enumerate(kinds)]
    expected = [grad.clone() for grad in grads]
    scores = [backend.scores(5, seed=i) for i in range(4)]
    rngs = [tip.NoiseRNG.from_seed(3, "chacha8") for _ in range(2)]
    backend.perturb_(grads, scores, ratio=0.4, std=1.0, rng=rngs[0])
    tip.perturb_(expected, scores, ratio=0.4, std=1.0, rng=rngs[1], backend="reference")
    assert rngs[0].step == 1
    for grad, want in zip(grads, expected, strict=True):
        # a normal is at most 6.8, off by some float32 roundoffs; a bfloat16 may then round to a neighbor
        relative = 2.0**-7 if grad.dtype is torch.bfloat16 else 0.0
        assert torch.allclose(grad, want, rtol=relative, atol=1e-5)


@pytest.mark.parametrize("enough", [1, 2**14])
@pytest.mark.parametrize("amounts", [{}, {"grad_scale": 0.5}, {"floor_std": 0.5}], ids=["std", "scale", "floor"])
def test_many_programs_of_many_tiles(enough, amounts, who_takes_the_step, monkeypatch):
    """As on a GPU: programs of 32 lanes, of one tile or of a whole channel; the interpreter's are wider otherwise."""
    if availability.import_problem() or torch.cuda.is_available():
        pytest.skip("for Triton's interpreter")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(device, "_INTERPRETER_LANES", 32)
    monkeypatch.setattr(resident, "_TABLES", DeviceCache(1))
    monkeypatch.setattr(portions, "_ENOUGH_PROGRAMS", enough)
    grads = [torch.randn(shape) for shape in ((2, 140, 3, 3), (33, 4, 3, 3), (2, 37, 1, 5), (40, 1, 3, 3), (600,))]
    scores = [torch.rand(len(grad)) if grad.dim() > 1 else None for grad in grads]
    results = []
    for name in ("triton", "reference"):
        rng = tip.NoiseRNG.from_seed(1, "chacha8")
        with unrounded():
            results.append(tip.perturb(grads, scores, ratio=0.5, std=1.0, rng=rng, backend=name, **amounts))
        assert rng.step == 1
    step = step_of(amounts.get("floor_std", 0.0))
    for got, want in zip(*results, strict=True):
        assert_on_grid(got, step)
        # normals of at most 6.8, some float32 roundoffs off
        assert torch.allclose(got, want, rtol=0, atol=1e-5 + step / 2)


def test_captured_memory_is_kept(monkeypatch):
    """A CUDA graph's tables outlive the cache; what was made during the capture is used by no other call."""
    cpu = torch.device("cpu")
    kept = DeviceCache(2)
    monkeypatch.setattr(cache, "is_capturing", lambda device: capturing)

    def get(key):
        return kept.get(key, cpu, lambda: (object(), []))

    capturing = False
    known = get("known")
    assert get("known") is known
    capturing = True
    assert get("known") is known
    new = get("new")
    capturing = False
    assert get("new") is not new
    for key in range(5):
        get(key)
    assert len(kept._values) == 2
    assert [made.value for made in kept._captured] == [known, new]
