"""The ways through the compiled CPU kernel give the same bits: whole vectors from registers, and the rest by tiles."""

import itertools

import pytest
import torch
from released import TINY_FLOOR

import tip_kernels as tip
from tip_kernels import spectrum
from tip_kernels._op.call import Options, prepare

pytestmark = pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is absent")

KEY = bytes(range(32))
CHANNELS = 4
KERNELS = 171  # of a channel: whole vectors of every width, and an odd number left
PIECE = 7  # kernels, or 40 elements: too few for a vector
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LAYOUTS = ["contiguous", "channels_last", "offset"]
FLOORS = [0.0, 0.3]
KEEPS = [1.0, 0.25]


def perturb(grads: list[torch.Tensor], shard: tip.Shard, floor: float, keep: float, cutoff: float) -> None:
    """A part of a whole with one more channel before it; of its own four, two are selected."""
    scores = [torch.tensor([0.0, 2.0, 1.0, 4.0, 3.0]) if grad.dim() > 2 else None for grad in grads]
    rng = tip.NoiseRNG(KEY, step=2**33 + 7)
    amounts = {"std": 0.7, "floor_std": floor, "keep": keep, "grad_scale": -1.7}
    shards = [shard] * len(grads)
    tip.perturb_(grads, scores, ratio=0.4, cutoff=cutoff, rng=rng, shards=shards, backend="cpu", **amounts)


def gradient(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> torch.Tensor:
    """Random values; ``offset``: at an address that is a multiple of an element's size and nothing else."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    if layout == "channels_last":
        return values.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "offset":
        memory = torch.empty(values.numel() + 1, dtype=dtype)
        return memory[1:].view(shape).copy_(values)
    return values


def check(shape: tuple[int, ...], dtype: torch.dtype, layout: str, floor: float, keep: float, cutoff: float) -> None:
    """A tensor at once, and the same a few kernels at a time."""
    whole = gradient(shape, dtype, layout)
    before, pieces = whole.clone(), whole.clone(memory_format=torch.preserve_format)
    per_channel = shape[1] + 10
    perturb([whole], tip.Shard(1, 5, per_channel), floor, keep, cutoff)  # from an odd kernel on
    piece = PIECE if len(shape) > 2 else 40
    for first in range(0, shape[1], piece):
        perturb([pieces[:, first : first + piece]], tip.Shard(1, 5 + first, per_channel), floor, keep, cutoff)
    assert torch.equal(whole, pieces)
    changed = (whole != before).flatten(2 if len(shape) > 2 else 1).any(-1)  # of kernels, or of channels of elements
    assert changed.all()  # the scale alone changes them


@pytest.mark.parametrize("cutoff", [0.5, 0.75])
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_get_the_same_wherever_they_lie(dtype, layout, floor, keep, cutoff):
    check((CHANNELS, KERNELS, 3, 3), dtype, layout, floor, keep, cutoff)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_elements_get_the_same_wherever_they_lie(dtype):
    for count, layout in itertools.product((257, 700), ("contiguous", "offset")):
        check((CHANNELS, count), dtype, layout, 0.3, 1.0, 0.5)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("shape", [(CHANNELS, 37, 5, 5), (CHANNELS, 61, 2, 2), (CHANNELS, 40, 9)], ids=str)
def test_other_kernel_sizes_get_the_same(shape, floor, keep):
    for dtype in (torch.float32, torch.float64):
        check(shape, dtype, "contiguous", floor, keep, 0.5)


def with_another_basis(grad: torch.Tensor, options: Options, column: int) -> torch.Tensor:
    """Perturbs all channels of 3x3 kernels with a basis that is nearly the usual one, which it returns."""
    call = prepare([grad], [torch.zeros(len(grad))], options)
    basis = call.arguments.bases[0].clone()
    basis[4, column] += 1e-9
    call.op(*call.arguments._replace(bases=[basis]))
    return basis


def test_a_high_band_that_is_nearly_the_usual_one_is_used_as_it_is():
    """Float64 gradients, against the matrix product: 9 sums of 9 products of numbers below 5."""
    x = torch.randn(4, 40, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got = x.clone()
    options = Options(1.0, 0.0, tip.NoiseRNG(KEY), keep=0.25, backend="cpu")
    band = with_another_basis(got, options, column=0)[:, :8]
    want = x.flatten(2) + (0.25 - 1.0) * (x.flatten(2) @ band) @ band.t()
    torch.testing.assert_close(got.flatten(2), want, rtol=0, atol=1e-13)


def test_a_low_band_that_is_nearly_the_usual_one_is_used_as_it_is():
    """The noise of nothing but the low band is a multiple of its column, to the rounding of one product."""
    got = torch.zeros(4, 40, 3, 3, dtype=torch.float64)
    options = Options(1.0, 0.0, tip.NoiseRNG(KEY), floor_std=TINY_FLOOR, backend="cpu")
    column = with_another_basis(got, options, column=8)[:, 8]
    taps = got.flatten(2)
    torch.testing.assert_close(taps / taps[..., :1], (column / column[0]).expand_as(taps), rtol=1e-15, atol=0)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_float64_noise_is_the_product_of_float32_normals(layout, keep):
    """In other channels the normals show, times a power of two; in selected ones Q times them, to float64 rounding."""
    normals, mixed = (gradient((4, 40, 3, 3), torch.float64, layout).zero_() for _ in range(2))
    given = {"floor_std": TINY_FLOOR, "keep": keep, "backend": "cpu"}
    for grad, ratio in ((normals, 0.0), (mixed, 1.0)):
        tip.perturb_([grad], [torch.zeros(4)], ratio=ratio, std=3 * TINY_FLOOR, rng=tip.NoiseRNG(KEY), **given)
    normals = normals.flatten(2) / TINY_FLOOR
    assert torch.equal(normals, normals.float().double())
    basis, high = spectrum.real_basis((3, 3), spectrum.radial_mask((3, 3), 0.5))
    amounts = torch.tensor([3.0] * high + [1.0] * (9 - high), dtype=torch.float64)
    # 9 products, of numbers of which some cancel: the rounding errors are those of 9 terms of at most 20.
    torch.testing.assert_close(
        mixed.flatten(2) / TINY_FLOOR, (amounts * normals) @ basis.t(), rtol=0, atol=9 * 20 * 2**-53
    )
