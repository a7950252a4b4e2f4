"""Every backend computes what docs/design.md defines, through the public ``perturb_``."""

import itertools
import math
import random
from typing import NamedTuple

import pytest
import torch
from released import TINY_FLOOR, assert_on_grid, step_of, unrounded

import tip_kernels as tip
from tip_kernels.backends import native
from tip_kernels.rng import GENERATORS

KEY = bytes(range(32))
STEP = 2**33 + 7  # both words of the nonce matter
PLACE = 3  # of the tensor in the list: both words of the counter matter
STD, FLOOR, SCALE = 0.7, 0.3, -1.7

SHAPES = {
    "1x1": (6, 5, 1, 1),
    "2x2": (5, 3, 2, 2),
    "3x3": (12, 7, 3, 3),
    "4x4": (6, 3, 4, 4),
    "5x5": (8, 6, 5, 5),
    "7x7": (5, 3, 7, 7),
    "3x5": (7, 5, 3, 5),
    "1x7": (6, 4, 1, 7),
    "11x11": (4, 2, 11, 11),
    "1-D": (10, 6, 9),
    "3-D": (5, 4, 3, 3, 3),
    "depthwise": (19, 1, 3, 3),
    "one channel": (1, 20, 3, 3),
    "many kernels": (67, 41, 3, 3),
    "long runs": (7, 95, 3, 3),
    "bias": (37,),
    "linear": (11, 13),
    "long linear": (3, 700),
    "scalar": (),
}
FACTORS = {
    "shape": list(SHAPES),
    "layout": ["contiguous", "channels_last", "transposed", "reversed", "slice", "every other", "offset"],
    "dtype": [torch.float32, torch.bfloat16, torch.float16, torch.float64],
    "ratio": [0.3, 0.1, 1.0, 0.0, None],  # None: no scores
    "band": [0.5, 0.75, "some", "all", "none"],  # a cutoff or a mask
    "generator": list(GENERATORS),
    "keep": [1.0, 0.0, 0.5],
    "std": [STD, 0.0],
    "floor": [0.0, FLOOR],
    "scale": [None, SCALE],
    "shard": [False, True],
    "tables": [False, True],  # std, floor_std and grad_scale as tensors
}


class Case(NamedTuple):
    shape: str
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float32
    ratio: float | None = 0.3
    band: float | str = 0.5
    generator: str = "chacha12"
    keep: float = 1.0
    std: float = STD
    floor: float = 0.0
    scale: float | None = None
    shard: bool = False
    tables: bool = False

    @property
    def size(self) -> tuple[int, ...]:
        return SHAPES[self.shape]

    @property
    def shard_place(self) -> tip.Shard | None:
        kernels = self.size[1] if len(self.size) > 1 else 1
        return tip.Shard(3, 2, kernels + 5) if self.shard else None

    @property
    def step(self) -> float:
        """Of the grid of released values, 0 without one."""
        has_scores = self.ratio is not None and len(self.size) > 2
        return step_of(self.floor, self.std if has_scores and self.mask.any() else 0.0)

    @property
    def mask(self) -> torch.Tensor:
        taps = self.size[2:]
        return mask_for(taps, self.band) if isinstance(self.band, str) else tip.spectrum.radial_mask(taps, self.band)


def all_pairs() -> list[Case]:
    """Cases in which every pair of levels of two factors occurs: the full product would be 4 million."""
    levels = list(FACTORS.values())
    axes = list(itertools.combinations(range(len(levels)), 2))
    missing = {(a, x, b, y) for a, b in axes for x in range(len(levels[a])) for y in range(len(levels[b]))}
    draw = random.Random(0)
    cases = []
    while missing:
        a, x, b, y = min(missing)
        candidates = []
        for _ in range(20):
            row = [draw.randrange(len(level)) for level in levels]
            row[a], row[b] = x, y
            candidates.append({(a, row[a], b, row[b]) for a, b in axes} | {tuple(row)})
        best = max(candidates, key=lambda pairs: len(pairs & missing))
        missing -= best
        (row,) = (pair for pair in best if len(pair) == len(levels))
        cases.append(Case(*(level[i] for level, i in zip(levels, row, strict=True))))
    return cases


def long_runs() -> list[Case]:
    """3x3 kernels and elements for whole vectors of every width and what is left of them, from any unit on."""
    layouts, dtypes = ("contiguous", "channels_last", "offset", "slice"), FACTORS["dtype"]
    kinds = [  # keep, floor, scale
        (1.0, 0.0, None),
        (1.0, 0.0, SCALE),
        (1.0, FLOOR, SCALE),
        (0.5, 0.0, SCALE),
        (0.5, FLOOR, None),
    ]
    kernels = [
        Case("long runs", layout, dtype, keep=keep, floor=floor, scale=scale, shard=shard)
        for layout, dtype, shard, (keep, floor, scale) in itertools.product(layouts, dtypes, (False, True), kinds)
    ]
    elements = [
        Case("long linear", layout, dtype, floor=FLOOR, scale=scale, shard=shard)
        for layout, dtype, (scale, shard) in itertools.product(layouts, dtypes, ((None, False), (SCALE, True)))
    ]
    return kernels + elements


CASES = all_pairs() + long_runs()


def case_id(case: Case) -> str:
    return "-".join(str(value).removeprefix("torch.").replace(" ", "_") for value in case)


def mask_for(kernel_size: tuple[int, ...], band: str) -> torch.Tensor:
    """A mask in rfftn layout; "some" is random but treats conjugate bins alike."""
    full = torch.full(kernel_size, band == "all")
    if band == "some":
        axes = list(range(len(kernel_size)))
        half = torch.rand(kernel_size, generator=torch.Generator().manual_seed(1)) < 0.4
        full = half | half.flip(axes).roll([1] * len(axes), axes)
    return full[..., : kernel_size[-1] // 2 + 1]


def lay_out(values: torch.Tensor, layout: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(memory, view): the values in the named layout, inside memory that is otherwise filled with 5."""
    dims = list(range(values.dim()))
    orders = {"channels_last": [*dims[:1], *dims[2:], *dims[1:2]], "transposed": [*dims[1::-1], *dims[2:]]}
    order = dims[::-1] if layout == "reversed" else orders.get(layout, dims)
    strides = [0] * len(dims)
    reach = 2 if layout == "every other" else 1
    for axis in reversed(order):
        strides[axis] = reach
        reach *= values.shape[axis] + (layout == "slice")
    memory = torch.full((reach + 64,), 5.0, dtype=values.dtype, device=device)
    view = memory.as_strided(values.shape, strides, 1 if layout == "offset" else 0)
    return memory, view.copy_(values)


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradient and scores of a case, on the CPU."""
    draw = torch.Generator().manual_seed(2)
    grad = torch.randn(case.size, generator=draw, dtype=torch.float64).to(case.dtype)
    if case.ratio is None or len(case.size) < 3:
        return grad, None
    channels = case.size[0] + (case.shard_place.first_channel + 2 if case.shard_place else 0)
    return grad, torch.rand(channels, generator=draw)


def options(case: Case, name: str, device: torch.device) -> dict:
    """The keyword arguments of the call of a case whose only tensor is at PLACE."""
    amounts = {"std": case.std, "floor_std": case.floor, "grad_scale": case.scale}
    if case.tables:
        others = [99.0] * PLACE  # belong to absent tensors: to use one would be seen
        amounts["std"] = torch.tensor([*others, case.std], device=device)
        amounts["floor_std"] = torch.tensor([*others, case.floor], device=device)
        amounts["grad_scale"] = None if case.scale is None else torch.tensor(case.scale, device=device)
    band = {"cutoff": case.band}
    if isinstance(case.band, str):
        band = {"masks": {case.size[2:]: case.mask} if len(case.size) > 2 else {}}
    return {
        "ratio": case.ratio or 0.0,
        "keep": case.keep,
        "rng": tip.NoiseRNG(KEY, case.generator, STEP),
        "shards": [None] * PLACE + [case.shard_place] if case.shard else None,
        "backend": name,
        **amounts,
        **band,
    }


def run(case: Case, grad: torch.Tensor, scores: torch.Tensor | None, name: str) -> torch.Tensor:
    """Perturbs ``grad`` in place on its device, with the named backend."""
    scores = None if scores is None else scores.to(grad.device)
    absent: list[None] = [None] * PLACE
    tip.perturb_([*absent, grad], [*absent, scores], **options(case, name, grad.device))
    return grad


# Tolerances. u is the unit roundoff of the arithmetic, |normal| <= 6.76 and X = max |x|. The reference works in
# float64 from the float32 normals on, so the errors are the other backend's.
#
# * A normal is off by at most 4 ulp of the radius (test_generators.py): 8 u32 times 6.76.
# * A coefficient of Q' x is a sum of K products, at most sqrt(K) X in size; a tap is again a sum of K products of
#   coefficients and entries of Q, whose rows have norm 1: in all 2 K + 8 roundings (of Q, s x, std xi and the sum
#   too) of numbers of at most sqrt(K) (|s| X + (std + floor) 6.76).
# * bfloat16 and float16 results are compared with float32 ones of the reference: half an ulp more, for the store.
NORMAL_MAX = math.sqrt(2 * 33 * math.log(2))
U32 = 2.0**-24


def float_tolerance(case: Case, grad: torch.Tensor) -> float:
    taps = math.prod(case.size[2:])
    roundoff = 2.0**-53 if case.dtype == torch.float64 else U32
    noise = (case.std + case.floor) * NORMAL_MAX
    largest = abs(case.scale or 1.0) * grad.abs().max().item() + noise
    return math.sqrt(taps) * ((2 * taps + 8) * roundoff * largest + 8 * U32 * noise)


def half_ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half the distance between neighbors of ``values`` in a 16-bit dtype, 0 for others."""
    info = torch.finfo(dtype)
    if info.bits > 16:
        return torch.zeros_like(values)
    exponent = torch.frexp(values.abs().clamp_min(info.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(values, info.eps / 2), exponent)


def assert_close(
    got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype, tolerance: float, step: float = 0.0
) -> None:
    """``want`` is float32 for 16-bit dtypes, and not rounded to the grid, on which ``got`` lies if it has a step.

    So ``got`` is the nearest multiple of the step, or the next but one where ``want`` lies within the tolerance of the
    middle between two.
    """
    assert_on_grid(got, step)
    error = (got.cpu().to(want.dtype) - want).abs()
    allowed = half_ulp(want, dtype) + tolerance + step / 2
    assert (error <= allowed).all(), f"largest error {error.max():.3g}, allowed {allowed.flatten()[error.argmax()]:.3g}"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_the_reference(case, backend):
    if backend.interpreted and (CASES.index(case) % 4 or case.shape in ("many kernels", "long runs", "long linear")):
        pytest.skip("Triton's interpreter takes a quarter of the cases, of small tensors")
    grad, scores = inputs(case)
    arithmetic = case.dtype if case.dtype == torch.float64 else torch.float32
    with unrounded():
        want = run(case, grad.to(arithmetic, copy=True), scores, "reference")

    memory, view = lay_out(grad, case.layout, backend.device)
    run(case, view, scores, backend.name)

    assert_close(view, want, case.dtype, float_tolerance(case, grad), case.step)
    view.fill_(5.0)
    assert (memory == 5.0).all(), "wrote outside of the gradient"


def perturbed(grad: torch.Tensor, scores: torch.Tensor | None, backend, **given) -> torch.Tensor:
    """One tensor, perturbed on the backend's device, back on the CPU."""
    copy = grad.to(backend.device, copy=True)
    scores = None if scores is None else scores.to(backend.device)
    backend.perturb_([copy], [scores], **{"ratio": 0.3, "std": STD, "rng": tip.NoiseRNG(KEY), **given})
    return copy.cpu()


@pytest.mark.parametrize("keep", [1.0, 0.0])
@pytest.mark.parametrize("kernel_size", [(3, 3), (5, 5), (3, 5), (9,), (3, 3, 3)])
def test_low_band_is_left_alone(kernel_size, keep, backend):
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(6, 5, *kernel_size, generator=draw, dtype=torch.float64)
    axes = tuple(range(2, x.dim()))
    high = tip.spectrum.radial_mask(kernel_size, 0.5)
    before = torch.fft.rfftn(x, dim=axes, norm="ortho")
    got = perturbed(x, torch.rand(6), backend, ratio=1.0, keep=keep)
    after = torch.fft.rfftn(got, dim=axes, norm="ortho")
    # float64: far above 2 K roundings of numbers of a few sqrt(K), far below the noise.
    assert (after - before)[..., ~high].abs().max() < 1e-12
    assert (after - before)[..., high].abs().min() > 1e-6


def test_keep_0_without_noise_removes_the_high_band(backend):
    x = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    got = perturbed(x, torch.rand(6), backend, ratio=1.0, keep=0.0, std=0.0)
    assert (got - x.mean((2, 3), keepdim=True)).abs().max() < 1e-13  # cutoff 0.5 leaves DC only


def ranking(scores: list[float]) -> list[int]:
    """Channels from the first to the last chosen: NaN first, then high to low, ties by index."""
    return sorted(range(len(scores)), key=lambda c: (0, 0.0, c) if math.isnan(scores[c]) else (1, -scores[c], c))


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize(
    "scores",
    [
        [0.1, 0.9, 0.5, 0.7, 0.3, 0.2, 0.8, 0.4, 0.6, 1.0],
        [1.0] * 10,
        [0.0, -0.0, 0.0, -0.0, 1e-45, 0.0, -0.0, -1e-45, 0.0, -0.0],
        [0.5, 0.5, NAN, 0.9, 0.5, NAN, 0.9, 0.1, NAN, 0.9],
        [NAN] * 10,
        [INF, -INF, NAN, INF, 0.0, -INF, 3e38, -3e38, NAN, -NAN],
    ],
    ids=["distinct", "equal", "zeros", "some NaN", "all NaN", "infinite"],
)
def test_selects_the_highest_scores(scores, ratio, backend):
    x = torch.randn(10, 4, 3, 3)
    got = perturbed(x, torch.tensor(scores), backend, ratio=ratio)
    changed = {c for c in range(10) if not torch.equal(got[c], x[c])}  # bit for bit: what is not chosen is untouched
    assert changed == set(ranking(scores)[: round(ratio * 10)])


def test_selected_noise_changes_every_kernel(backend):
    """So that the test above, which looks at whole channels, cannot miss a kernel."""
    x = torch.randn(10, 45, 3, 3)
    got = perturbed(x, torch.rand(10), backend, ratio=1.0)
    assert (got != x).any((2, 3)).all()


def test_scale_alone_is_exact(backend):
    """One float32 product has one right result, in channels of both sorts (no noise: K = 1 and d = 0)."""
    x = torch.randn(33, 17)
    assert torch.equal(perturbed(x, None, backend, grad_scale=1.1), x * 1.1)
    x = torch.randn(33, 17, 3, 3)
    assert torch.equal(perturbed(x, torch.rand(33), backend, ratio=0.0, grad_scale=1.1), x * 1.1)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # Triton interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_store_rounds_once_to_nearest_even(dtype, backend):
    """Every number of the dtype times 1.5, which is exact in float32 and often half way between two results."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    if backend.interpreted:  # which misreads subnormal bfloat16
        x = x[~(x.abs() < torch.finfo(dtype).tiny)][::61].clone()
    want = (x.float() * 1.5).to(dtype)
    got = perturbed(x, None, backend, grad_scale=1.5)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got[~got.isnan()].view(torch.int16), want[~want.isnan()].view(torch.int16))


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # Triton interpreted
@pytest.mark.parametrize("poison", [NAN, INF])
def test_nonfinite_gradients_stay_in_their_kernels(poison, backend):
    x = torch.randn(8, 9, 3, 3)
    scores = torch.arange(8.0)
    poisoned = x.clone()
    poisoned[1, 2, 0, 1] = poison  # in a channel that is left alone
    poisoned[7, 4, 2, 2] = poison  # in a selected one
    clean = perturbed(x, scores, backend, floor_std=FLOOR, keep=0.5)
    got = perturbed(poisoned, scores, backend, floor_std=FLOOR, keep=0.5)
    bad = ~got.isfinite()
    assert bad[7, 4].any()
    assert bad[1, 2, 0, 1]
    bad[7, 4] = True  # a DFT spreads it over the kernel
    assert bad.sum() == 10
    assert torch.equal(got[~bad], clean[~bad])


def model(device: torch.device) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
    """Gradients and scores of a small model with gaps."""
    draw = torch.Generator().manual_seed(5)
    sizes = [(7, 3, 3, 3), (7,), None, (9, 7, 1, 1), (0, 4, 3, 3), (9, 0, 3, 3), (9, 9, 5, 5), (12, 9), (), (0,)]
    grads = [None if s is None else torch.randn(s, generator=draw).to(device) for s in sizes]
    scores = [torch.rand(s[0], generator=draw).to(device) if s is not None and len(s) == 4 else None for s in sizes]
    return grads, scores


@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_one_call_equals_tensors_one_by_one(floor, backend):
    grads, scores = model(backend.device)
    given = {"ratio": 0.3, "std": STD, "floor_std": floor, "grad_scale": SCALE, "backend": backend.name}
    together = tip.perturb(grads, scores, rng=tip.NoiseRNG(KEY), **given)
    for i in range(len(grads)):
        alone: list[torch.Tensor | None] = [None] * len(grads)
        alone[i] = grads[i]
        single = tip.perturb(alone, scores, rng=tip.NoiseRNG(KEY), **given)[i]
        assert (together[i] is None) == (grads[i] is None)
        assert together[i] is None or torch.equal(together[i], single)


def test_nothing_to_do_still_uses_a_step(backend):
    rng = tip.NoiseRNG(KEY, step=5)
    backend.perturb_([], [], ratio=0.3, std=STD, rng=rng)
    backend.perturb_([None, backend.zeros(0, 3, 3, 3)], [None, None], ratio=0.3, std=STD, rng=rng)
    assert rng.step == 7


def test_each_call_draws_new_noise_and_a_key_repeats_it(backend):
    x, scores = torch.randn(6, 5, 3, 3), torch.rand(6)
    rng = tip.NoiseRNG(KEY)
    first, second = (perturbed(x, scores, backend, ratio=1.0, rng=rng) for _ in range(2))
    assert ((first - second).abs() > 0).all()
    assert torch.equal(first, perturbed(x, scores, backend, ratio=1.0))
    assert torch.equal(second, perturbed(x, scores, backend, ratio=1.0, rng=tip.NoiseRNG(KEY, step=1)))


@pytest.mark.parametrize("floor", [0.0, FLOOR])
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 1), (5, 5)])
def test_shards_get_the_noise_of_the_whole(kernel_size, floor, backend):
    draw = torch.Generator().manual_seed(6)
    whole = torch.randn(8, 10, *kernel_size, generator=draw)
    scores = torch.rand(8, generator=draw)
    want = perturbed(whole, scores, backend, floor_std=floor)
    if floor:  # rounded values may be a step apart, so parts are compared with what was to be rounded
        with unrounded():
            given = {"ratio": 0.3, "std": STD, "floor_std": floor, "rng": tip.NoiseRNG(KEY), "backend": "reference"}
            (want,) = tip.perturb([whole], [scores], **given)
    for channels, kernels in [((0, 3), (0, 10)), ((3, 8), (0, 10)), ((0, 8), (6, 10)), ((2, 7), (1, 4))]:
        part = whole[slice(*channels), slice(*kernels)]
        shard = tip.Shard(channels[0], kernels[0], 10)
        got = perturbed(part, scores, backend, floor_std=floor, shards=[shard])
        tolerance = float_tolerance(Case("5x5", floor=floor), whole)  # vectors may begin elsewhere
        step = step_of(floor, STD if math.prod(kernel_size) > 1 else 0.0)
        assert_close(got, want[slice(*channels), slice(*kernels)], torch.float32, tolerance, step)


@pytest.mark.parametrize("generator", FACTORS["generator"])
def test_addresses_have_64_bits(generator, backend):
    """A part near the end of a tensor of 2^41 elements, against the reference."""
    x, shard = torch.zeros(100), tip.Shard(2**41 - 100, 0, 1)
    near, far = (
        perturbed(x, None, backend, floor_std=TINY_FLOOR, shards=[place], rng=tip.NoiseRNG(KEY, generator)) / TINY_FLOOR
        for place in (None, shard)
    )
    rng = tip.NoiseRNG(KEY, generator)
    given = {"ratio": 0, "std": 0, "floor_std": TINY_FLOOR, "shards": [shard]}
    (want,) = tip.perturb([x], [None], rng=rng, backend="reference", **given)
    assert_close(far, want / TINY_FLOOR, torch.float32, 8 * U32 * NORMAL_MAX)
    assert (near - far).abs().min() > 1e-6


@pytest.mark.parametrize("generator", FACTORS["generator"])
def test_counters_carry_within_a_run(generator, backend):
    """Kernels on both sides of group 2^32, two to a group, against the reference."""
    x, scores = torch.zeros(1, 121, 3, 3), torch.zeros(1)
    given = {"ratio": 1.0, "std": 1.0, "shards": [tip.Shard(0, 2**33 - 51, 2**33 + 100)]}
    got = perturbed(x, scores, backend, rng=tip.NoiseRNG(KEY, generator), **given)
    (want,) = tip.perturb([x], [scores], rng=tip.NoiseRNG(KEY, generator), backend="reference", **given)
    assert_close(got, want, torch.float32, float_tolerance(Case("long runs", std=1.0), x))


def test_float64_takes_the_float32_normals(backend):
    fine = {"ratio": 0.0, "std": 2.0**-60, "floor_std": 1.0}  # the lesser makes a grid too fine to round a normal
    single, double = (
        perturbed(torch.zeros(64, 1, 3, 3, dtype=dtype), torch.rand(64), backend, **fine)
        for dtype in (torch.float32, torch.float64)
    )
    assert torch.equal(single.double(), double)


def test_perturb_leaves_its_arguments(backend):
    x = backend.gradient(4, 3, 3, 3)
    before, scores = x.clone(), backend.scores(4)
    (copy,) = tip.perturb([x], [scores], ratio=1.0, std=STD, rng=tip.NoiseRNG(KEY), backend=backend.name)
    assert torch.equal(x, before)
    assert torch.equal(copy.cpu(), perturbed(x, scores, backend, ratio=1.0))
    assert not torch.equal(copy, before)


def test_what_a_call_leaves_alone_it_does_not_look_at(backend):
    """A sparse embedding or an integer counter may stand in the list, as long as nothing is to be done to it."""
    kernel, scores = backend.gradient(4, 3, 3, 3), backend.scores(4)
    others = [torch.zeros(3, 2).to_sparse(), torch.zeros((), dtype=torch.int64), backend.gradient(4, 3, 1, 1)]
    before = [other.clone() for other in others]
    arguments = {"scores": [scores, None, None, scores], "ratio": 0.5, "std": STD, "rng": tip.NoiseRNG(KEY)}
    together = kernel.clone()
    backend.perturb_([together, *others], **arguments)
    assert torch.equal(together.cpu(), perturbed(kernel, scores, backend, ratio=0.5))
    assert all(torch.equal(a.to_dense(), b.to_dense()) for a, b in zip(others, before, strict=True))
    with pytest.raises(TypeError, match=r"expected grads\[1\] to be strided"):
        backend.perturb_([kernel, *others], **arguments, floor_std=FLOOR)


@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_threads_do_not_change_the_result(floor, backend):
    if backend.name in ("cuda", "triton"):
        pytest.skip(f"{backend.name} does not use torch's threads")
    x, scores = torch.randn(64, 129, 3, 3), torch.rand(64)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(perturbed(x, scores, backend, floor_std=floor))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"expected backend to be None or one of .*reference, got 'fpga'"):
        tip.perturb_([torch.ones(3)], [None], ratio=0, std=0, rng=tip.NoiseRNG(), backend="fpga")


def test_explicit_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(native, "_CPU_PROBLEM", "_cpu.abi3.so does not load: no such symbol")
    x = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"backend 'cpu' cannot run on cpu: .*no such symbol"):
        tip.perturb_([x], [None], ratio=0, std=0, floor_std=1.0, rng=tip.NoiseRNG(), backend="cpu")
    assert torch.equal(x, torch.ones(3))


def test_backends_for_other_devices_say_so():
    x = torch.ones(3, 4, device="meta")
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot run on meta: it runs on cpu tensors only"):
        tip.channel_saliency(x, backend="cpu")


def test_autograd_sees_the_change(backend):
    """A gradient kept for a second backward pass must not be used after it was perturbed."""
    grad = backend.gradient(4, 2, 3, 3)
    before = grad._version
    backend.perturb_([grad], [backend.scores(4)], ratio=0.5, std=1.0, rng=tip.NoiseRNG.from_seed(0))
    assert grad._version > before
    with torch.inference_mode():
        unversioned = backend.gradient(4, 2, 3, 3)
        backend.perturb_([unversioned], [backend.scores(4)], ratio=0.5, std=1.0, rng=tip.NoiseRNG.from_seed(0))
