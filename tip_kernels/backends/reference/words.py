"""Random words of the noise contract (docs/design.md, section 3) in plain tensor arithmetic.

Words are int64 tensors with values below 2^32. Nothing here reads a tensor's value on the host.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ...rng import GENERATORS, block_words
from .. import _checks
from .normals import normals

_LOW_32 = 0xFFFFFFFF
_CHACHA_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k"
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


class Stream(NamedTuple):
    """The words of one tensor at one step.

    ``state`` is the int64 [6] tensor of the ops, ``generator`` the number by which they name one.
    """

    state: torch.Tensor
    tensor_id: int
    generator: int

    @property
    def block_size(self) -> int:
        """Words in a block."""
        return block_words(self.generator)

    def blocks(self, index: torch.Tensor) -> torch.Tensor:
        """The blocks of int64 indices [N], as words [N, block_size]."""
        first_counter = (self.tensor_id << 40) % 2**64
        first_counter -= 2**64 if first_counter >= 2**63 else 0  # the same 64 bits as an int64
        counter = index + first_counter  # [N]
        key = torch.stack(split64(self.state[:4]), dim=1).flatten()  # [8]
        if self.generator == GENERATORS["philox"]:
            return philox_words(key[:2], counter, self.state[4])
        return chacha_words(key, counter, self.state[4], rounds=self.generator)

    def words(self, first: torch.Tensor, count: int) -> torch.Tensor:
        """Words at positions ``first[r] .. first[r] + count - 1`` for int64 [R]: [R, count]."""
        return self._runs(first, count, 1, lambda words: words)

    def normals(self, first: torch.Tensor, count: int, alignment: int = 1) -> torch.Tensor:
        """Normals at positions ``first[r] .. first[r] + count - 1``: float32 [R, count].

        Every ``first`` is a multiple of ``alignment``; knowing it saves blocks.
        """
        return self._runs(first, count, alignment, normals)

    def _runs(
        self, first: torch.Tensor, count: int, alignment: int, convert: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        size = self.block_size
        worst_start = size - math.gcd(alignment, size)
        per_run = -(-(worst_start + count) // size)
        index = (first // size)[:, None] + torch.arange(per_run, device=first.device)  # [R, per_run]
        values = convert(self.blocks(index.flatten()))  # [R * per_run, size]
        values = values.reshape(len(first), per_run * size)  # [R, per_run * size]
        position = (first % size)[:, None] + torch.arange(count, device=first.device)  # [R, count]
        return values.gather(1, position)


def chacha_words(key: torch.Tensor, counter: torch.Tensor, nonce: torch.Tensor, rounds: int) -> torch.Tensor:
    """ChaCha (Bernstein 2008) with a 64-bit counter and nonce.

    Args:
        key: words [8].
        counter: int64 [N], the 64 bits of each block's counter.
        nonce: int64 [].
        rounds: 8, 12 or 20.

    Returns:
        Words [N, 16], each block the final plus the initial state.
    """
    constants = [torch.full_like(counter, constant) for constant in _CHACHA_CONSTANTS]
    address = [*split64(counter), *(word.expand_as(counter) for word in split64(nonce))]
    key_rows = key[:, None].expand(8, len(counter))  # [8, N]
    initial = torch.cat([torch.stack(constants), key_rows, torch.stack(address)])  # [16, N]
    a, b, c, d = initial.clone().split(4)  # [4, N] each: the rows of the 4x4 state
    for _ in range(rounds // 2):
        _quarter_rounds(a, b, c, d)
        b, c, d = b.roll(-1, 0), c.roll(-2, 0), d.roll(-3, 0)  # diagonals to columns
        _quarter_rounds(a, b, c, d)
        b, c, d = b.roll(1, 0), c.roll(2, 0), d.roll(3, 0)
    return ((torch.cat([a, b, c, d]) + initial) & _LOW_32).t()  # [N, 16]


def _quarter_rounds(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> None:
    """One round on all columns, in place.

    Bits above the 32nd are left to pile up, because they never reach 2^63 and are cut where they would matter.
    """
    for target, operand, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        target += operand
        mixed ^= target
        mixed &= _LOW_32
        wrapped = mixed >> (32 - bits)
        mixed <<= bits
        mixed |= wrapped


def philox_words(key: torch.Tensor, counter: torch.Tensor, nonce: torch.Tensor) -> torch.Tensor:
    """Philox4x32-10 (Salmon et al. 2011), whose 128-bit counter is ``counter`` and, above it, ``nonce``.

    Args:
        key: words [2].
        counter: int64 [N].
        nonce: int64 [].

    Returns:
        Words [N, 4].
    """
    x0, x1 = split64(counter)  # [N]
    x2, x3 = (word.expand_as(counter) for word in split64(nonce))  # [N]
    for step in range(10):
        key0, key1 = ((key[i] + step * _PHILOX_KEY_STEPS[i]) & _LOW_32 for i in range(2))
        high0, low0 = _multiply(_PHILOX_MULTIPLIERS[0], x0)
        high1, low1 = _multiply(_PHILOX_MULTIPLIERS[1], x2)
        x0, x1, x2, x3 = high1 ^ x1 ^ key0, low1, high0 ^ x3 ^ key1, low0
    return torch.stack([x0, x1, x2, x3], dim=1)  # [N, 4]


def _multiply(factor: int, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of the 64-bit product, by halves because int64 cannot hold it."""
    low = factor * (words & 0xFFFF)
    high = factor * (words >> 16) + (low >> 16)  # the product without its lowest 16 bits
    return high >> 16, (high & 0xFFFF) << 16 | low & 0xFFFF


def split64(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The (low, high) words of int64 values."""
    return values & _LOW_32, (values >> 32) & _LOW_32


@torch.inference_mode()  # as copy_ writes to an inference tensor and raises then
def words_(out: torch.Tensor, state: torch.Tensor, tensor_id: int, first_position: int, generator: int) -> None:
    """Fills ``out`` with consecutive words of one stream; the state is not advanced."""
    _checks.check_words(out, state, tensor_id, first_position, generator)
    first = torch.full((1,), first_position, dtype=torch.int64, device=out.device)
    words = Stream(state, tensor_id, generator).words(first, out.numel())  # [1, numel]
    out.copy_(words.to(torch.int32).reshape(out.shape))  # keeps the low 32 bits
