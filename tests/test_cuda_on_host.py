"""The CUDA kernels without a GPU: their own code compiled for the host, thread by thread, against the reference."""

import ctypes
import math
import os
import pathlib
import shutil
import subprocess
from typing import NamedTuple

import pytest
import torch
from released import TINY_FLOOR, assert_on_grid, least_amounts, step_of, unrounded
from test_far_addresses import CASES as FAR_CASES
from test_far_addresses import KINDS, assert_noise, call_of, gradient_of, ratios
from test_far_addresses import case_id as far_case_id
from test_generators import assert_normals
from test_keep import KEEPS, kept
from test_perturb import (
    CASES,
    KEY,
    PLACE,
    STD,
    STEP,
    assert_close,
    case_id,
    float_tolerance,
    inputs,
    lay_out,
    options,
)  # fmt: skip

import tip_kernels as tip
from tip_kernels._op.call import Options, PreparedCall, prepare
from tip_kernels._op.schemas import PerturbArguments
from tip_kernels.rng import GENERATORS

ROOT = pathlib.Path(__file__).parent.parent
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ANY, DENSE, PAIRS, ELEMENTS = range(4)  # csrc/cuda/table.h: enum Path
ENTRY_BYTES = 144 + 2 * 24  # csrc/cuda/table.h: Entry and its axes
MOST_BLOCKS = 2**31 - 1  # of a launch on a GPU


class HostTensor(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("data", "scores", "basis", "sizes", "strides")),
        *((name, ctypes.c_int64) for name in ("dims", "dtype", "channels", "selected", "id", "high_dim")),
        *((name, ctypes.c_int64) for name in ("first_channel", "first_kernel", "kernels")),
        ("amplitudes", ctypes.c_void_p),
    ]


class HostCall(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("state", "std", "floor_std", "grad_scale")),
        ("keep", ctypes.c_double),
        ("generator", ctypes.c_int32),
        ("passes", ctypes.c_int32),
        ("most_blocks", ctypes.c_int64),
        ("ranks_before", ctypes.c_int64),
    ]


class HostReport(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("launches", "blocks", "advances", "launches_before_advance", "any", "dense", "pairs", "elements")
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    target = tmp_path_factory.mktemp("cuda_on_host") / "cuda_on_host.so"
    sources = [ROOT / "tests/cuda_on_host.cpp", ROOT / "csrc/cuda/plan.cpp"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *flags, *sources, "-o", target], check=True)
    return ctypes.CDLL(target)


class Layout(NamedTuple):
    """What the planning of a tensor needs, which may be larger than any memory."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    high_dim: int = 8
    address: int = 2**20


def pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def host_tensors(given: PerturbArguments, keep_alive: list) -> ctypes.Array:
    scores, basis_ids, bases, shards = given.scores, given.basis_ids, given.bases, given.shards
    rows = []
    for i, grad in enumerate(given.grads):
        sizes, strides = (ctypes.c_int64 * 8)(*grad.shape), (ctypes.c_int64 * 8)(*grad.stride())
        keep_alive += [sizes, strides]
        shard = shards[3 * i : 3 * i + 3] if shards else (0, 0, grad.shape[1] if grad.dim() > 1 else 1)
        has_band, shape = basis_ids[i] >= 0, -1 if given.amplitude_ids is None else given.amplitude_ids[i]
        rows.append(HostTensor(
            grad.data_ptr(), pointer(scores[i]), pointer(bases[basis_ids[i]]) if has_band else None,
            ctypes.addressof(sizes), ctypes.addressof(strides), grad.dim(), DTYPES[grad.dtype], scores[i].numel(),
            given.selected[i], given.tensor_ids[i], given.high_dims[basis_ids[i]] if has_band else 0, *shard,
            pointer(given.amplitudes[shape]) if shape >= 0 else None,
        ))  # fmt: skip
    return (HostTensor * max(1, len(rows)))(*rows)


def perturb_on_host(
    library: ctypes.CDLL, grads, scores, *, tiny_tables=False, passes=0, most_blocks=MOST_BLOCKS, ranks=False, **given
) -> HostReport:
    """``tip.perturb_`` by the CUDA kernels' code on the host."""
    call = prepare(grads, scores, Options(**{**given, "backend": "reference"}))
    return call_on_host(library, call, tiny_tables, passes, most_blocks, ranks)


def call_on_host(
    library: ctypes.CDLL, checked: PreparedCall, tiny_tables=False, passes=0, most_blocks=MOST_BLOCKS, ranks=False
) -> HostReport:
    given = checked.arguments
    keep_alive: list = []
    tensors = host_tensors(given, keep_alive)
    tables = (pointer(given.std), pointer(given.floor_std), pointer(given.grad_scale))
    call = HostCall(pointer(given.state), *tables, given.keep, given.generator, passes, most_blocks, ranks)
    report = HostReport()
    library.perturb_on_host(
        tensors, ctypes.c_int64(len(given.grads)), ctypes.byref(call), ctypes.c_int64(tiny_tables), ctypes.byref(report)
    )
    return report


def run_on_host(library: ctypes.CDLL, case, grad, scores) -> HostReport:
    absent: list[None] = [None] * PLACE
    given = options(case, "reference", grad.device)
    return perturb_on_host(library, [*absent, grad], [*absent, scores], **given)


def run_reference(case, grad, scores) -> None:
    absent: list[None] = [None] * PLACE
    tip.perturb_([*absent, grad], [*absent, scores], **options(case, "reference", grad.device))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_the_reference(case, library):
    grad, scores = inputs(case)
    want = grad.to(case.dtype if case.dtype == torch.float64 else torch.float32, copy=True)
    with unrounded():
        run_reference(case, want, scores)

    memory, view = lay_out(grad, case.layout, grad.device)
    run_on_host(library, case, view, scores)

    assert_close(view, want, case.dtype, float_tolerance(case, grad), case.step)
    view.fill_(5.0)
    assert (memory == 5.0).all(), "wrote outside of the gradient"


def mixed_model() -> tuple[list, list]:
    """Gradients of every dtype and several layouts, with empty ones first, in the middle and last."""
    draw = torch.Generator().manual_seed(3)

    def grad(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> torch.Tensor:
        values = torch.randn(shape, generator=draw).to(dtype)
        return values.contiguous(memory_format=torch.channels_last) if last else values

    grads = [
        torch.zeros(0, 3, 3, 3),
        grad(70, 64, 3, 3),
        grad(9),
        grad(33, 12, 3, 3, dtype=torch.bfloat16, last=True),
        None,
        grad(20, 3, 3, 3, dtype=torch.float16),
        torch.zeros(4, 0, 3, 3),
        grad(8, 6, 5, 5, dtype=torch.float64),
        grad(40, 1, 7, 7, last=True),
        grad(300, 50),
        grad(5, 7, 3, 3)[:, 1::2],
        grad(2, 300, 3, 3, dtype=torch.bfloat16),
        torch.zeros(0),
    ]
    scores = [
        torch.rand(g.shape[0], generator=draw) if g is not None and g.dim() == 4 and g.numel() else None for g in grads
    ]
    return grads, scores


@pytest.mark.parametrize("tiny_tables", [False, True], ids=["one launch", "many launches"])
@pytest.mark.parametrize("passes", [0, 3])
@pytest.mark.parametrize(
    "given", [{}, {"grad_scale": 0.7}, {"floor_std": 0.2, "grad_scale": 0.7}], ids=["band", "scale", "floor"]
)
def test_a_mixed_model(library, given, passes, tiny_tables):
    """Every dtype and path in one call, in one table and in several; the step advances once."""
    grads, scores = mixed_model()
    want = [None if grad is None else grad.clone() for grad in grads]
    given = {"ratio": 0.3, "std": STD, **given}
    rng = tip.NoiseRNG(KEY, step=STEP)
    report = perturb_on_host(library, grads, scores, rng=rng, tiny_tables=tiny_tables, passes=passes, **given)
    with unrounded():
        tip.perturb_(want, scores, rng=tip.NoiseRNG(KEY, step=STEP), backend="reference", **given)

    assert rng.step == STEP + 1
    assert report.advances == 1
    assert report.launches_before_advance == 0  # if a later launch fails, the step is used all the same
    nonempty = sum(
        grad is not None and grad.numel() > 0 and (len(given) > 2 or s is not None)
        for grad, s in zip(grads, scores, strict=True)
    )
    assert report.any + report.dense + report.pairs + report.elements == nonempty
    assert report.launches >= nonempty / 2 if tiny_tables else report.launches == 1
    step = step_of(given.get("floor_std", 0.0))
    for got, expected in zip(grads, want, strict=True):
        if got is not None:
            assert_on_grid(got, step)
            # An ulp of the 16-bit types at values below 8; for the others, 49 taps of rounding: far below 1e-4.
            tolerance = {torch.bfloat16: 2.0**-5, torch.float16: 2.0**-8}.get(got.dtype, 1e-4) + step / 2
            torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("most_blocks", [1, 3])
def test_grids_of_few_blocks(library, most_blocks):
    """Tables of more tiles than a launch can take: the first launch takes the step, and nothing else differs."""
    (grads, scores), (want, _) = mixed_model(), mixed_model()
    given = {"ratio": 0.3, "std": STD, "tiny_tables": True}
    whole = perturb_on_host(library, want, scores, rng=tip.NoiseRNG(KEY, step=STEP), **given)
    rng = tip.NoiseRNG(KEY, step=STEP)
    report = perturb_on_host(library, grads, scores, rng=rng, most_blocks=most_blocks, **given)
    assert (rng.step, report.advances, report.launches_before_advance) == (STEP + 1, 1, 0)
    assert report.blocks == whole.blocks
    assert report.launches >= whole.blocks / most_blocks > whole.launches
    for got, expected in zip(grads, want, strict=True):
        assert got is None or torch.equal(got, expected)


@pytest.mark.parametrize("channels", [1, 2, 31, 33, 128, 300, 1000])
def test_channels_ranked_before(library, channels):
    """The bits of a launch before choose as every block would for itself: ties, zeros of both signs, NaN, infinity."""
    draw = torch.Generator().manual_seed(channels)
    special = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-42, 2.0, 2.0])
    kinds = {
        "random": torch.randn(channels, generator=draw),
        "ties": torch.randint(0, 3, (channels,), generator=draw).float(),
        "equal": torch.full((channels,), 0.25),
        "special": special[torch.randint(0, 8, (channels,), generator=draw)],
    }
    for scores in kinds.values():
        for ratio in (0.01, 0.3, 0.5, 0.99):
            results = []
            for ranks in (False, True):
                x = torch.zeros(channels, 2, 3, 3)
                perturb_on_host(library, [x], [scores], ratio=ratio, std=STD, rng=tip.NoiseRNG(KEY), ranks=ranks)
                results.append(x)
            assert torch.equal(*results)
            assert (results[0].flatten(1).abs().sum(1) > 0).sum() == tip._op.plan.select_count(ratio, channels)


def test_a_mixed_model_ranked_before(library):
    (grads, scores), (want, _) = mixed_model(), mixed_model()
    for tensors, ranks in ((grads, True), (want, False)):
        given = {"ratio": 0.3, "std": STD, "floor_std": 0.2, "rng": tip.NoiseRNG(KEY)}
        perturb_on_host(library, tensors, scores, ranks=ranks, **given)
    assert all(got is None or torch.equal(got, expected) for got, expected in zip(grads, want, strict=True))


SHAPED_CASES = {
    "dense": ((6, 95, 3, 3), torch.float32, DENSE, {}),
    "dense, bfloat16": ((6, 95, 3, 3), torch.bfloat16, DENSE, {}),
    "interleaved": ((3, 80, 3, 3), torch.float32, PAIRS, {}),
    "float64": ((5, 7, 3, 3), torch.float64, ANY, {}),
    "keep": ((5, 7, 3, 3), torch.float32, ANY, {"keep": 0.5}),
    "corners": ((5, 7, 3, 3), torch.float32, ANY, {"cutoff": 0.75}),
    "5x5, keep": ((5, 3, 5, 5), torch.float32, ANY, {"keep": 0.5}),
    "9x9, outside of shared memory": ((3, 2, 9, 9), torch.float32, ANY, {"keep": 0.5}),
}


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("case", SHAPED_CASES)
def test_amplitudes(library, case, floor):
    """Of selected channels and others, on every path; in float32 what is rounded to is the same grid."""
    shape, dtype, path, given = SHAPED_CASES[case]
    draw = torch.Generator().manual_seed(1)
    x, scores = torch.randn(shape, generator=draw).to(dtype), torch.rand(shape[0], generator=draw)
    if path == PAIRS:
        x = x.contiguous(memory_format=torch.channels_last)
    rows = [(0.5 + torch.rand(math.prod(shape[2:]), generator=draw)).tolist() for _ in range(2)]
    amplitudes = tip.Amplitudes(*rows)
    given = {"ratio": 0.5, "std": STD, "floor_std": floor, "amplitudes": [amplitudes], **given}
    want = x.to(torch.float64)
    with unrounded():
        tip.perturb_([want], [scores], rng=tip.NoiseRNG(KEY), backend="reference", **given)
    report = perturb_on_host(library, [x], [scores], rng=tip.NoiseRNG(KEY), **given)
    assert [report.any, report.dense, report.pairs, report.elements][path] == 1
    high_dim = tip.spectrum.real_basis(shape[2:], tip.spectrum.radial_mask(shape[2:], given.get("cutoff", 0.5)))[1]
    step = step_of(*least_amounts(floor, STD, amplitudes, high_dim))
    assert_on_grid(x, step)
    # An ulp of bfloat16 at values below 8; for the others, 81 taps of rounding: far below 1e-4.
    tolerance = (2.0**-5 if dtype == torch.bfloat16 else 1e-4) + step / 2
    torch.testing.assert_close(x.double(), want, rtol=0, atol=tolerance)


ELEMENTS_CASES = {
    "contiguous": (lambda x: x, ELEMENTS),
    "transposed": (lambda x: x.t(), ANY),
    "long rows apart": (lambda x: x[:, 3:-4], ELEMENTS),
    "short rows apart": (lambda x: x[:, :40], ANY),
    "an odd address": (lambda x: x.flatten()[1:], ELEMENTS),
    "a number": (lambda x: x.flatten()[5], ELEMENTS),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "given", [{"floor_std": 0.2}, {"grad_scale": 0.7}, {"floor_std": 0.2, "grad_scale": 0.7}], ids=str
)
@pytest.mark.parametrize("kind", ELEMENTS_CASES)
def test_elements(library, kind, given, dtype):
    """Tensors without a high band, of several blocks, with and without whole warps of aligned vectors."""
    change, path = ELEMENTS_CASES[kind]
    memory = torch.randn(9, 1037).to(dtype)
    x, before = change(memory), memory.clone()
    want = change(before.clone()).float()
    given = {"ratio": 0.0, "std": 0.0, **given}
    report = perturb_on_host(library, [x], [None], rng=tip.NoiseRNG(KEY), **given)
    with unrounded():
        tip.perturb_([want], [None], rng=tip.NoiseRNG(KEY), backend="reference", **given)
    assert [report.any, report.dense, report.pairs, report.elements].index(1) == path
    step = step_of(given.get("floor_std", 0.0))
    assert_on_grid(x, step)
    tolerance = {torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}.get(dtype, 1e-5) + step / 2
    torch.testing.assert_close(x.float(), want, rtol=0, atol=tolerance)
    change(before).copy_(x)
    assert torch.equal(memory, before), "wrote outside of the gradient"


def test_paths(library):
    """Which 3x3 gradients take the fast paths: additive noise, a small dtype, dense or in even numbers interleaved."""
    x = torch.randn(4, 6, 3, 3)
    last = x.contiguous(memory_format=torch.channels_last)
    flags = {"ratio": 0.5, "std": 1.0, "rng": tip.NoiseRNG(KEY)}

    def path(grad: torch.Tensor, **given) -> int:
        report = perturb_on_host(library, [grad], [torch.rand(9 if "shards" in given else 4)], **{**flags, **given})
        return [report.any, report.dense, report.pairs, report.elements].index(1)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert path(x.to(dtype)) == DENSE
        assert path(last.to(dtype)) == PAIRS
    assert path(x, grad_scale=2.0) == DENSE
    assert path(x, shards=[tip.Shard(3, 1, 9)]) == DENSE
    assert path(torch.randn(4, 7, 3, 3)) == DENSE
    assert path(x, floor_std=0.1) == path(torch.randn(4, 7, 3, 3), floor_std=0.1) == DENSE
    assert path(last, floor_std=0.1) == PAIRS
    assert path(x.double()) == path(x, keep=0.0) == path(x, cutoff=0.75) == ANY
    assert path(x[:, :, :, [0, 2, 1]].transpose(2, 3)) == path(x[:, ::2]) == ANY
    assert path(torch.randn(4, 7, 3, 3).contiguous(memory_format=torch.channels_last)) == ANY
    assert path(last, shards=[tip.Shard(3, 1, 9)]) == ANY


def test_an_empty_list_takes_a_step(library):
    rng = tip.NoiseRNG(KEY, step=5)
    report = perturb_on_host(library, [], [], ratio=0.3, std=1.0, rng=rng)
    assert (report.launches, report.advances, rng.step) == (1, 1, 6)


@pytest.mark.parametrize("given", [{}, {"keep": 0.5, "floor_std": 0.3}], ids=["additive", "replaced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_larger_than_the_fused_ones(library, dtype, given):
    """31x31 depthwise: the basis stays in device memory."""
    x = torch.randn(5, 1, 31, 31, dtype=dtype)
    scores = torch.rand(5)
    want = x.to(torch.float64, copy=True)
    given = {"ratio": 0.5, "std": STD, **given}
    perturb_on_host(library, [x], [scores], rng=tip.NoiseRNG(KEY), **given)
    with unrounded():
        tip.perturb_([want], [scores], rng=tip.NoiseRNG(KEY), backend="reference", **given)
    step = step_of(given.get("floor_std", 0.0), STD)
    assert_on_grid(x, step)
    # Normals are off by 8 u32 6.76 and a tap sums 961 of them with weights of norm 1; the float32 sums of 2 * 961
    # products of numbers below 31 (4.5 + 6.76) are off by less than 1e-3 at worst, by their square root as a rule.
    tolerance = 31 * 8 * 2.0**-24 * 6.76 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(x.double(), want, rtol=0, atol=tolerance + step / 2)


@pytest.mark.parametrize("generator", GENERATORS)
def test_normals_are_box_muller_pairs_of_the_stream(library, generator):
    """The shorter way of csrc/cuda/draw.h to the same words and, within the same tolerance, the same normals."""
    rng = tip.NoiseRNG(KEY, generator, STEP)
    words = torch.empty(2**16, dtype=torch.int32)
    torch.ops.tip_kernels.words_reference_(words, rng.state(words.device).clone(), PLACE, 0, rng.generator_id)
    values = torch.zeros(2**16, dtype=torch.float64)
    absent: list[None] = [None] * PLACE
    perturb_on_host(library, [*absent, values], [*absent, None], ratio=0.0, std=0.0, floor_std=TINY_FLOOR, rng=rng)
    assert_normals(values.numpy() / TINY_FLOOR, words.long() & 0xFFFFFFFF)


@pytest.mark.parametrize("last", [False, True], ids=["dense", "channels_last"])
def test_words_far_out_in_the_stream(library, last):
    """A shard whose groups cross 2^32, so that both words of the counter change inside a tile."""
    kernels, channel = 2**21, 2**12
    x = torch.randn(3, 8, 3, 3)
    shard = tip.Shard(channel - 1, kernels - 4, kernels + 4)  # the second channel begins beyond group 2^32
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    want = x.clone()
    scores = torch.rand(channel + 2)
    given = {"ratio": 1.0, "std": STD, "shards": [shard]}
    report = perturb_on_host(library, [x], [scores], rng=tip.NoiseRNG(KEY), **given)
    tip.perturb_([want], [scores], rng=tip.NoiseRNG(KEY), backend="reference", **given)
    assert report.pairs if last else report.dense
    torch.testing.assert_close(x, want, rtol=0, atol=1e-5)  # float32 rounding of values below 10, a few times


@pytest.mark.parametrize("case", FAR_CASES, ids=far_case_id)
def test_noise_far_out(case, library):
    """Counters that carry past 32 bits, the largest tensor id and late steps."""
    for ratio in ratios(KINDS[case.kind]):
        grad = gradient_of(KINDS[case.kind])
        call_on_host(library, call_of(case, grad, "reference", ratio))
        assert_noise(case, grad, ratio)


def contiguous(*sizes: int) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


def cover(
    library, layouts: list[Layout], *, floor: bool = False, large: bool = True
) -> tuple[list[int], list[int], int]:
    """(elements covered, farthest offset) of each tensor, and the number of launches, without touching memory."""
    count = len(layouts)
    arrays = [
        (ctypes.c_int64 * len(values))(*values) for layout in layouts for values in (layout.sizes, layout.strides)
    ]
    rows = (HostTensor * count)()
    for i, layout in enumerate(layouts):
        sizes, strides = arrays[2 * i], arrays[2 * i + 1]
        channels = layout.sizes[0]
        rows[i] = HostTensor(
            layout.address, layout.address, layout.address if layout.high_dim else None, ctypes.addressof(sizes),
            ctypes.addressof(strides), len(layout.sizes), DTYPES[layout.dtype], channels, (channels + 2) // 3, i,
            layout.high_dim, 0, 0, layout.sizes[1] if len(layout.sizes) > 1 else 1,
        )  # fmt: skip
    covered, reach, tables = (ctypes.c_int64 * count)(), (ctypes.c_int64 * count)(), ctypes.c_int64()
    call = HostCall(None, None, 1 if floor else None, None, 1.0, 12, 0, MOST_BLOCKS, 0)
    library.cover_on_host(
        rows, ctypes.c_int64(count), ctypes.byref(call), ctypes.c_int64(large), covered, reach, ctypes.byref(tables)
    )
    return list(covered), list(reach), tables.value


HUGE = {
    "3x3": Layout((70_000, 4_000, 3, 3), contiguous(70_000, 4_000, 3, 3)),
    "3x3 bfloat16": Layout((70_001, 4_001, 3, 3), contiguous(70_001, 4_001, 3, 3), torch.bfloat16),
    "channels_last": Layout((60_000, 4_100, 3, 3), (9 * 4_100, 1, 3 * 4_100, 4_100)),
    "one channel": Layout((1, 300_000_001, 3, 3), contiguous(1, 300_000_001, 3, 3)),
    "linear": Layout((65_537, 65_537), (65_537, 1), high_dim=0),
    "transposed linear": Layout((3, 2**31 + 5), (1, 3), high_dim=0),
    "strided": Layout((2**30, 3), (2**33, 7), high_dim=0),
}


@pytest.mark.parametrize("layout", HUGE.values(), ids=HUGE)
def test_plans_tensors_beyond_32_bits(library, layout):
    count = 1
    for size in layout.sizes:
        count *= size
    covered, reach, _ = cover(library, [layout], floor=layout.high_dim == 0)
    assert covered == [count]
    assert reach == [sum((size - 1) * stride for size, stride in zip(layout.sizes, layout.strides, strict=True))]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("count", [1, 17, 170, 500])
def test_long_lists_take_as_few_launches_as_they_need(library, count, large):
    """Tensors of two axes fill a table to its last entry: 4096 or 32760 bytes, 128 of them for the call."""
    layouts = [Layout((8, 8 + i, 3, 3), contiguous(8, 8 + i, 3, 3)) for i in range(count)]
    covered, _, tables = cover(library, layouts, large=large)
    assert covered == [8 * (8 + i) * 9 for i in range(count)]
    per_table = ((32760 if large else 4096) - 128) // ENTRY_BYTES
    assert tables == -(-count // per_table)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("shape", [(4, 8, 3, 3), (2, 1, 9, 9)], ids=str)
def test_keep_is_not_rounded_to_float32(library, shape, keep):
    x = torch.randn(shape, dtype=torch.float64)
    got = x.clone()
    perturb_on_host(library, [got], [torch.rand(shape[0])], ratio=1.0, std=0.0, keep=keep, rng=tip.NoiseRNG(KEY))
    torch.testing.assert_close(got, kept(x, keep), rtol=0, atol=1e-12)  # as in test_keep.py
