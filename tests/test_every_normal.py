"""A sample of ``make test-normals``, which takes every word and 10^8 draws, and faults that both must find."""

import every_normal
import normal_statistics
import numpy as np
import pytest
import torch

import tip_kernels as tip
from tip_kernels.rng import GENERATORS

COUNT = 10**6
STRIDE, PAIRS = 1021, 2**22  # 4.2 million words of each sort

NORMALS = every_normal.ROOT / "csrc/core/normals.h"

pytestmark = pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is absent")
needs_compiler = pytest.mark.skipif(every_normal.compiler() is None, reason="no C++ compiler")


def _variant() -> str:
    return torch.ops.tip_kernels.cpu_variant()


@needs_compiler
@pytest.mark.parametrize("variant", ["generic", "avx2", "avx512", "neon"])
def test_normals_of_a_sample_of_words(variant, tmp_path):
    if not every_normal.runs_here(variant):
        pytest.skip(f"this processor or build has no {variant}")
    program = every_normal.build(variant, tmp_path)
    counts, errors = every_normal.measure(program, STRIDE, PAIRS, threads=1)
    assert every_normal.faults(variant, counts, errors) == []
    assert errors["radius"].count + 200 > 2**32 // STRIDE + 65536  # all but those that give a radius of zero


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong", "quantity"),
    [
        ("0.28615043f", "0.28625043f", "radius"),  # that of the highest power is worth less than float32 can hold
        ("2.6019031e-6f", "2.6029031e-6f", "sine"),
        ("-2.6051495e-7f", "-2.6061495e-7f", "cosine"),
    ],
)
def test_a_coefficient_wrong_in_its_fourth_digit_is_found(right, wrong, quantity, tmp_path):
    source = NORMALS.read_text()
    assert source.count(right) == 1
    (tmp_path / "core").mkdir()
    (tmp_path / "core/normals.h").write_text(source.replace(right, wrong))
    variant = _variant()
    program = every_normal.build(variant, tmp_path, includes=[tmp_path])
    found = every_normal.faults(variant, *every_normal.measure(program, STRIDE, PAIRS, threads=1))
    assert any(fault.startswith(f"{variant}: {quantity}") for fault in found)


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_million_draws_pass_every_statistical_test(generator):
    assert normal_statistics.rejected(normal_statistics.draw(generator, COUNT)) == {}


@pytest.fixture(scope="module")
def right_values() -> tuple[np.ndarray, np.ndarray]:
    """A million draws and their words."""
    return normal_statistics.draw("chacha12", COUNT), normal_statistics.words_of("chacha12", COUNT)


@pytest.mark.parametrize("fault", normal_statistics.FAULTS)
def test_planted_faults_are_rejected(fault, right_values):
    assert normal_statistics.missed(*right_values, {fault: normal_statistics.FAULTS[fault]}) == []


def test_every_statistical_test_has_a_fault_that_it_finds(right_values):
    found = {test for _, tests in normal_statistics.FAULTS.values() for test in tests}
    assert set(normal_statistics.p_values(normal_statistics.measure(right_values[0]))) == found


def test_words_are_those_of_the_values(right_values):
    """So that faults planted by word are where they should be."""
    values, words = right_values
    angle = words[1::2] * (2 * np.pi / 2**32)
    radius = np.hypot(values[0::2], values[1::2])
    np.testing.assert_allclose(values[1::2], radius * np.sin(angle), rtol=0, atol=1e-5)


def test_chernoff_bounds_the_probability():
    """Of moments of 50 values, whose distribution is sampled; 1.5 leaves room for the error of the sample."""
    draws = np.random.default_rng(0).standard_normal((20_000, 50))
    for k in range(1, 9):
        means = (draws**k).mean(1)
        bounds = np.array([normal_statistics.chernoff(k, mean, 50) for mean in np.quantile(means, [0.002, 0.998])])
        assert (bounds >= 0.002 / 1.5).all()
