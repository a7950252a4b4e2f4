"""The streams of ``make test-rng`` hold the words that they say; what a flipped bit does; how the battery judges."""

import itertools

import numpy as np
import pytest
import rng_battery
import scipy.stats
import torch
import word_streams
from rng_battery import Outcome, Result

import tip_kernels as tip
from tip_kernels.rng import GENERATORS

pytestmark = pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is absent")
SEED = 5
TINY = 1e-9


def reference_draw(generator: str) -> word_streams.Draw:
    return word_streams.drawn_by_the_op(GENERATORS[generator], "reference")


def begin_of(name: str, generator: str, count: int) -> np.ndarray:
    pieces, words = word_streams.stream(generator, name, SEED), np.empty(0, np.uint32)
    while len(words) < count:
        words = np.concatenate([words, next(pieces)])
    return words[:count]


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_key_is_that_of_the_seed(generator):
    state = tip.NoiseRNG.from_seed(SEED, generator).state(torch.device("cpu"))
    assert state.tolist() == word_streams.key_and_step(SEED).view(np.int64).tolist()


@pytest.mark.parametrize("generator", GENERATORS)
def test_tensor_stream(generator):
    want = reference_draw(generator)(word_streams.key_and_step(SEED), 0, 2**18 - 50, 100)
    assert (begin_of("tensor", generator, 2**18 + 50)[-100:] == want).all()


@pytest.mark.parametrize("generator", GENERATORS)
def test_calls_stream(generator):
    """Two calls on the model, tensor after tensor."""
    draw = reference_draw(generator)
    parts = [
        draw(word_streams.key_and_step(SEED, step), tensor, 0, count)
        for step in range(2)
        for tensor, count in enumerate(word_streams.MODEL)
    ]
    want = np.concatenate(parts)
    assert (begin_of("calls", generator, len(want)) == want).all()


@pytest.mark.parametrize("generator", GENERATORS)
def test_neighbors_stream(generator):
    """Every stream differs from the first in one bit of key, step, tensor or block, and they take turns."""
    block = word_streams.block_of(generator)
    rows = word_streams.neighbors(SEED, block)
    numbers = [int.from_bytes(state.tobytes(), "little") | tensor << 320 | first // block << 343
               for state, tensor, first in rows]  # fmt: skip
    assert all((number ^ numbers[0]).bit_count() == 1 for number in numbers[1:])
    assert len(set(numbers)) == len(numbers) == 1 + 64 + 63 + 23 + 20
    draw = reference_draw(generator)
    want = np.stack([draw(state, tensor, first, 5) for state, tensor, first in rows], 1).ravel()
    assert (begin_of("neighbors", generator, len(want)) == want).all()


def flips(generator: str, bases: int) -> np.ndarray:
    """How often bit j of 16 words changes when bit i of key, step, tensor or block does: [input bits, 512]."""
    draw, block = word_streams.draw_of(generator), word_streams.block_of(generator)
    counts = np.zeros((len(word_streams.neighbors(0, block)) - 1, 512))
    for seed in range(bases):
        words = [draw(state, tensor, first, 16) for state, tensor, first in word_streams.neighbors(seed, block)]
        bits = np.unpackbits(np.stack(words).view(np.uint8), axis=1)  # [1 + input bits, 512]
        counts += bits[1:] ^ bits[0]
    return counts


def half_of_the_time(counts: np.ndarray, tries: int) -> tuple[float, float]:
    """p-values: all counts together by chi-square, and the farthest of them by the binomial distribution."""
    together = (np.square(counts - tries / 2) / (tries / 4)).sum()
    farthest = np.abs(counts - tries / 2).max()
    single = 2 * scipy.stats.binom.cdf(tries / 2 - farthest, tries, 0.5)
    both = scipy.stats.chi2.cdf(together, counts.size), scipy.stats.chi2.sf(together, counts.size)
    return 2 * min(both), single * counts.size


@pytest.mark.parametrize("generator", GENERATORS)
def test_one_bit_of_input_changes_half_of_the_output(generator):
    assert min(half_of_the_time(flips(generator, bases=64), tries=64)) > TINY


@pytest.mark.parametrize("generator", ["chacha2", "lcg", "low counter"])
def test_bad_generators_do_not_pass_for_good(generator):
    assert min(half_of_the_time(flips(generator, bases=8), tries=8)) < TINY


@pytest.mark.parametrize("generator", GENERATORS)
def test_no_stream_is_its_neighbor(generator):
    """64 bits of 171 streams: two that are equal by chance have a probability below 1e-15."""
    block = word_streams.block_of(generator)
    draw = word_streams.draw_of(generator)
    firsts = [draw(*row, 2).tobytes() for row in word_streams.neighbors(SEED, block)]
    assert len(set(firsts)) == len(firsts)


FINE, WEAK, FAILED = Result("runs 0", 100, 1.0), Result("runs 0", 100, 0.0005), Result("runs 0", 1, 1 - 1e-8)


@pytest.mark.parametrize(
    ("first", "again", "verdict"),
    [
        ([FINE, FINE], [], "passed"),
        ([FINE, WEAK], [FINE, FINE], "weak once"),
        ([FINE, WEAK], [WEAK, FINE], "weak once"),
        ([FINE, WEAK], [FINE, WEAK], "FAILED runs 0: p = 0.0005"),
        ([FINE, FAILED], [FINE, FINE], "FAILED runs 0: p = 0.99999999"),
        ([FINE, WEAK], [FINE, FAILED], "FAILED runs 0: p = 0.99999999"),
    ],
)
def test_verdicts_of_the_battery(first, again, verdict):
    assert rng_battery.verdict(Outcome("chacha8", "tensor", first, again)) == verdict


def test_a_run_is_wrong_if_a_good_generator_fails_or_a_bad_one_passes():
    good = [Outcome(generator, "tensor", [FINE], []) for generator in GENERATORS]
    bad = [Outcome(name, stream, [FAILED], []) for name, (_, stream) in word_streams.PLANTED.items()]
    assert rng_battery.wrong(good + bad) == []
    assert rng_battery.wrong(good + bad[1:]) == ["chacha2 was not found out"]
    fallen = [good[0]._replace(first=[FAILED]), *good[1:]]
    assert rng_battery.wrong(fallen + bad) == ["chacha8 tensor: FAILED runs 0: p = 0.99999999"]


def test_every_job_has_a_key_of_its_own():
    jobs = rng_battery.jobs(list(GENERATORS))
    assert len({seed for seed, *_ in jobs}) == len(jobs) == (len(GENERATORS) * 3 + 3) * len(rng_battery.TESTS)
    assert {(g, s) for _, _, g, s in jobs} >= set(itertools.product(GENERATORS, word_streams.STREAMS))


def test_tables_of_the_battery():
    outcomes = [Outcome("chacha8", "calls", [FINE], []), Outcome("chacha8", "calls", [WEAK], [FINE])]
    assert rng_battery.table(outcomes).splitlines()[2:] == ["| chacha8 | calls | 2 | 1 | 0 | 0.0005 |"]
    assert rng_battery.weak_ones(outcomes).splitlines()[2:] == ["| chacha8 | calls | runs 0 | 0.0005 | 1 |"]
    assert rng_battery.weak_ones(outcomes[:1]) == "No p-value of a good generator was weak."
