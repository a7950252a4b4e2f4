"""The launches of the Triton backend: who takes the step, programs as on a GPU, and what outlives a call."""

import math

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


class Kernel:
    """In place of the kernel: runs it, but for the second dtype fails, at once or when it is launched."""

    def __init__(self, kernel, fails: str) -> None:
        self.kernel, self.fails, self.launched = kernel, fails, []

    def __getitem__(self, grid):
        def launched(*args, **options):
            if self.fails == "launch" and options["DTYPE"].name == "fp64":
                raise OSError("on purpose")
            self.launched.append(options["DTYPE"].name)
            if grid != (1, 1, 1):  # of what is compiled: that is for loading it
                self.kernel[grid](*args, **options)

        return launched

    def warmup(self, *types, grid, **options):
        if self.fails == "warmup" and options["DTYPE"].name == "fp64":
            raise OSError("on purpose")
        return self


@pytest.fixture
def failing(backend, monkeypatch):
    """Replaces the kernel by one that fails."""
    if backend.name != "triton":
        pytest.skip("about launches by dtype")

    def replace(fails: str) -> Kernel:
        kernel = Kernel(launch._kernel(), fails)
        monkeypatch.setattr(launch, "_kernel", lambda: kernel)
        launch._load.cache_clear()
        return kernel

    yield replace
    launch._load.cache_clear()


def test_the_step_is_used_when_a_later_launch_fails(backend, who_takes_the_step, failing):
    """The noise of the first launch stays; a second call must not repeat it."""
    grads = [backend.zeros(64), backend.zeros(64, dtype=torch.float64)]
    kernel = failing("launch")
    rng = tip.NoiseRNG.from_seed(3)
    options = {"ratio": 0, "std": 0.0, "floor_std": 1.0}
    with pytest.raises(OSError, match="on purpose"):
        backend.perturb_(grads, [None, None], rng=rng, **options)
    assert rng.step == 1
    first = grads[0].clone()
    assert first.all()
    grads[0].zero_()
    kernel.fails = ""
    backend.perturb_(grads, [None, None], rng=rng, **options)
    assert rng.step == 2
    assert not torch.isin(grads[0], first).any()


def test_nothing_has_changed_when_a_kernel_does_not_compile(backend, who_takes_the_step, failing, monkeypatch):
    """Those of all dtypes are compiled and loaded before the first is launched: a call leaves no noise half done."""
    grads = [backend.zeros(64), backend.zeros(64, dtype=torch.float64)]
    kernel = failing("warmup")
    rng = tip.NoiseRNG.from_seed(3)
    options = {"ratio": 0, "std": 0.0, "floor_std": 1.0}
    with monkeypatch.context() as patch:
        patch.setattr(launch, "_is_interpreted", lambda: False)
        with pytest.raises(OSError, match="on purpose"):
            backend.perturb_(grads, [None, None], rng=rng, **options)
    assert kernel.launched == []
    assert rng.step == 0
    assert not any(grad.any() for grad in grads)
    launch._load.cache_clear()
    backend.perturb_(grads, [None, None], rng=rng, **options)
    assert kernel.launched == ["fp32", "fp64"]
    assert rng.step == 1
    assert all(grad.all() for grad in grads)


def test_two_states_share_no_counter(backend, who_takes_the_step):
    """Programs count themselves in the state of their call, which is as before when it ends."""
    grad = backend.zeros(64)
    states = [torch.tensor([1, 2, 3, 4, 0, 7]), torch.tensor([1, 2, 3, 4, 0, 0])]
    if backend.name != "triton" or not who_takes_the_step:
        pytest.skip("about programs on a GPU")
    for state in states:
        torch.ops.tip_kernels.perturb_triton_(
            [grad],
            [torch.zeros(0)],
            [0],
            [0],
            [-1],
            [],
            [],
            torch.ones(1),
            torch.ones(1),
            None,
            state,
            1.0,
            12,
            None,
            [],
            None,
        )
    assert states[0][4:].tolist() == [0, 8]  # what another call counts is left to it
    assert states[1][4:].tolist() == [1, 0]


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


@pytest.mark.parametrize("amounts", [{}, {"floor_std": 0.5}, {"keep": 0.25, "grad_scale": 0.5}], ids=str)
@pytest.mark.parametrize(
    ("kernel_size", "cutoff"), [((3, 3), 0.5), ((3, 3), 0.75), ((9,), 0.0), ((1, 9), 0.0), ((2, 2), 0.0)], ids=str
)
def test_kernels_in_registers(backend, kernel_size, cutoff, amounts):
    """Fours of kernels with and without a basis, of channels that fill whole programs or share them."""
    if not backend.interpreted:
        pytest.skip("about ways through Triton's kernels; on a GPU test_perturb.py takes them")
    for shape in ((5, 8), (3, 20)):
        grad = backend.gradient(*shape, *kernel_size)
        expected = grad.clone()
        scores = backend.scores(len(grad))
        given = {"ratio": 0.4, "std": 1.0, "cutoff": cutoff, **amounts}
        backend.perturb_([grad], [scores], rng=tip.NoiseRNG.from_seed(3), **given)
        with unrounded():
            tip.perturb_([expected], [scores], rng=tip.NoiseRNG.from_seed(3), backend="reference", **given)
        step = step_of(amounts.get("floor_std", 0.0), 1.0)
        assert_on_grid(grad, step)
        # normals of at most 6.8 and their sums over nine taps, some float32 roundoffs off
        assert torch.allclose(grad, expected, rtol=0, atol=2e-5 + step / 2)


@pytest.mark.parametrize("shape", [(2, 8, 3, 3), (160,)], ids=str)
@pytest.mark.parametrize("large", [3000.0, -(2.0**14), math.inf, math.nan])
def test_large_values_change_no_other_value(backend, shape, large):
    """Where no value is large, all go to the grid in a shorter way: to the same multiples."""
    if not backend.interpreted:
        pytest.skip("about two ways through Triton's kernels")
    grads = [backend.gradient(*shape), backend.gradient(*shape)]
    grads[1].flatten()[5] = large  # 2^22 steps are 2048, 2^23 are 4096
    for grad in grads:
        rng = tip.NoiseRNG.from_seed(3)
        scores = backend.scores(len(grad)) if grad.dim() > 1 else None
        backend.perturb_([grad], [scores], ratio=0.5, std=1.0, floor_std=0.5, rng=rng)
        assert_on_grid(grad, step_of(0.5))
    differ = (grads[0] != grads[1]).flatten()
    assert differ.nonzero().flatten().tolist() == [5]


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
