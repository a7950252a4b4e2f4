"""With a noise floor the low bits of what is released tell nothing: attacks on them, and the grid that stops them.

The attacks are those of Mironov (2012) on floating-point noise. They know the noise's std and the candidates of the
gradient and look at low bits only; that they work on ordinary noise is tested here too.
"""

import math

import pytest
import torch
from conftest import LAYOUTS
from released import TINY_FLOOR, assert_on_grid, step_of, unrounded

import tip_kernels as tip
from tip_kernels.backends.reference.grid import to_grid

TRIALS = 4000
STD = 0.01
NEAR = 1e-12  # between the candidates of a float64 gradient


class Ordinary:
    """Noise as PyTorch has it, in place of a backend."""

    device = torch.device("cpu")

    @staticmethod
    def perturb_(grads, scores, *, floor_std, **options) -> None:
        for grad in grads:
            normals = torch.randn(grad.shape, generator=torch.Generator().manual_seed(6))
            grad += torch.tensor(floor_std).to(grad.dtype) * normals.to(grad.dtype)


class Reference:
    """The reference backend, on the CPU."""

    device = torch.device("cpu")

    @staticmethod
    def perturb_(grads, scores, **options) -> None:
        tip.perturb_(grads, scores, backend="reference", **options)


def _secrets() -> torch.Tensor:
    """Which of two candidates each trial's gradient is: bool [TRIALS], fair coins."""
    return torch.rand(TRIALS, generator=torch.Generator().manual_seed(1)) < 0.5


def _release(backend, grad: torch.Tensor, std: float) -> torch.Tensor:
    """A gradient without a high band under a floor."""
    copy = grad.to(backend.device, copy=True)
    backend.perturb_([copy], [None], ratio=0.0, std=0.0, floor_std=std, rng=tip.NoiseRNG.from_seed(5))
    return copy.cpu()


def _by_the_noise(backend, secrets: torch.Tensor) -> torch.Tensor:
    """Float64: the candidate is right for which the noise comes out as a float32 normal times the std."""
    low = torch.rand(TRIALS, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    candidates = torch.stack([low, low + NEAR])  # [2, TRIALS]
    sent = _release(backend, torch.where(secrets, candidates[1], candidates[0]), STD)
    normals = (sent - candidates) / torch.tensor(STD).double()  # [2, TRIALS]
    off = (normals - normals.float().double()).abs()
    return off[1] < off[0]


def _by_the_last_bit(backend, secrets: torch.Tensor, digit: float | None = None) -> torch.Tensor:
    """Float32: 256 coordinates that all are 0, or all the std. Small sums of two larger numbers end in a zero bit.

    With ``digit`` the last digit is that multiple, and not the last bit of the number.
    """
    std = torch.tensor(STD)
    grad = torch.where(secrets, std, 0.0)[:, None].expand(TRIALS, 256)
    sent = _release(backend, grad, STD)
    small = (sent.abs() < STD / 4) & (sent != 0)
    odd = (sent / digit if digit else sent.view(torch.int32)).long() % 2 == 1
    ends_in_zero = (small & ~odd).sum(1) / small.sum(1)  # half of them where the gradient is 0
    return ends_in_zero > 0.75


def _share_right(guesses: torch.Tensor, secrets: torch.Tensor) -> float:
    return (guesses == secrets).double().mean().item()


def _assert_chance(guesses: torch.Tensor, secrets: torch.Tensor) -> None:
    """The share of right guesses of n coins is normal with std 1 / (2 sqrt(n)): 5.2 of it is 2e-7, two-sided."""
    assert abs(_share_right(guesses, secrets) - 0.5) < 5.2 / 2 / TRIALS**0.5


def test_float64_gradients_do_not_show_in_the_low_bits(backend):
    secrets = _secrets()
    _assert_chance(_by_the_noise(backend, secrets), secrets)


@pytest.mark.parametrize("digit", [None, step_of(STD)], ids=["last bit", "last digit on the grid"])
def test_float32_gradients_do_not_show_in_the_last_bit(backend, digit):
    secrets = _secrets()
    _assert_chance(_by_the_last_bit(backend, secrets, digit), secrets)


@pytest.mark.parametrize("attack", [_by_the_noise, _by_the_last_bit])
def test_the_attacks_work_on_ordinary_noise(attack):
    secrets = _secrets()
    assert _share_right(attack(Ordinary, secrets), secrets) > 0.99


SHAPES = [(9, 8, 3, 3), (7, 3, 3, 3), (5, 2, 5, 5), (3, 2, 11, 11), (6, 5, 1, 1), (8, 3, 9), (11, 13), (37,), ()]
STDS = [0.7, 0.01, 0.0, 0.02, 1e-6, 3.0, 0.7, 0.01, 0.01]
FLOORS = [0.3, 0.3, 0.02, 0.25, 0.3, 0.4, 1e-3, 3.0, 0.1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_every_value_is_a_multiple_of_its_tensors_step(backend, dtype, layout, keep):
    """In selected and in other channels and in flat tensors; bfloat16 and float16 keep some of the multiples."""
    if backend.interpreted and (keep != 1.0 or layout not in LAYOUTS[: 2 if dtype == torch.float32 else 1]):
        pytest.skip("Triton's interpreter takes some of the cases, and of the tensors one for each way through it")
    shapes = [(2, 4, 3, 3), (3, 1, 3, 3), (1, 2, 9, 9), (17,)] if backend.interpreted else SHAPES
    grads = [backend.gradient(*shape, dtype=dtype, layout=layout, seed=i) for i, shape in enumerate(shapes)]
    scores = [backend.scores(shape[0]) if len(shape) > 2 else None for shape in shapes]
    stds, floors = (torch.tensor(amounts[: len(shapes)], device=backend.device) for amounts in (STDS, FLOORS))
    rng = tip.NoiseRNG.from_seed(1, "chacha8")
    backend.perturb_(grads, scores, ratio=0.5, std=stds, floor_std=floors, keep=keep, grad_scale=0.7, rng=rng)
    for grad, std, floor in zip(grads, STDS, FLOORS, strict=False):
        has_band = grad.dim() > 2 and math.prod(grad.shape[2:]) > 1
        assert_on_grid(grad.cpu(), step_of(floor, std if has_band else 0.0))


AMOUNTS = [  # floor_std, std, the step's exponent or None
    (1.0, 0.0, -10),
    (1.0 - 2.0**-24, 0.0, -11),
    (2.0 - 2.0**-23, 0.0, -10),
    (1.0, 4.0, -10),
    (1.0, 0.3, -12),
    (0.3, 1.0, -12),
    (2.0**-116, 0.0, -126),
    (2.0**-116, 2.0**-117, None),
    (2.0**-117, 0.0, None),
    (2.0**-149, 1.0, None),
    (2.0**114, 0.0, 104),
    (2.0**115, 0.0, None),
    (0.0, 1.0, None),
]


@pytest.mark.parametrize(("floor", "std", "exponent"), AMOUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_step_is_a_power_of_two_from_the_least_noise(backend, dtype, floor, std, exponent):
    """All channels are other ones, so the std only makes the step. Half of the values are odd multiples of it."""
    grad = backend.zeros(4, 8, 3, 3, dtype=dtype)
    amounts = {"std": torch.tensor([std]).to(backend.device), "floor_std": torch.tensor([floor]).to(backend.device)}
    backend.perturb_([grad], [backend.scores(4)], ratio=0.0, rng=tip.NoiseRNG.from_seed(1), **amounts)
    values = grad.cpu().double()
    assert step_of(floor, std) == (0.0 if exponent is None else 2.0**exponent)
    if exponent is not None:
        assert_on_grid(values, 2.0**exponent)
        assert ((values / 2.0**exponent) % 2).any()
    elif floor > 0 and dtype == torch.float64:  # in float32 the least floors have no finer values
        assert (values / (floor * 2.0**-10) % 1).any()


def test_a_tensor_whose_floor_is_0_stays_what_it_is(backend):
    """Beside one that has a floor. Subnormals, which a grid would clear, large values and infinities."""
    x = torch.tensor([2.0**-149, -(2.0**-130), 1.0 + 2.0**-23, -3e38, math.inf, -math.inf, 0.0], device=backend.device)
    grads = [x.clone(), backend.zeros(9)]
    floors = torch.tensor([0.0, 0.5], device=backend.device)
    backend.perturb_(grads, [None] * 2, ratio=0.0, std=1.0, floor_std=floors, rng=tip.NoiseRNG.from_seed(1))
    assert torch.equal(grads[0], x)
    assert_on_grid(grads[1].cpu(), 2.0**-11)


def test_what_is_too_large_for_the_grid_stays(backend):
    """Beyond 2^23 steps float32 numbers are multiples of the step already, and adding to them would lose digits."""
    step = step_of(1.0)
    x = torch.tensor([2.0**24 - 1, 1.0 - 2.0**24, 2.0**40 + 2.0**17, -(2.0**100)]).repeat(100) * step
    sent = _release(backend, x, 1.0).double()
    with unrounded():
        before = _release(Reference, x, 1.0).double()
    # Both round to float32, one of them after an error in the last digit of a normal.
    assert ((sent - before).abs() <= x.double().abs() * 2.0**-23).all()
    assert (sent[0::4] / step % 2 == 1).any()  # as would not be had 2^23 steps been added in between
    assert torch.equal(sent[3::4], x[3::4].double())
    huge = torch.tensor([math.inf, -math.inf, math.nan, 3e38])
    torch.testing.assert_close(_release(backend, huge, 1.0), huge, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_too_large_for_the_grid_of_float64_stays(backend, sign):
    """From 2^52 to 2^53 steps float64 numbers are multiples of the step already, and half of them are odd ones."""
    step = step_of(1.0)
    x = torch.full((1000,), sign * 1.5 * 2.0**52 * step, dtype=torch.float64)
    noise = (_release(backend, x, 1.0) - x) / step
    assert (noise % 2 == 1).double().mean() > 0.4  # as would not be had 2^52 steps been added in between
    assert noise.abs().max() < 7 / step


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ties_go_to_even_multiples(backend, sign):
    """Between 2^22 and 2^23 steps float32 numbers are half a step apart, so that half of them are ties."""
    if backend.name == "reference":
        pytest.skip("rounds float64 numbers, which are no ties: see the test of its function")
    step = step_of(1.0)
    x = torch.full((2**12,), sign * 1.5 * 2.0**22 * step)
    sent = _release(backend, x, 1.0).double() / step
    wide = x.double()
    with unrounded():
        before = _release(Reference, wide, 1.0) / step
    distance = (before % 1 - 0.5).abs()
    ties = distance < 0.25 - 0.01  # where float32 rounds to a tie: 0.25, less the normal's error of 2^10 * 7 * 2^-21
    assert ties.double().mean() > 0.4
    assert (sent[ties] % 2 == 0).all()
    others = distance > 0.25 + 0.01
    assert torch.equal(sent[others], before[others].round())


def test_zeros_are_positive(backend):
    """A negative zero would tell the sign of what was rounded away."""
    sent = _release(backend, torch.zeros(2**16), 1.0)
    assert (sent == 0).sum() > 10
    assert_on_grid(sent, step_of(1.0))


def test_the_reference_rounds_as_ieee_has_it():
    """Against rint, for every kind of number."""
    step = 2.0**-11
    ties = torch.arange(-9, 10, dtype=torch.float64) / 2 * step
    values = torch.cat([ties, ties * 1.01, torch.tensor([0.0, -0.0, 1e300, math.inf, -math.inf], dtype=torch.float64)])
    for dtype in (torch.float32, torch.float64):
        got = to_grid(values, torch.tensor(step, dtype=torch.float64), dtype)
        assert torch.equal(got, (values / step).round() * step)
        assert not got[got == 0].signbit().any()
        odd = torch.tensor([2.0**23 + 0.25, 2.0**52 + 1.0], dtype=torch.float64) * step
        kept = to_grid(odd, torch.tensor(step, dtype=torch.float64), dtype)
        assert kept.tolist() == [2.0**23 * step if dtype == torch.float64 else odd[0].item(), odd[1].item()]
    assert torch.equal(to_grid(values, torch.tensor(0.0, dtype=torch.float64), torch.float32), values)


def test_a_call_without_a_floor_rounds_nothing(backend):
    """Its float32 values use all their bits."""
    grad = backend.gradient(16, 8, 3, 3)
    backend.perturb_([grad], [backend.scores(16)], ratio=1.0, std=1.0, rng=tip.NoiseRNG.from_seed(1))
    last_bits = grad.cpu().view(torch.int32) & 1
    assert last_bits.double().mean() > 0.2  # a sum of larger numbers ends in zeros


def test_a_floor_too_small_for_a_grid_shows_the_normals(backend):
    """What the tests of the normals rely on."""
    sent = _release(backend, torch.zeros(64, dtype=torch.float64), TINY_FLOOR) / TINY_FLOOR
    assert torch.equal(sent.float().double(), sent)
    assert 0.5 < sent.std() < 2.0


def print_shares() -> None:
    """How often each attack guesses right: before the grid, as the compiled kernels would add noise, and after."""
    secrets = _secrets()
    for name, backend in (("ordinary noise", Ordinary), ("with the grid", Reference)):
        shares = [_share_right(attack(backend, secrets), secrets) for attack in (_by_the_noise, _by_the_last_bit)]
        digit = _share_right(_by_the_last_bit(backend, secrets, step_of(STD)), secrets)
        print(f"{name}: float64, by the noise {shares[0]:.2%}; float32, by the last bit {shares[1]:.2%}, ", end="")
        print(f"by the last digit on the grid {digit:.2%}")


if __name__ == "__main__":
    print_shares()
