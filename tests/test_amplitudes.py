"""Noise with a shape: every coefficient of a kernel gets its own part of ``std`` and ``floor_std``."""

import math

import pytest
import scipy.stats
import torch
from conftest import LAYOUTS
from released import TINY_FLOOR, assert_on_grid, assert_same_release, least_amounts, step_of
from test_formula import FLOOR, KERNEL_SIZES, SCALE, STD, check, formula, some_masks

import tip_kernels as tip

MASK = tip.spectrum.radial_mask((3, 3), 0.5)
HIGH = 8  # its dimensions
SHAPE = tip.Amplitudes(
    [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 0.625], [4.0, 3.0, 2.5, 2.0, 1.0, 0.75, 0.5, 1.5, 8.0]
)
ONES = tip.Amplitudes([1.0] * 9, [1.0] * 9)


def some_amplitudes(taps: int, seed: int = 0) -> tip.Amplitudes:
    """Between a quarter and 4, exact in float32."""
    draw = torch.Generator().manual_seed(seed)
    return tip.Amplitudes(*[(2 ** (4 * torch.rand(taps, generator=draw) - 2)).tolist() for _ in range(2)])


@pytest.mark.parametrize("kernel_size", KERNEL_SIZES, ids=str)
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_any_mask_of_any_kernel_size(backend, kernel_size, keep, floor):
    for seed, mask in enumerate(some_masks(backend, kernel_size, keep)):
        if mask.any():
            grad = backend.gradient(7, 3, *kernel_size, dtype=torch.float64)
            shape = some_amplitudes(math.prod(kernel_size), seed)
            check(backend, grad, backend.scores(7), mask, ratio=0.4, keep=keep, floor=floor, amplitudes=shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cutoff", [0.5, 0.75])
@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_3x3_kernels_of_any_dtype_and_layout(backend, dtype, layout, cutoff, floor):
    """As many kernels as go by whole vectors, and some more."""
    if backend.interpreted and (layout not in LAYOUTS[:2] or dtype not in (torch.float32, torch.float64)):
        pytest.skip("Triton's interpreter takes some of the cases")
    mask = tip.spectrum.radial_mask((3, 3), cutoff)
    for keep, scale in ((1.0, 1.0), (0.5, SCALE)):
        grad = backend.gradient(5, 67, 3, 3, dtype=dtype, layout=layout)
        options = {"keep": keep, "scale": scale, "floor": floor, "amplitudes": SHAPE}
        check(backend, grad, backend.scores(5), mask, ratio=0.5, **options)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_none_and_all_selected(backend, ratio):
    for floor in (0.0, FLOOR):
        grad = backend.gradient(4, 9, 3, 3)
        check(backend, grad, backend.scores(4), MASK, ratio=ratio, floor=floor, amplitudes=SHAPE)


@pytest.mark.parametrize("floor", [0.0, FLOOR])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_ones_are_the_noise_without_a_shape_in_selected_channels(backend, floor, keep):
    results = []
    for amplitudes in (None, [ONES]):
        grad = backend.gradient(5, 67, 3, 3)
        options = {"floor_std": floor, "keep": keep, "amplitudes": amplitudes, "rng": tip.NoiseRNG.from_seed(7)}
        backend.perturb_([grad], [backend.scores(5)], ratio=1.0, std=STD, **options)
        results.append(grad.cpu().double())
    exact = formula(
        backend.gradient(5, 67, 3, 3),
        backend.scores(5),
        MASK,
        tip.NoiseRNG.from_seed(7),
        count=5,
        floor=floor,
        keep=keep,
    )
    # Sums of 9 products of values below 8 in float32, for each of two results.
    tolerance = 2 * 9 * 8 * 2.0**-24
    if floor:
        assert_same_release(*results, exact, step_of(floor, STD), tolerance)
    else:
        torch.testing.assert_close(*results, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("kernel_size", "cutoff"), [((3, 3), 0.5), ((3, 3), 0.75), ((5, 5), 0.5), ((2, 3, 4), 0.5)])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_covariance_is_that_of_the_amplitudes(backend, kernel_size, cutoff, ratio):
    """Noise divided by std and amplitude is standard normal: all moments of two coefficients, at 1e-7 a side."""
    if backend.interpreted:
        pytest.skip("too many samples for Triton's interpreter; the tests above compare with the formula")
    taps = math.prod(kernel_size)
    basis, high_dim = tip.spectrum.real_basis(kernel_size, tip.spectrum.radial_mask(kernel_size, cutoff))
    amplitudes = some_amplitudes(taps)
    grad = backend.zeros(8, 4000, *kernel_size)
    std = [TINY_FLOOR * 1.5] * high_dim + [TINY_FLOOR] * (taps - high_dim) if ratio else [TINY_FLOOR] * taps
    backend.perturb_(
        [grad], [backend.scores(8)], ratio=ratio, std=1.5 * TINY_FLOOR, floor_std=TINY_FLOOR, cutoff=cutoff,
        rng=tip.NoiseRNG.from_seed(3), amplitudes=[amplitudes],
    )  # fmt: skip
    expected = torch.tensor(std, dtype=torch.float64) * torch.tensor(amplitudes[0 if ratio else 1])
    samples = grad.cpu().double().flatten(2).flatten(0, 1) @ basis / expected
    assert is_standard_normal(samples)
    assert not is_standard_normal(samples * (1.0 + 0.3 * torch.eye(taps)[3]))


def is_standard_normal(samples: torch.Tensor) -> bool:
    """Of samples [n, K]: n S_ij^2, on the diagonal n (S_ii - 1)^2 / 2, are chi-square with one degree of freedom."""
    count, dims = samples.shape
    moments = (samples.T @ samples).double() / count
    upper, diagonal = torch.triu(moments, 1).square().sum(), (moments.diagonal() - 1).square().sum() / 2
    freedom = dims * (dims + 1) // 2
    return 1e-7 < scipy.stats.chi2.cdf((count * (upper + diagonal)).item(), freedom) < 1 - 1e-7


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("place", [0, HIGH - 1, HIGH])
def test_the_grid_follows_the_least_amplitude(backend, row, place):
    """Wherever it is, and in channels of both kinds."""
    rows = [[1.0] * 9, [1.0] * 9]
    rows[row][place] = 0.011
    amplitudes = tip.Amplitudes(*rows)
    grad = backend.gradient(6, 40, 3, 3)
    backend.perturb_(
        [grad], [backend.scores(6)], ratio=0.5, std=STD, floor_std=FLOOR, rng=tip.NoiseRNG.from_seed(1),
        amplitudes=[amplitudes],
    )  # fmt: skip
    step = step_of(*least_amounts(FLOOR, STD, amplitudes, HIGH))
    assert step < step_of(FLOOR, STD)
    for channel in grad.cpu():
        assert_on_grid(channel, step)
        assert (channel / (2 * step) != (channel / (2 * step)).round()).any()


def test_without_std_its_amplitudes_do_not_count(backend):
    amplitudes = tip.Amplitudes([1e-3] * HIGH + [1.0], [1.0] * 9)
    grad = backend.gradient(6, 40, 3, 3)
    backend.perturb_(
        [grad], [backend.scores(6)], ratio=0.5, std=0.0, floor_std=FLOOR, rng=tip.NoiseRNG.from_seed(1),
        amplitudes=[amplitudes],
    )  # fmt: skip
    assert_on_grid(grad.cpu(), step_of(FLOOR))


def test_tensors_without_amplitudes_keep_their_bits(backend):
    """Beside one that has them, and where no tensor has any."""
    results = []
    for amplitudes in (None, [None] * 3, [SHAPE, None, None]):
        grads = [backend.gradient(4, 9, 3, 3), backend.gradient(7), backend.gradient(4, 9, 3, 3, seed=1)]
        backend.perturb_(
            grads, [backend.scores(4), None, backend.scores(4)], ratio=0.5, std=STD, floor_std=FLOOR,
            rng=tip.NoiseRNG.from_seed(1), amplitudes=amplitudes,
        )  # fmt: skip
        results.append(grads)
    plain, nones, mixed = results
    assert all(map(torch.equal, plain, nones))
    assert not torch.equal(plain[0], mixed[0])
    assert all(map(torch.equal, plain[1:], mixed[1:]))


def test_amounts_of_each_tensor_multiply_the_shape(backend):
    """Tables of std and floor_std give what numbers give, tensor by tensor."""
    std, floor, scores = [0.5, 1.0], [0.25, 3.0], [backend.scores(4)] * 2
    together = [backend.gradient(4, 9, 3, 3), backend.gradient(4, 9, 3, 3)]
    tables = {"std": torch.tensor(std, device=backend.device), "floor_std": torch.tensor(floor, device=backend.device)}
    backend.perturb_(together, scores, ratio=0.5, rng=tip.NoiseRNG.from_seed(1), amplitudes=[SHAPE] * 2, **tables)
    for i in range(2):
        alone = [None, None]
        alone[i] = backend.gradient(4, 9, 3, 3)
        numbers = {"std": std[i], "floor_std": floor[i]}
        backend.perturb_(alone, scores, ratio=0.5, rng=tip.NoiseRNG.from_seed(1), amplitudes=[SHAPE] * 2, **numbers)
        assert torch.equal(alone[i], together[i])


def test_a_shard_gets_the_noise_of_its_region(backend):
    whole, scores = backend.gradient(6, 21, 3, 3), backend.scores(6)
    part = whole[2:5, 4:15].clone()
    options = {"ratio": 0.5, "std": STD, "floor_std": FLOOR, "keep": 0.5, "amplitudes": [SHAPE]}
    backend.perturb_([whole], [scores], rng=tip.NoiseRNG.from_seed(1), **options)
    shard = tip.Shard(2, 4, 21)
    backend.perturb_([part], [scores], rng=tip.NoiseRNG.from_seed(1), shards=[shard], **options)
    torch.testing.assert_close(part, whole[2:5, 4:15], rtol=0, atol=step_of(*least_amounts(FLOOR, STD, SHAPE, HIGH)))


def test_a_compiled_call_is_the_eager_one():
    """On the backend that is chosen; amplitudes are constants of the graph."""

    def perturb(grad, scores, rng):
        tip.perturb_([grad], [scores], ratio=0.5, std=STD, floor_std=FLOOR, rng=rng, amplitudes=[SHAPE])

    torch._dynamo.reset()
    results = []
    for function in (perturb, torch.compile(perturb, backend="eager", fullgraph=True)):
        grad = torch.randn(4, 9, 3, 3, generator=torch.Generator().manual_seed(0))
        rng = tip.NoiseRNG.from_seed(1)
        for _ in range(2):
            function(grad, torch.arange(4.0), rng)
        results.append(grad)
    assert torch.equal(*results)


def spoiled(name: str, place: int, value: object) -> tip.Amplitudes:
    values = [1.0] * 9
    values[place] = value
    return ONES._replace(**{name: values})


BAD_AMPLITUDES = {
    "zero": ([spoiled("selected", 3, 0.0)], ValueError, r"amplitudes\[0\] \(conv\).selected\[3\] in .*, got 0.0"),
    "negative": ([spoiled("others", 8, -1.0)], ValueError, r"amplitudes\[0\] \(conv\).others\[8\] in .*, got -1.0"),
    "NaN": ([spoiled("others", 0, math.nan)], ValueError, r"others\[0\] in .*, got nan"),
    "infinite": ([spoiled("selected", 0, math.inf)], ValueError, r"selected\[0\] in .*, got inf"),
    "subnormal": ([spoiled("selected", 0, 1e-39)], ValueError, r"selected\[0\] in .*, got 1e-39"),
    "beyond float32": ([spoiled("selected", 0, 1e39)], ValueError, r"selected\[0\] in .*, got 1e\+39"),
    "a list for one": ([spoiled("others", 8, [1.0])], TypeError, r"others\[8\] to be a number, got list"),
    "no number": ([spoiled("selected", 0, "1")], TypeError, r"selected\[0\] to be a number, got str"),
    "too few": ([ONES._replace(others=[1.0] * 8)], ValueError, r"\(conv\).others of length 9, .*, got 8"),
    "too many": ([ONES._replace(selected=[1.0] * 10)], ValueError, r"\(conv\).selected of length 9, .*, got 10"),
    "a tensor": (
        [ONES._replace(selected=torch.ones(9))],
        TypeError,
        r"selected to be a sequence of numbers, got Tensor",
    ),
    "a string": ([ONES._replace(selected="1" * 9)], TypeError, r"selected to be a sequence of numbers, got str"),
    "a pair": ([([1.0] * 9, [1.0] * 9)], TypeError, r"amplitudes\[0\] \(conv\) to be Amplitudes or None, got tuple"),
    "no sequence": ({0: ONES}, TypeError, "amplitudes to be a sequence of Amplitudes, got dict"),
    "too long": ([ONES, None, None, None], ValueError, "amplitudes of length 3, one per gradient, got 4"),
    "of a bias": ([None, ONES, None], ValueError, r"amplitudes\[1\] \(bias\) to be None, because .* no high band"),
    "of a 1x1 kernel": ([None, None, tip.Amplitudes([1.0], [1.0])], ValueError, r"amplitudes\[2\] \(last\) to be None"),
}


@pytest.mark.parametrize("case", BAD_AMPLITUDES)
@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_bad_amplitudes_are_refused(backend, case, floor):
    """Before anything changes, also where the call would not look at the tensor otherwise, and after a good call."""
    amplitudes, error, message = BAD_AMPLITUDES[case]
    if isinstance(amplitudes, list) and len(amplitudes) == 1:
        amplitudes = [*amplitudes, None, None]
    grads = [backend.gradient(4, 3, 3, 3), backend.gradient(4), backend.gradient(4, 3, 1, 1)]
    scores, rng = [backend.scores(4), None, backend.scores(4)], tip.NoiseRNG.from_seed(0)
    options = {"ratio": 0.5, "std": STD, "floor_std": floor, "rng": rng, "names": ["conv", "bias", "last"]}
    backend.perturb_(grads, scores, **options, amplitudes=[ONES, None, None])
    before = [grad.clone() for grad in grads]
    with pytest.raises(error, match=message):
        backend.perturb_(grads, scores, **options, amplitudes=amplitudes)
    assert all(map(torch.equal, grads, before))
    assert rng.step == 1


def test_one_shape_for_kernels_of_different_sizes_is_refused(backend):
    grads = [backend.gradient(4, 3, 3, 3), backend.gradient(4, 3, 5)]
    scores, rng = [backend.scores(4), backend.scores(4)], tip.NoiseRNG.from_seed(0)
    with pytest.raises(ValueError, match=r"amplitudes\[1\].selected of length 5, one per coefficient .*, got 9"):
        backend.perturb_(grads, scores, ratio=0.5, std=STD, rng=rng, amplitudes=[ONES, ONES])


def test_what_is_absent_or_empty_may_have_amplitudes(backend):
    """A layer that was not reached, and the part of a layer that lies on other ranks."""
    grads, rng = [None, backend.zeros(0, 3, 3, 3)], tip.NoiseRNG.from_seed(0)
    backend.perturb_(grads, [None, backend.zeros(0)], ratio=0.5, std=STD, rng=rng, amplitudes=[ONES, ONES])
    assert rng.step == 1


def test_a_basis_of_one_tap_may_have_an_amplitude(backend):
    """With a mask that has its only bin, a 1x1 kernel has a high band."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    for floor in (0.0, FLOOR):
        shape = tip.Amplitudes([2.0], [4.0])
        check(backend, backend.gradient(6, 5, 1, 1), backend.scores(6), mask, ratio=0.5, floor=floor, amplitudes=shape)
