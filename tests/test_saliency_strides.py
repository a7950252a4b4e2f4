"""``channel_saliency`` of activation gradients that lie in memory in any way, against float64 sums."""

import pytest
import torch


def spread(x: torch.Tensor, strides: tuple[int, ...], offset: int) -> torch.Tensor:
    """The values of x at these strides, with NaN wherever no element lies."""
    span = sum((size - 1) * stride for size, stride in zip(x.shape, strides, strict=True)) + 1
    memory = torch.full((offset + span + 64,), float("nan"), dtype=x.dtype, device=x.device)
    view = memory.as_strided(x.shape, strides, offset)
    return view.copy_(x)


def with_odd_strides(x: torch.Tensor, dim: int) -> torch.Tensor:
    """A dimension of one element whose stride means nothing."""
    strides = list(x.stride())
    strides[dim] = 12345
    return x.as_strided(x.shape, strides)


LAYOUTS = {
    "last axis repeated": lambda x: x[..., :1].expand_as(x),
    "first axis of space repeated": lambda x: x[:, :, :1].expand_as(x),
    "all of space repeated": lambda x: x[:, :, :1, :1].expand_as(x),
    "channels repeated": lambda x: x[:, :1].expand_as(x),
    "samples repeated": lambda x: x[:1].expand_as(x),
    "one element": lambda x: x[:1, :1, :1, :1].expand_as(x),
    "channels and last axis repeated": lambda x: x[:, :1, :, :1].expand_as(x),
    "transposed": lambda x: x.transpose(2, 3),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "channels last, last axis repeated": lambda x: (
        x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[..., :1].expand_as(x)
    ),
    "every second": lambda x: x[..., ::2],
    "every second row": lambda x: x[:, :, ::2],
    "an offset": lambda x: x[1:, 3:, 1:, 2:],
    "spread": lambda x: spread(x, (3000, 113, 11, 1), 7),
    "spread evenly": lambda x: spread(x, (3000, 113, 21, 3), 7),
    "overlapping windows": lambda x: x.flatten(1).unfold(1, 9, 4).unflatten(1, (-1, 4))[:, :30],
    "overlapping rows": lambda x: x.as_strided((3, 5, 4, 4), (50, 20, 1, 1)),
    "one sample, odd stride": lambda x: with_odd_strides(x[:1], 0),
    "one channel, odd stride": lambda x: with_odd_strides(x[:, :1], 1),
    "one row, odd stride": lambda x: with_odd_strides(x[:, :, :1], 2),
    "one column, odd stride": lambda x: with_odd_strides(x[..., :1], 3),
    "one column, stride 0": lambda x: x[..., :1].as_strided((3, 37, 7, 1), (*x.stride()[:3], 0)),
    "no space": lambda x: x[:, :, 0, 0],
    "five axes": lambda x: x.unflatten(1, (1, 37)).transpose(1, 2),
    "five axes, two repeated": lambda x: x[:, :, None, None].expand(3, 37, 6, 5, 7, 7),
}


def exact(grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(score, largest rounding error of float32 sums) in float64."""
    flat = grad.double().reshape(*grad.shape[:2], -1)
    error = (flat.shape[2] + len(flat)) * 2.0**-24 * flat.abs().mean(2).sum(0)
    return flat.mean(2).abs().sum(0), error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_equal_the_float64_sum(layout, dtype, backend):
    grad = LAYOUTS[layout](backend.gradient(3, 37, 7, 7, dtype=dtype))
    want, error = exact(grad)
    got = backend.channel_saliency(grad)
    assert got.dtype == torch.float32
    assert ((got.double() - want).abs() <= error).all()


def test_gradient_of_a_sum(backend):
    """The backward pass of ``conv(x).sum(-1)`` gives the conv an expanded gradient."""
    conv = torch.nn.Conv2d(3, 6, 3).to(backend.device)
    output = conv(backend.gradient(2, 3, 8, 8))
    grad = torch.autograd.grad(output.sum(-1).square().sum(), output)[0]
    assert grad.stride(-1) == 0
    want, error = exact(grad)
    assert ((backend.channel_saliency(grad).double() - want).abs() <= error).all()


def test_wide_repeated_space_is_not_read_again_and_again(backend):
    """2^50 elements, which are four in memory."""
    grad = backend.gradient(2, 2)[:, :, None, None].expand(2, 2, 2**25, 2**25)
    torch.testing.assert_close(backend.channel_saliency(grad), grad[:, :, 0, 0].abs().sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((0, 3, 4, 4), [0.0] * 3),
        ((0, 3), [0.0] * 3),
        ((0, 3, 0), [0.0] * 3),
        ((2, 0, 4), []),
        ((0, 0, 0), []),
        ((2, 3, 0), [float("nan")] * 3),
        ((2, 3, 4, 0), [float("nan")] * 3),
        ((2, 3, 0, 4), [float("nan")] * 3),
        ((0, 2, 2**40, 2**40), [0.0] * 2),
    ],
    ids=str,
)
def test_empty(shape, want, dtype, backend):
    """No samples add nothing, and the mean of no pixels is not a number."""
    grad = backend.zeros(0, dtype=dtype).as_strided(shape, (0,) * len(shape))
    torch.testing.assert_close(
        backend.channel_saliency(grad), torch.tensor(want, device=backend.device), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("layout", ["last axis repeated", "all of space repeated", "channels last, last axis repeated"])
def test_compiled(layout, backend):
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def saliency(x):
        return backend.channel_saliency(LAYOUTS[layout](x) * 1) + 0, backend.channel_saliency(LAYOUTS[layout](x))

    x = backend.gradient(3, 37, 7, 7)
    want, error = exact(LAYOUTS[layout](x))
    for got in saliency(x):
        assert ((got.double() - want).abs() <= error).all()
    torch.compiler.reset()
