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


def test_the_tail_is_whole():
    """The least u, that of word 0, reaches 6.76 sigma: nothing is clamped."""
    _, radius = box_muller(torch.tensor([0, 0]).numpy())
    assert 6.76 < radius[0] < 6.77
