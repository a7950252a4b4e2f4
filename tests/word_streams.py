"""Endless streams of the package's random words, in the order in which the noise uses them and in worse ones.

    python tests/word_streams.py chacha12 calls | dieharder -g 200 -a

``tensor``      the words of one tensor at one step: a model of one very large tensor.
``calls``       call after call on a small model: a few words of each tensor, then of the next step.
``neighbors``  words of streams whose keys, steps, tensors or blocks differ in one bit, side by side: word 0 of each,
                then word 1 of each. A generator that mixes its input badly shows it here long before elsewhere.

Generators that must fail the tests are here too, see ``PLANTED``.
"""

import argparse
import functools
import hashlib
import os
import struct
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from tip_kernels._op import dispatch
from tip_kernels.backends.reference import words as reference_words
from tip_kernels.rng import GENERATORS, block_words

MODEL = (1728, 64, 36864, 64, 4608, 128, 640, 10)
"""Words of each tensor of the model of ``calls``."""

_LONGEST = 2**20
"""Blocks that ``neighbors`` draws of a stream before it takes the next key: none meets one that starts later."""

Draw = Callable[[np.ndarray, int, int, int], np.ndarray]
"""(state [6], tensor, first word, count) to words uint32 [count]."""


def key_and_step(seed: int, step: int = 0) -> np.ndarray:
    """The state of the op as uint64 [6], with the key of ``NoiseRNG.from_seed``."""
    key = hashlib.sha256(f"tip_kernels seed {seed}".encode()).digest()
    return np.array(struct.unpack("<6Q", key + step.to_bytes(8, "little") + bytes(8)), dtype=np.uint64)


@functools.cache
def drawn_by_the_op(generator: int, backend: str = "cpu") -> Draw:
    op = dispatch.words_op(backend, torch.device("cpu"))

    def draw(state: np.ndarray, tensor: int, first: int, count: int) -> np.ndarray:
        out = torch.empty(count, dtype=torch.int32)
        op(out, torch.from_numpy(state.view(np.int64)), tensor, first, generator)
        return out.numpy().view(np.uint32)

    return draw


def tensor_stream(draw: Draw, seed: int, block: int) -> Iterator[np.ndarray]:
    state, count = key_and_step(seed), 2**18
    for first in range(0, 2**40 * block, count):
        yield draw(state, 0, first, count)


def calls_stream(draw: Draw, seed: int, block: int) -> Iterator[np.ndarray]:
    state = key_and_step(seed)
    while True:
        yield np.concatenate([draw(state, tensor, 0, count) for tensor, count in enumerate(MODEL)])
        state[4] += 1


def neighbors(seed: int, block: int) -> list[tuple[np.ndarray, int, int]]:
    """(state, tensor, first word) of streams one bit away from that of a random key, step and tensor."""
    base = key_and_step(seed, step=int(key_and_step(seed + 1)[0]) >> 1)
    tensor = seed * 0x9E37 % 2**23
    rows = [(base, tensor, 0)]
    # Philox has a key of 64 bits; ChaCha's longer one is tested at as many places.
    for bit in range(64) if block == 4 else range(0, 256, 4):
        rows.append((_flipped(base, bit), tensor, 0))
    rows += [(_flipped(base, 256 + bit), tensor, 0) for bit in range(63)]
    rows += [(base, tensor ^ 1 << bit, 0) for bit in range(23)]
    rows += [(base, tensor, block << bit) for bit in range(_LONGEST.bit_length() - 1, 40)]
    return rows


def neighbors_stream(draw: Draw, seed: int, block: int) -> Iterator[np.ndarray]:
    count = 64 * block
    while True:
        rows = neighbors(seed, block)
        for first in range(0, _LONGEST * block, count):
            yield np.stack([draw(state, tensor, start + first, count) for state, tensor, start in rows], 1).ravel()
        seed += 1_000_000


def _flipped(state: np.ndarray, bit: int) -> np.ndarray:
    other = state.copy()
    other[bit // 64] ^= np.uint64(1 << bit % 64)
    return other


STREAMS = {"tensor": tensor_stream, "calls": calls_stream, "neighbors": neighbors_stream}


def _chacha2(state: np.ndarray, tensor: int, first: int, count: int) -> np.ndarray:
    """ChaCha of two rounds."""
    block = first // 16
    counter = torch.arange(block, (first + count + 15) // 16) + (tensor << 40)
    key = torch.tensor(struct.unpack("<8I", state[:4].tobytes()))
    words = reference_words.chacha_words(key, counter, torch.tensor(int(state[4])), rounds=2)
    return words.numpy().astype(np.uint32).ravel()[first - 16 * block :][:count]


def _low_counter(state: np.ndarray, tensor: int, first: int, count: int) -> np.ndarray:
    """ChaCha12 that has lost the upper word of its counter, and with it the tensor."""
    return drawn_by_the_op(GENERATORS["chacha12"])(state, 0, first % 2**36, count)


def _lcg(state: np.ndarray, tensor: int, first: int, count: int) -> np.ndarray:
    """x <- 1664525 x + 1013904223 mod 2^32 (Numerical Recipes), from the key on; 2^32 is its period."""
    powers, sums = _lcg_jumps(count)
    start = np.uint32((int(state[0]) + tensor + int(state[4])) & 0xFFFFFFFF)
    return start * powers * np.uint32(pow(1664525, first, 2**32)) + sums


@functools.cache
def _lcg_jumps(count: int) -> tuple[np.ndarray, np.ndarray]:
    powers = np.cumprod(np.full(count, 1664525, np.uint32), dtype=np.uint32)
    sums = np.uint32(1013904223) * (1 + np.cumsum(np.concatenate([[0], powers[:-1]]), dtype=np.uint32))
    return powers, sums.astype(np.uint32)


PLANTED: dict[str, tuple[Draw, str]] = {
    "chacha2": (_chacha2, "tensor"),
    "lcg": (_lcg, "tensor"),
    "low counter": (_low_counter, "neighbors"),
}
"""Bad generators, and the stream in which each must be found out."""


def draw_of(generator: str) -> Draw:
    return PLANTED[generator][0] if generator in PLANTED else drawn_by_the_op(GENERATORS[generator])


def block_of(generator: str) -> int:
    """Words in a block, as ``neighbors`` counts them for a planted generator."""
    return 16 if generator in PLANTED else block_words(GENERATORS[generator])


def stream(generator: str, name: str, seed: int) -> Iterator[np.ndarray]:
    """Pieces of a stream, each uint32 [any]."""
    return STREAMS[name](draw_of(generator), seed, block_of(generator))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("generator", choices=[*GENERATORS, *PLANTED])
    parser.add_argument("stream", choices=STREAMS)
    parser.add_argument("--seed", type=int, default=1, help="of the key")
    given = parser.parse_args()
    try:
        for piece in stream(given.generator, given.stream, given.seed):
            sys.stdout.buffer.write(piece.tobytes())
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
