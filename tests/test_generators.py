"""The random words of every backend, bit for bit: published vectors, independent libraries, addresses, normals."""

import math
import pathlib
import random
import struct

import numpy as np
import pytest
import randomgen
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from released import TINY_FLOOR

import tip_kernels as tip
from tip_kernels.backends.reference import normals as reference_normals
from tip_kernels.backends.reference import words as reference_words
from tip_kernels.rng import GENERATORS, block_words

VECTORS = pathlib.Path(__file__).parent / "vectors"


def _rows(name: str) -> list[list[str]]:
    lines = (VECTORS / name).read_text().splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def _state(key: bytes, nonce: int) -> torch.Tensor:
    """The state whose step is ``nonce``: int64 [6]."""
    return torch.tensor(struct.unpack("<6q", key + nonce.to_bytes(8, "little") + bytes(8)))


def _block(backend, key: bytes, counter: int, nonce: int, generator: int) -> bytes:
    """The block of a 64-bit counter, by the tensor and position that the contract gives that counter."""
    tensor_id, block = divmod(counter, 2**40)
    size = block_words(generator)
    words = backend.words(_state(key, nonce), tensor_id, block * size, size, generator)
    return words.numpy().astype("<u4").tobytes()


@pytest.mark.parametrize("row", _rows("chacha.txt"), ids=lambda row: f"{row[0]}-{row[1][:4]}-{row[2][:4]}")
def test_chacha_gives_the_published_vectors(backend, row):
    generator, (key, nonce, expected) = GENERATORS[f"chacha{row[0]}"], map(bytes.fromhex, row[1:])
    blocks = [_block(backend, key, i, int.from_bytes(nonce, "little"), generator) for i in range(2)]
    assert b"".join(blocks) == expected


@pytest.mark.parametrize("row", _rows("philox.txt"), ids=lambda row: row[0])
def test_philox_gives_the_published_vectors(backend, row):
    ctr0, ctr1, ctr2, ctr3, key0, key1, *expected = (int(word, 16) for word in row)
    key = struct.pack("<2I24x", key0, key1)
    got = _block(backend, key, ctr0 | ctr1 << 32, ctr2 | ctr3 << 32, GENERATORS["philox"])
    assert list(struct.unpack("<4I", got)) == expected


@pytest.mark.parametrize("seed", range(12))
def test_chacha20_equals_the_cryptography_package(backend, seed):
    source = random.Random(seed)
    key, counter, nonce = source.randbytes(32), source.getrandbits(64), source.getrandbits(64)
    initial = counter.to_bytes(8, "little") + nonce.to_bytes(8, "little")
    expected = Cipher(algorithms.ChaCha20(key, initial), mode=None).encryptor().update(bytes(64))
    assert _block(backend, key, counter, nonce, GENERATORS["chacha20"]) == expected


@pytest.mark.parametrize("rounds", [8, 12])
@pytest.mark.parametrize("seed", range(4))
def test_chacha8_and_12_equal_randomgen(backend, seed, rounds):
    source = random.Random(seed)
    key, counter = source.randbytes(32), source.getrandbits(59)
    # randomgen counts words, in 128 bits, which leaves it the nonce 0 only.
    other = randomgen.ChaCha(key=int.from_bytes(key, "little"), counter=16 * counter, rounds=rounds)
    got = _block(backend, key, counter, 0, GENERATORS[f"chacha{rounds}"])
    assert got == other.random_raw(8).astype("<u8").tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_philox_equals_randomgen(backend, seed):
    source = random.Random(seed)
    key, counter, nonce = source.randbytes(32), source.getrandbits(64), source.getrandbits(64)
    # randomgen steps its counter before the first block.
    before = (counter + (nonce << 64) - 1) % 2**128
    other = randomgen.Philox(key=int.from_bytes(key[:8], "little"), counter=before, number=4, width=32)
    got = _block(backend, key, counter, nonce, GENERATORS["philox"])
    assert got == other.random_raw(4).astype("<u4").tobytes()


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("first", [0, 1, 15, 2**32 - 3, 2**36 - 7, 2**41 - 50])
@pytest.mark.parametrize("tensor_id", [0, 5, 2**23 - 1])
def test_word_p_is_word_p_mod_n_of_block_p_div_n(backend, generator, first, tensor_id):
    """From the block functions, which the vectors check, for runs that start and end inside blocks."""
    count, number = 49, GENERATORS[generator]
    size = block_words(number)
    step = 2**40 + 3
    key = bytes(range(32))
    got = backend.words(_state(key, step), tensor_id, first, count, number)
    positions = np.arange(first, first + count)
    key_words = torch.tensor(struct.unpack("<8I", key))
    counter = torch.from_numpy(tensor_id * 2**40 + positions // size)
    if generator == "philox":
        blocks = reference_words.philox_words(key_words[:2], counter, torch.tensor(step))
    else:
        blocks = reference_words.chacha_words(key_words, counter, torch.tensor(step), rounds=number)
    expected = blocks[torch.arange(count), torch.from_numpy(positions % size)]
    assert torch.equal(got, expected)


def test_reading_words_leaves_the_state(backend):
    state = _state(bytes(range(32)), 7).to(backend.device)
    before = state.clone()
    backend.words(state, 0, 0, 8, 12)
    assert torch.equal(state, before)


def normals_of(backend, rng, count: int, **options) -> np.ndarray:
    """The normals themselves: the floor on zeros [count] in float64, the third tensor of a call."""
    values = backend.zeros(count, dtype=torch.float64)
    skipped = backend.zeros(0)
    backend.perturb_([None, skipped, values], [None] * 3, ratio=0, std=0.0, floor_std=TINY_FLOOR, rng=rng, **options)
    return values.cpu().numpy() / TINY_FLOOR


def box_muller(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(normals, radius of each) of the contract in float64, from words [2 n]."""
    # float32 by way of float64 rounds a word as one step does: float64 holds a word exactly.
    u = words[0::2].astype(np.float64).astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    radius = np.sqrt(-2.0 * np.log(u.astype(np.float64)))
    angle = 2 * math.pi * words[1::2] / 2.0**32
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel(), np.repeat(radius, 2)


def assert_normals(got: np.ndarray, words: torch.Tensor) -> None:
    expected, radius = box_muller(words.numpy())
    # float32 arithmetic: half an ulp each of ln, sqrt, the product, sin or cos, and 2 pi * 2^-25 of the angle are
    # together below 4 * 2^-23 of the radius.
    np.testing.assert_array_less(np.abs(got - expected), 4 * 2.0**-23 * radius + 1e-30)


@pytest.mark.parametrize("generator", GENERATORS)
def test_normals_are_box_muller_pairs_of_the_stream(backend, generator):
    count = 2**18
    rng = tip.NoiseRNG.from_seed(1, generator)
    words = backend.words(rng.state(backend.device).clone(), 2, 0, count, rng.generator_id)
    assert_normals(normals_of(backend, rng, count), words)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("first", [1, 2**32 + 5, 2**36 - 40, 2**40 - 1])
@pytest.mark.parametrize("step", [0, 2**32 + 1, 2**62 + 9])
def test_normals_far_out_in_the_stream_and_late_in_time(backend, generator, first, step):
    """A flat shard that starts inside a Box-Muller pair and crosses blocks; 64-bit counters and nonces."""
    rng = tip.NoiseRNG(bytes(range(32)), generator, step)
    even = first // 2 * 2
    words = backend.words(rng.state(backend.device).clone(), 2, even, 102, rng.generator_id)
    whole = tip.Shard(0, 0, 1)
    got = normals_of(backend, rng, 99, shards=[whole, whole, tip.Shard(first, 0, 1)])
    expected, radius = box_muller(words.numpy())
    part = slice(first - even, first - even + 99)
    np.testing.assert_array_less(np.abs(got - expected[part]), 4 * 2.0**-23 * radius[part] + 1e-30)


def test_reference_normals_at_the_ends():
    """The word 0 gives the longest tail, the largest word the value 0; neither is infinite."""
    tail, _, zero, _ = reference_normals.normals(torch.tensor([0, 0, 2**32 - 1, 0])).tolist()
    assert tail == pytest.approx(math.sqrt(2 * 33 * math.log(2)), rel=2**-24)
    assert zero == 0.0
