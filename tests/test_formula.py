"""Every backend against the formula of docs/design.md written out with the basis; mostly odd cases.

The reference goes through ``torch.fft`` instead, so for it this is the proof that the two ways are one.
"""

import itertools
import math

import pytest
import torch
from released import assert_on_grid, assert_same_release, least_amounts, step_of

import tip_kernels as tip
from tip_kernels.backends.reference.words import Stream

STD, FLOOR, SCALE = 0.75, 0.25, -1.5  # exact in float32
INF, NAN = math.inf, math.nan
KERNEL_SIZES = [(1,), (2,), (3,), (9,), (16,), (1, 1), (1, 7), (2, 2), (4, 4), (3, 5), (5, 5), (2, 3, 4), (3, 3, 3)]


def formula(grad, scores, mask, rng, *, count, floor=0.0, scale=1.0, keep=1.0, amplitudes=None) -> torch.Tensor:
    """The result in float64 for the first tensor of a call, before the grid: [C, M, *kernel_size]."""
    channels, kernels, *size = grad.shape
    taps = math.prod(size)
    basis, high_dim = tip.spectrum.real_basis(tuple(size), mask)  # [K, K]
    used = taps if floor else high_dim
    pitch = taps
    if high_dim:
        pitch = next(2**i for i in range(5) if 2**i >= used) if used <= 16 else 16 * math.ceil(used / 16)
    x = scale * grad.cpu().double().flatten(2)  # [C, M, K]
    stream = Stream(rng.state(torch.device("cpu")).clone(), 0, rng.generator_id)
    words = max(2, channels * kernels * pitch)
    normals = stream.normals(torch.zeros(1, dtype=torch.int64), words)[0, : channels * kernels * pitch].double()
    normals = normals.reshape(channels, kernels, pitch)  # [C, M, pitch]
    result = x.clone()
    if floor and amplitudes is None:
        result += floor * normals[..., :taps]
    elif floor:
        result += floor * (normals[..., :taps] * torch.tensor(amplitudes.others)) @ basis.T
    if amplitudes is not None:
        normals = normals.clone()
        normals[..., :used] *= torch.tensor(amplitudes.selected)[:used]
    high, low = basis[:, :high_dim], basis[:, high_dim:]
    changed = (
        x + ((keep - 1.0) * (x @ high) + STD * normals[..., :high_dim]) @ high.T
        if keep != 1.0
        else (x + STD * normals[..., :high_dim] @ high.T)
    )
    if floor:
        changed = changed + floor * normals[..., high_dim:taps] @ low.T
    values = scores.tolist()
    order = sorted(range(channels), key=lambda c: (not math.isnan(values[c]), -values[c], c))
    for c in order[:count]:
        result[c] = changed[c]
    return result.reshape(grad.shape)


def some_mask(kernel_size: tuple[int, ...], seed: int) -> torch.Tensor:
    """A random mask that treats conjugate bins alike."""
    shape = (*kernel_size[:-1], kernel_size[-1] // 2 + 1)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    for bin_ in itertools.product(*map(range, shape)):
        partner = tuple(-b % n for b, n in zip(bin_, kernel_size, strict=True))
        if partner[-1] < shape[-1]:
            mask[partner] = mask[bin_]
    return mask


def check(backend, grad, scores, mask, *, ratio, floor=0.0, scale=1.0, keep=1.0, amplitudes=None) -> torch.Tensor:
    """Perturbs ``grad`` and compares it with the formula, of which it is the nearest multiple of the grid's step."""
    given = {"floor": floor, "scale": scale, "keep": keep, "amplitudes": amplitudes}
    rng = tip.NoiseRNG.from_seed(7)
    count = math.ceil(round(ratio * grad.shape[0], 9)) if mask.any() else 0
    expected = formula(grad, scores, mask, rng, count=count, **given)
    backend.perturb_(
        [grad], [scores], ratio=ratio, std=STD, masks={tuple(grad.shape[2:]): mask}, rng=rng, floor_std=floor,
        grad_scale=scale, keep=keep, amplitudes=None if amplitudes is None else [amplitudes],
    )  # fmt: skip
    got = grad.cpu().double()
    # A float32 normal may be off by 4 * 2^-23 times its radius, below 6.8 (see test_generators.py), a sum of K
    # products by the square root of K of that at most; basis and sums in the gradient's type add their own.
    greatest = 1.0 if amplitudes is None else max(*amplitudes.selected, *amplitudes.others)
    noise = greatest * max(STD, floor) * (0 if backend.name == "reference" else 4 * 2.0**-23 * 6.8)
    size = expected[expected.isfinite()].abs().max() if expected.isfinite().any() else 0.0
    taps = math.prod(grad.shape[2:])
    step = step_of(floor, STD if mask.any() else 0.0)
    if amplitudes is not None:
        high_dim = tip.spectrum.real_basis(tuple(grad.shape[2:]), mask)[1]
        step = step_of(*least_amounts(floor, STD, amplitudes, high_dim))
    assert_on_grid(got, step)
    torch.testing.assert_close(
        got, expected, rtol=0,
        atol=math.sqrt(taps) * float(noise + 8 * torch.finfo(grad.dtype).eps * size) + step / 2, equal_nan=True,
    )  # fmt: skip
    return got


def some_masks(backend, kernel_size, keep) -> list[torch.Tensor]:
    """For a test with this ``keep``; skips it where another does the same."""
    if backend.interpreted and keep == 0:
        pytest.skip("for Triton's interpreter keep = 0 is as keep = 0.5")
    return [some_mask(kernel_size, seed) for seed in range(1 if backend.interpreted else 4)]


@pytest.mark.parametrize("kernel_size", KERNEL_SIZES, ids=str)
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_any_mask_of_any_kernel_size(backend, kernel_size, keep, floor):
    for mask in some_masks(backend, kernel_size, keep):
        grad = backend.gradient(7, 3, *kernel_size, dtype=torch.float64)
        check(backend, grad, backend.scores(7), mask, ratio=0.4, keep=keep, floor=floor)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("floor", [0.0, FLOOR])
@pytest.mark.parametrize("kernel_size", [(1, 1), (2,), (3, 3), (4, 4)], ids=str)
def test_full_and_empty_masks(backend, kernel_size, floor, full):
    """A full mask has no L, a mask of K = 1 has one coefficient and one word a kernel; an empty one selects none."""
    mask = torch.full((*kernel_size[:-1], kernel_size[-1] // 2 + 1), full)
    for keep in (0.0, 1.0):
        check(backend, backend.gradient(6, 5, *kernel_size), backend.scores(6), mask, ratio=0.5, floor=floor, keep=keep)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 4)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"floor": FLOOR}, {"scale": SCALE}, {"floor": FLOOR, "scale": SCALE, "keep": 0.0}]
)
def test_few_channels_few_kernels_none_and_all_selected(backend, shape, ratio, options):
    mask = tip.spectrum.radial_mask((3, 3), 0.5)
    check(backend, backend.gradient(*shape, 3, 3), backend.scores(shape[0]), mask, ratio=ratio, **options)


def test_keep_0_with_a_floor_leaves_only_the_low_band_of_the_gradient(backend):
    """Two gradients with the same low band come out the same, noise and all."""
    basis, high_dim = tip.spectrum.real_basis((3, 3), tip.spectrum.radial_mask((3, 3), 0.5))
    low = torch.eye(9) - (basis[:, :high_dim] @ basis[:, :high_dim].T).float()
    one, mask = backend.gradient(4, 6, 3, 3), tip.spectrum.radial_mask((3, 3), 0.5)
    other = (one.cpu().flatten(2) @ low).reshape(one.shape).to(backend.device)
    a = check(backend, one, backend.scores(4), mask, ratio=1.0, keep=0.0, floor=FLOOR)
    b = check(backend, other, backend.scores(4), mask, ratio=1.0, keep=0.0, floor=FLOOR)
    before = formula(one, backend.scores(4), mask, tip.NoiseRNG.from_seed(7), count=4, keep=0.0, floor=FLOOR)
    # Sums of 9 products of values below 8 in float32, for each of two results.
    assert_same_release(a, b, before, step_of(FLOOR, STD), 2 * 9 * 8 * 2.0**-24)


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("options", [{}, {"floor": FLOOR}, {"scale": SCALE}, {"floor": FLOOR, "keep": 0.5}])
def test_a_poisoned_kernel_poisons_no_other(backend, poison, options):
    """With keep = 1 not even another tap. Selected and other channels, first and last places of vectors."""
    mask = tip.spectrum.radial_mask((3, 3), 0.5)
    clean = backend.gradient(6, 17, 3, 3)
    dirty = clean.clone()
    places = [(c, m) for c in range(6) for m in (0, 8, 15, 16)]
    for c, m in places:
        dirty[c, m, 1, 1] = poison
    a = check(backend, clean, backend.scores(6), mask, ratio=0.5, **options)
    rng = tip.NoiseRNG.from_seed(7)
    backend.perturb_(
        [dirty], [backend.scores(6)], ratio=0.5, std=STD, rng=rng, floor_std=options.get("floor", 0.0),
        grad_scale=options.get("scale"), keep=options.get("keep", 1.0),
    )  # fmt: skip
    b = dirty.cpu().double()
    selected = backend.scores(6).cpu() >= 3
    for c, m in places:
        whole_kernel = selected[c] and "keep" in options
        finite = b[c, m].isfinite()
        assert not finite[1, 1]
        assert finite.sum() == (0 if whole_kernel else 8)
        b[c, m] = a[c, m] if whole_kernel else torch.where(finite, b[c, m], a[c, m])
    assert torch.equal(a, b)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, torch.int32), (torch.bfloat16, torch.int16)])
def test_channels_that_are_not_selected_keep_their_bits(backend, dtype, bits):
    """Signs of zeros, subnormals, payloads and signs of NaNs."""
    pattern = torch.tensor([-(2 ** (8 * dtype.itemsize - 1)), 1, -1, -5, 3, 0], dtype=bits, device=backend.device)
    grad = pattern.repeat(5 * 4 * 9).reshape(5, 6, 4, 9).transpose(1, 2).contiguous().view(dtype)
    grad = grad.reshape(30, 4, 3, 3)
    before = grad.clone()
    scores = backend.scores(30)
    backend.perturb_([grad], [scores], ratio=0.3, std=STD, rng=tip.NoiseRNG.from_seed(1))
    others = scores < 21
    assert torch.equal(grad.view(bits)[others], before.view(bits)[others])
    assert not torch.equal(grad.view(bits)[~others], before.view(bits)[~others])


@pytest.mark.parametrize("scale", [0.0, INF, NAN])
def test_scales_as_ieee_has_them(backend, scale):
    """A scale on the device is not checked: 0 clears finite values, the others spread as in any product."""
    grad = torch.tensor([1.0, -1.0, 0.0, INF, NAN], device=backend.device)
    factor = torch.tensor(scale, device=backend.device)
    expected = grad * factor
    backend.perturb_([grad], [None], ratio=0, std=1.0, grad_scale=factor, rng=tip.NoiseRNG.from_seed(1))
    torch.testing.assert_close(grad, expected, rtol=0, atol=0, equal_nan=True)


def test_a_missing_kernel_axis_a_scalar_and_empties(backend):
    """Every shape with K = 1 draws the words of the flat tensor, and what is empty is skipped."""
    shapes = [(12,), (12, 1), (3, 4), (3, 4, 1, 1)]
    results = []
    for shape in shapes:
        grads = [backend.zeros(0), backend.zeros(*shape), backend.zeros(3, 0, 3, 3), backend.zeros()]
        backend.perturb_(grads, [None] * 4, ratio=0, std=1.0, floor_std=FLOOR, rng=tip.NoiseRNG.from_seed(1))
        results.append((grads[1].flatten(), grads[3]))
        assert grads[3] != 0
    for result in results:
        assert torch.equal(result[0], results[0][0])
        assert torch.equal(result[1], results[0][1])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_tensors_larger_than_any_chunk(backend, layout, floor):
    """2^16 words is where the reference splits: along channels, and along the kernels of a wide channel."""
    mask = tip.spectrum.radial_mask((3, 3), 0.5)
    for shape in ((70, 33), (3, 901)) if backend.interpreted else ((700, 33), (3, 9001)):
        grad = backend.gradient(*shape, 3, 3, layout=layout)
        check(backend, grad, backend.scores(shape[0]), mask, ratio=0.5, floor=floor)
