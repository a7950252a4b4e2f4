"""``channel_saliency`` on every backend against float64, for every dtype and layout."""

import math

import pytest
import torch
from conftest import LAYOUTS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = [
    (2, 3), (3, 5, 7), (2, 3, 4, 5), (2, 3, 1, 6), (2, 3, 2, 3, 4),
    (2, 7, 9, 15),  # more than two blocks of 64 elements, and a rest, at every width of vectors
    (2, 83, 3, 3),  # 64 channels, 16 and 3: four vectors, one, a rest, where a vector has 16 lanes
    (1, 300, 12, 12),  # work for several threads
]  # fmt: skip


def assert_saliency(got: torch.Tensor, grad: torch.Tensor) -> None:
    """Summing S values, then N, in float32 in any order, then dividing, is off by S + N + 1 roundoffs of magnitudes."""
    flat = grad.cpu().double().reshape(*grad.shape[:2], math.prod(grad.shape[2:]))
    want = flat.mean(2).abs().sum(0)
    error = (flat.shape[2] + len(flat) + 1) * 2.0**-24 * flat.abs().mean(2).sum(0)
    assert got.dtype == torch.float32
    assert got.shape == want.shape
    assert ((got.cpu() - want).abs() <= error).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_float64(dtype, layout, shape, backend):
    if backend.interpreted and math.prod(shape) > 2000:
        pytest.skip("thousands of elements in Triton's interpreter")
    grad = backend.gradient(*shape, dtype=dtype, layout=layout)
    assert_saliency(backend.channel_saliency(grad), grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_space_without_one_stride(dtype, backend):
    """Rows with a gap between them, in either order of the axes: element i of space is at no multiple of i."""
    grad = backend.gradient(2, 3, 5, 8, dtype=dtype)
    for part in (grad[..., :6], grad[..., ::3], grad[..., 1:].transpose(2, 3), grad[:, 1:, 1:, 1:]):
        assert_saliency(backend.channel_saliency(part), part)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_that_are_not_finite_stay_in_their_channel(dtype, layout, backend):
    grad = backend.gradient(2, 40, 3, 3, dtype=dtype, layout=layout)
    clean = backend.channel_saliency(grad)
    places = {0: math.nan, 13: math.inf, 20: -math.inf, 39: math.nan}
    for channel, value in places.items():
        grad[1, channel, 2, 2] = value
    got = backend.channel_saliency(grad)
    for channel, value in places.items():
        assert got[channel].isnan() if math.isnan(value) else got[channel] == math.inf
        got[channel] = clean[channel]
    assert torch.equal(got, clean)


def test_nothing_to_sum(backend):
    assert backend.channel_saliency(backend.zeros(2, 0, 3, 3)).shape == (0,)
    assert torch.equal(backend.channel_saliency(backend.zeros(0, 3, 2, 2)), backend.zeros(3))
    assert backend.channel_saliency(backend.zeros(2, 3, 0)).isnan().all()
