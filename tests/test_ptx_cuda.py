"""The CUDA backend without a GPU: its host code, and the PTX of its kernels executed on the CPU (tests/ptx)."""

import pytest
import test_clip_scale
import test_clipping
import test_far_addresses
import test_generators
import test_keep
import test_normals
import test_perturb
import test_rounding
import test_saliency_op
import test_saliency_strides
import torch
from ptx.backend import backend_on_ptx, backend_tests
from ptx.build import ARCHS
from ptx.cuda import PLENTY_SHARED, CudaOnCpu, Launch
from ptx.launch import Schedule
from ptx.parse import PtxError
from ptx.rows import KEY, PERTURB, ROWS, SALIENCY, SHAPE, perturb
from released import TINY_FLOOR, least_amounts, step_of, unrounded

import tip_kernels as tip
from bench.speed.instructions import find_nvcc

pytestmark = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")

FEATURES = (
    test_clip_scale, test_clipping, test_far_addresses, test_generators, test_keep, test_normals, test_perturb,
    test_rounding, test_saliency_op, test_saliency_strides,
)  # fmt: skip
globals().update(backend_tests(*FEATURES))  # every test of a backend's results, here with the fixture below
del test_float32_gradients_do_not_show_in_the_last_bit  # noqa: F821 statistics of many elements, half a minute
del test_opcheck  # noqa: F821 of an op that torch knows


@pytest.fixture
def device() -> CudaOnCpu:
    return CudaOnCpu()


@pytest.fixture
def backend(device, monkeypatch):
    return backend_on_ptx("cuda", device.op, monkeypatch)


CASES = [case for case in test_perturb.CASES if case.shape != "many kernels"]


@pytest.mark.parametrize("case", CASES, ids=test_perturb.case_id)
def test_equals_the_reference(case, backend):
    grad, scores = test_perturb.inputs(case)
    with unrounded():
        arithmetic = case.dtype if case.dtype == torch.float64 else torch.float32
        want = test_perturb.run(case, grad.to(arithmetic, copy=True), scores, "reference")
    memory, view = test_perturb.lay_out(grad, case.layout, backend.device)
    test_perturb.run(case, view, scores, "cuda")
    test_perturb.assert_close(view, want, case.dtype, test_perturb.float_tolerance(case, grad), case.step)
    view.fill_(5.0)
    assert (memory == 5.0).all(), "wrote outside of the gradient"


@pytest.mark.parametrize("name", [name for name in PERTURB if name.startswith("shaped")])
def test_amplitudes(name, device, backend):
    row = PERTURB[name]
    got, _ = perturb(device, row)
    with unrounded():
        want, _ = perturb(device, row._replace(dtype=torch.float64), "reference")
    step = step_of(*least_amounts(row.options.get("floor_std", 0.0), 1.0, SHAPE, 8))
    # Sums of nine products of numbers below 10 in float32.
    test_perturb.assert_close(got, want.float(), torch.float32, 2 * 9 * 10 * 2.0**-24, step)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", [*PERTURB, *(f"{name}, torch.float32" for name in SALIENCY)])
def test_no_schedule_changes_the_result(name, seed, device, backend):
    """Threads, warps and blocks in random order, from one barrier to the next."""
    run, row = ROWS[name]
    want = run(device, row)
    device.schedule = Schedule(seed)
    assert all(map(torch.equal, run(device, row), want))


def test_launches_go_to_the_current_stream(device, backend):
    device.set_stream(0x1230)
    backend.perturb_([torch.zeros(9)] * 1, [None], ratio=0, std=0.0, floor_std=1.0, rng=tip.NoiseRNG(KEY))
    backend.channel_saliency(torch.zeros(2, 3, 4))
    words_of(backend, 0)
    device.set_stream(0)
    assert len(device.launches) >= 4
    assert {launch.stream for launch in device.launches} == {0x1230}
    assert device.calls[0] == "cudaSetDevice"


def words_of(backend, step: int) -> torch.Tensor:
    return backend.words(tip.NoiseRNG(KEY, step=step).state(backend.device), 0, 0, 16, 12)


def long_list(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """More tensors than a launch takes."""
    return [torch.zeros(16, dtype=dtype) for _ in range(200)]


def test_no_noise_is_used_twice_wherever_a_call_fails(device, backend):
    """Fails at each call of the runtime in turn; what a second call adds, the first one has not added."""
    options = {"ratio": 0, "std": 0.0, "floor_std": TINY_FLOOR}
    rng = tip.NoiseRNG(KEY)
    backend.perturb_(long_list(), [None] * 200, rng=rng, **options)
    calls = len(device.calls)
    assert device.calls.count("launch") > 1
    for index in range(calls):
        device.calls.clear()
        device.reset()
        device.fail_at = index
        rng, first, second = tip.NoiseRNG(KEY), long_list(), long_list()
        with pytest.raises(RuntimeError, match="CUDA: an error of the test's runtime"):
            backend.perturb_(first, [None] * 200, rng=rng, **options)
        device.fail_at = None
        backend.perturb_(second, [None] * 200, rng=rng, **options)
        used, fresh = torch.cat(first), torch.cat(second)
        assert fresh.all()
        assert not ((fresh == used) & (used != 0)).any()
        third = long_list()  # and what has failed does not make later calls repeat themselves
        backend.perturb_(third, [None] * 200, rng=rng, **options)
        assert not (torch.cat(third) == fresh).any()


def test_saliency_and_words_say_that_they_failed(device, backend):
    for call in (lambda: backend.channel_saliency(torch.ones(2, 3, 4)), lambda: words_of(backend, 0)):
        device.calls.clear()
        call()
        for index in range(len(device.calls)):
            device.calls.clear()
            device.fail_at = index
            with pytest.raises(RuntimeError, match="CUDA: an error of the test's runtime"):
                call()
            device.fail_at = None


def test_shared_memory_beyond_what_is_allowed_is_refused(device):
    """The check that every launch here passes."""
    name = next(name for name in device.names() if device.kernel(name).static_shared > 0)
    launch = Launch(name, (1, 1, 1), (128, 1, 1), PLENTY_SHARED, None, None, b"", False)
    kernel = device.kernel(name)
    with pytest.raises(PtxError, match="cudaFuncSetAttribute"):
        device.check_shared(launch, kernel)
    device.check_shared(launch._replace(shared_limit=PLENTY_SHARED), kernel)
    with pytest.raises(PtxError, match="which no block has"):
        device.check_shared(launch._replace(shared_bytes=2**20, shared_limit=2**20), kernel)


@pytest.mark.parametrize("row", ["dense", "replaced", "columns, torch.float32"])
def test_compiled_for_an_older_architecture(row, monkeypatch):
    results = []
    for arch in ARCHS:
        device = CudaOnCpu(arch)
        with pytest.MonkeyPatch.context() as patch:
            backend_on_ptx("cuda", device.op, patch)
            run, given = ROWS[row]
            results.append(run(device, given))
    assert all(map(torch.equal, *results))
