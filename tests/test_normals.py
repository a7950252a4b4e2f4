"""The normals of every backend against float64 arithmetic on the same words."""

import math

import pytest
import torch
from released import TINY_FLOOR

import tip_kernels as tip

# u is exact by contract. Polynomials, their rounding, the square root and two products each add up to about 2^-24
# of the radius r; the angle is rounded to 2^-24 of at most pi/2 turns into as much of r. Together below 8 * 2^-24.
BOUND = 8 * 2.0**-24


def _exact_normals(words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Box-Muller in float64 from int64 words below 2^32, and the radius of each."""
    u = words[0::2].float() * 2.0**-32 + 2.0**-33
    radius = (-2 * u.double().log()).sqrt()
    angle = 2 * math.pi * words[1::2].double() / 2**32
    normals = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return normals.flatten(), radius.repeat_interleave(2)


@pytest.mark.parametrize("seed", range(4))
def test_error_bound(backend, seed):
    count = 200_000 if backend.name == "cpu" else 4_000
    rng = tip.NoiseRNG.from_seed(seed)
    words = backend.words(rng.state(torch.device("cpu")).clone(), 0, 0, count, rng.generator_id)
    drawn = backend.zeros(count, dtype=torch.float64)
    backend.perturb_([drawn], [None], ratio=0.0, std=0.0, floor_std=TINY_FLOOR, rng=rng)
    exact, radius = _exact_normals(words)
    assert bool(((drawn.cpu() / TINY_FLOOR - exact).abs() <= BOUND * radius).all())


def test_a_root_from_an_approximation(backend, monkeypatch):
    """A GPU's reciprocal root is off by up to 2^-22.9 of it. Here it is by 2^-20, which a Newton step squares."""
    if not backend.interpreted:
        pytest.skip("about Triton's kernels, whose instructions its interpreter carries out")
    from triton.runtime import interpreter

    exact = interpreter.InterpreterBuilder.create_rsqrt
    asked = []

    def approximate(builder, argument):
        root = exact(builder, argument)
        asked.append(len(root.data))
        return interpreter.TensorHandle(root.data * root.data.dtype.type(1 + 2.0**-20), root.dtype)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_rsqrt", approximate)
    test_error_bound(backend, 0)
    assert asked


def test_the_tail_is_whole():
    """The least u, that of word 0, reaches 6.76 sigma: nothing is clamped."""
    _, radius = _exact_normals(torch.tensor([0, 0]))
    assert 6.76 < float(radius[0]) < 6.77
