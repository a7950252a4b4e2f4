"""The fixture ``backend``: every backend on a device where it can run, with helpers to make gradients for it."""

import importlib.util

import hypothesis
import pytest
import torch

import tip_kernels as tip
from tip_kernels._op import dispatch

INTERPRETING = importlib.util.find_spec("triton") is not None and not torch.cuda.is_available()
"""Whether the Triton kernels run in Triton's interpreter, on CPU tensors."""

NOT_INTERPRETED = ("test_defense", "test_rng")
"""Modules that test no kernels: the interpreter takes a second for what a kernel does in a microsecond."""


def _import_interpreted() -> None:
    """Imports Triton with its interpreter on, which is decided at import; the variable is gone afterwards, for others.

    The interpreter prepares itself anew for each call of a function, although the launch did so for all of Triton's
    language: our kernels' calls skip that, which halves the time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        from triton.runtime.interpreter import InterpretedFunction

        from tip_kernels.backends.triton import kernels
    prepare_and_call = InterpretedFunction.__call__

    def call(self, *args, **kwargs):
        ours = self.fn.__module__.startswith(kernels.__name__)
        return self.rewrite()(*args, **kwargs) if ours else prepare_and_call(self, *args, **kwargs)

    InterpretedFunction.__call__ = call


if INTERPRETING:
    _import_interpreted()

hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("fuzz", max_examples=10_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci")  # --hypothesis-profile goes first

pytest.register_assert_rewrite("flower_client", "nvflare_client")

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


class BackendUnderTest:
    """A backend, the device it is tested on, and the ops and tensors of both."""

    def __init__(self, name: str) -> None:
        on_gpu = name in ("cuda", "triton") and torch.cuda.is_available()
        self.name = name
        self.device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
        self.interpreted = name == "triton" and not on_gpu
        """Whether this is Triton's interpreter: tests trim their sizes for it."""

    def perturb_(self, grads, scores, **options) -> None:
        tip.perturb_(grads, scores, backend=self.name, **options)

    def channel_saliency(self, activation_grad: torch.Tensor) -> torch.Tensor:
        return tip.channel_saliency(activation_grad, backend=self.name)

    def words(self, state: torch.Tensor, tensor_id: int, first: int, count: int, generator: int) -> torch.Tensor:
        """Words of one stream as int64 values below 2^32, on the CPU."""
        out = torch.empty(count, dtype=torch.int32, device=self.device)
        dispatch.words_op(self.name, self.device)(out, state.to(self.device), tensor_id, first, generator)
        return out.cpu().long() & 0xFFFFFFFF

    def gradient(
        self, *shape: int, dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 0
    ) -> torch.Tensor:
        """Standard normal values in one of ``LAYOUTS``; the same values for every layout."""
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return _laid_out(values.to(dtype).to(self.device), layout)

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def scores(self, channels: int, seed: int = 0) -> torch.Tensor:
        """Distinct random scores in random order."""
        return torch.randperm(channels, generator=torch.Generator().manual_seed(seed)).float().to(self.device)


def _laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    axes = list(range(values.dim()))
    if layout == "channels_last":  # memory order 0, 2, ..., 1
        order = [axes[0], *axes[2:], *axes[1:2]] if len(axes) > 1 else axes
    elif layout == "transposed":  # memory order reversed
        order = axes[::-1]
    else:
        order = axes
    if layout == "sliced":  # every second element of the last axis of something larger
        room = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1]) if axes else values.new_zeros(())
        result = room[..., ::2] if axes else room
        return result.copy_(values)
    back = [order.index(axis) for axis in axes]
    return values.permute(order).contiguous().permute(back)


@pytest.fixture(params=[backend.name for backend in dispatch.BACKENDS])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BackendUnderTest:
    under_test = BackendUnderTest(request.param)
    if under_test.interpreted and INTERPRETING:
        if request.module.__name__ in NOT_INTERPRETED:
            pytest.skip("tests no kernels: not in Triton's interpreter")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    row = next(row for row in dispatch.BACKENDS if row.name == request.param)
    reason = row.unavailable_reason(under_test.device)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return under_test


@pytest.fixture
def seeded() -> None:
    """torch's random numbers are the same in each run."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """Nets this small are trained and attacked as well by one thread, and a busy machine then hurts less."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
