"""The normals of every backend against float64 arithmetic on the same words."""

import pytest
import torch
from test_generators import assert_normals, box_muller, normals_of

import tip_kernels as tip


@pytest.mark.parametrize("seed", range(4))
def test_error_bound(backend, seed):
    count = 200_000 if backend.name == "cpu" else 4_000
    rng = tip.NoiseRNG.from_seed(seed)
    words = backend.words(rng.state(torch.device("cpu")).clone(), 2, 0, count, rng.generator_id)
    assert_normals(normals_of(backend, rng, count), words)


def test_a_root_from_an_approximation(backend, monkeypatch):
    """A GPU's reciprocal root is off by up to 2^-22.9 of it. Here it is by 2^-20, which a Newton step squares."""
    if backend.name != "triton" or not backend.interpreted:
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
    _, radius = box_muller(torch.tensor([0, 0]).numpy())
    assert 6.76 < radius[0] < 6.77
