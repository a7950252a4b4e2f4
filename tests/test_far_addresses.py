"""``perturb_`` at addresses where counters carry, against words that this file computes itself.

Parts of tensors of up to 2^41 elements, placed by ``Shard`` and not allocated, whose words run over 2^32 words (32-bit
positions), 2^34 (2^32 blocks of Philox), 2^36 (2^32 blocks of ChaCha), 2^40, and up to the last one; with the largest
and other tensor ids, and with steps above 2^32. What is expected is made from the generators' definitions in plain
integers and the formulas of docs/design.md in float64.
"""

import functools
import math
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from released import assert_on_grid, step_of

import tip_kernels as tip
from tip_kernels._op.call import Options, PreparedCall, prepare
from tip_kernels.rng import GENERATORS

KEY = bytes(range(100, 132))
STEPS = (2**32 - 1, 2**32, 2**33 + 7, 2**63 - 2)
TENSORS = (2**23 - 1, 2**16, 0x2A5A5A)
STD, FLOOR = 0.75, 0.5
BEFORE, COUNT = 30, 61  # kernels before the address, and in all: whole vectors of every width, and what is left of them
CROSSED = {"2^32 words": 2**32, "2^34 words": 2**34, "2^36 words": 2**36, "2^40 words": 2**40, "the last word": None}
MOST_ELEMENTS = 2**41  # of a whole tensor, by tip_kernels/_op/plan.py


class Kind(NamedTuple):
    kernel_size: tuple[int, ...] = (3, 3)
    cutoff: float = 0.5
    floor: float = 0.0
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    keep: float = 1.0

    @property
    def taps(self) -> int:
        return math.prod(self.kernel_size)


KINDS = {
    "3x3": Kind(),
    "3x3 channels_last": Kind(channels_last=True),
    "3x3 four coefficients": Kind(cutoff=0.75),
    "3x3 float64": Kind(dtype=torch.float64),
    "3x3 replaced": Kind(keep=0.0),
    "3x3 floor": Kind(floor=FLOOR),
    "3x3 floor channels_last": Kind(floor=FLOOR, channels_last=True),
    "five taps": Kind((5,)),
    "5x5": Kind((5, 5)),
    "7x7 floor": Kind((7, 7), floor=FLOOR),
    "flat": Kind((), floor=FLOOR),
}


class Case(NamedTuple):
    kind: str
    crossed: str
    generator: str
    step: int
    tensor: int


def cases() -> list[Case]:
    """Every kind at every address that it can reach; generators, steps and tensors take turns."""
    result, names = [], list(GENERATORS)
    for i, kind in enumerate(KINDS):
        for j, crossed in enumerate(CROSSED):
            case = Case(kind, crossed, names[(i + j) % len(names)], STEPS[(i + j // 2) % 4], TENSORS[(i + j) % 3])
            if (first_kernel_of(case) + COUNT) * KINDS[kind].taps <= MOST_ELEMENTS:
                result.append(case)
    return result


def case_id(case: Case) -> str:
    return "-".join(str(part).replace(" ", "_") for part in case)


def chacha_block(key: bytes, counter: int, nonce: int, rounds: int) -> list[int]:
    """Bernstein's definition in plain integers."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
    start += [counter & 0xFFFFFFFF, counter >> 32, nonce & 0xFFFFFFFF, nonce >> 32]
    x = start.copy()
    columns = [(i, 4 + i, 8 + i, 12 + i) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for round_ in range(rounds):
        for a, b, c, d in diagonals if round_ % 2 else columns:
            for left, right, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[left] = (x[left] + x[right]) & 0xFFFFFFFF
                turned = x[mixed] ^ x[left]
                x[mixed] = (turned << bits | turned >> (32 - bits)) & 0xFFFFFFFF
    return [(a + b) & 0xFFFFFFFF for a, b in zip(x, start, strict=True)]


def philox_block(key: bytes, counter: int, nonce: int) -> list[int]:
    """The definition of Salmon et al. in plain integers."""
    k0, k1 = struct.unpack("<2I", key[:8])
    c0, c1, c2, c3 = counter & 0xFFFFFFFF, counter >> 32, nonce & 0xFFFFFFFF, nonce >> 32
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = second >> 32 ^ c1 ^ k0, second & 0xFFFFFFFF, first >> 32 ^ c3 ^ k1, first & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


BLOCKS: dict[str, tuple[int, Callable[[bytes, int, int], list[int]]]] = {
    "chacha8": (16, functools.partial(chacha_block, rounds=8)),
    "chacha12": (16, functools.partial(chacha_block, rounds=12)),
    "chacha20": (16, functools.partial(chacha_block, rounds=20)),
    "philox": (4, philox_block),
}
"""Of each generator how many words a block has, and what makes it."""


def expected_words(case: Case, first: int, count: int) -> np.ndarray:
    """Words ``first .. first + count - 1`` of the case's stream."""
    size, make = BLOCKS[case.generator]
    blocks = range(first // size, (first + count - 1) // size + 1)
    words = [make(KEY, case.tensor * 2**40 + block, case.step) for block in blocks]
    return np.array(words, dtype=np.uint32).ravel()[first % size :][:count]


def expected_normals(case: Case, first: int, count: int) -> np.ndarray:
    """Float64 [count], from an even position or an odd one."""
    odd = first % 2
    words = expected_words(case, first - odd, count + odd + (count + odd) % 2)
    u = words[0::2].astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    radius = np.sqrt(-2 * np.log(u.astype(np.float64)))
    angle = 2 * math.pi * words[1::2] / 2**32
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
    return pairs[odd : odd + count]


@functools.cache
def basis_of(kind: Kind) -> tuple[np.ndarray, int]:
    basis, high_dim = tip.spectrum.real_basis(kind.kernel_size, tip.spectrum.radial_mask(kind.kernel_size, kind.cutoff))
    return basis.numpy(), high_dim


def pitch(used: int) -> int:
    return 1 << (used - 1).bit_length() if used <= 16 else -(-used // 16) * 16


def used_words(kind: Kind) -> tuple[int, int]:
    """(words that a kernel uses, words from one to the next)."""
    if kind.kernel_size == ():
        return 1, 1
    used = kind.taps if kind.floor else basis_of(kind)[1]
    return used, pitch(used)


def first_kernel_of(case: Case) -> int:
    kind = KINDS[case.kind]
    if CROSSED[case.crossed] is None:
        return MOST_ELEMENTS // kind.taps - COUNT
    return -(-CROSSED[case.crossed] // used_words(kind)[1]) - BEFORE


CASES = cases()


def expected_noise(case: Case, is_selected: bool) -> np.ndarray:
    """What is added to each of COUNT kernels: float64 [COUNT, taps]."""
    kind = KINDS[case.kind]
    used, step = used_words(kind)
    normals = expected_normals(case, first_kernel_of(case) * step, COUNT * step).reshape(COUNT, step)[:, :used]
    if not is_selected:
        return kind.floor * normals
    basis, high_dim = basis_of(kind)
    amplitude = np.where(np.arange(used) < high_dim, STD, kind.floor)
    return (amplitude * normals) @ basis[:, :used].T


def gradient_of(kind: Kind) -> torch.Tensor:
    """Zeros: one channel of COUNT kernels."""
    if kind.kernel_size == ():
        return torch.zeros(COUNT, dtype=kind.dtype)
    x = torch.zeros(1, COUNT, *kind.kernel_size, dtype=kind.dtype)
    return x.contiguous(memory_format=torch.channels_last) if kind.channels_last else x


@functools.cache
def amounts(value: float) -> torch.Tensor:
    """One for every tensor that a call may have; what belongs to others would be seen."""
    table = torch.full((2**23,), 99.0)
    table[list(TENSORS)] = value
    return table


def call_of(case: Case, grad: torch.Tensor, backend: str | None, ratio: float) -> PreparedCall:
    """The checked call, with the tensor's id changed, since a list of 2^23 tensors takes a while to check."""
    kind, first = KINDS[case.kind], first_kernel_of(case)
    shard = tip.Shard(first, 0, 1) if kind.kernel_size == () else tip.Shard(0, first, first + COUNT)
    options = Options(
        ratio, STD, tip.NoiseRNG(KEY, case.generator, case.step), cutoff=kind.cutoff, keep=kind.keep,
        floor_std=kind.floor, shards=[shard], backend=backend,
    )  # fmt: skip
    call = prepare([grad], [None if kind.kernel_size == () else torch.zeros(1, device=grad.device)], options)
    floor = amounts(FLOOR).to(grad.device) if kind.floor else None
    arguments = call.arguments._replace(tensor_ids=[case.tensor], std=amounts(STD).to(grad.device), floor_std=floor)
    return call._replace(arguments=arguments)


def ratios(kind: Kind) -> list[float]:
    """1: the channel is selected; 0: it is not, and gets the floor."""
    if kind.kernel_size == ():
        return [0.0]
    return [1.0, 0.0] if kind.floor else [1.0]


def assert_noise(case: Case, grad: torch.Tensor, ratio: float) -> None:
    """Float32 sums of up to 49 normals below 7 are off by less than 1e-5; a wrong word, by about 1.

    With a floor the result is the nearest multiple of a step.
    """
    kind = KINDS[case.kind]
    step = step_of(FLOOR if kind.floor else 0.0, STD if kind.kernel_size else 0.0)
    assert_on_grid(grad.cpu(), step)
    got = grad.cpu().double().reshape(COUNT, -1).numpy()
    np.testing.assert_allclose(got, expected_noise(case, ratio == 1.0), rtol=0, atol=1e-5 + step / 2)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_noise_far_out(case, backend):
    carries = ("2^36 words",) if case.kind == "7x7 floor" else ("2^34 words", "2^36 words", "the last word")
    if backend.interpreted and case.crossed not in carries:
        pytest.skip("Triton's interpreter takes the addresses where blocks carry, and few large kernels")
    kind = KINDS[case.kind]
    for ratio in ratios(kind):
        grad = gradient_of(kind).to(backend.device)
        call = call_of(case, grad, backend.name, ratio)
        call.run()
        assert_noise(case, grad, ratio)
        assert int(call.arguments.state[4]) == case.step + 1


@pytest.mark.parametrize("seed", range(4))
def test_the_plain_chacha_is_that_of_the_cryptography_package(seed):
    """Its 20 rounds; the test of far addresses is right about 8 and 12 if the library's published vectors are."""
    source = np.random.default_rng(seed)
    key, counter, nonce = source.bytes(32), int(source.integers(2**63)), int(source.integers(2**63))
    initial = counter.to_bytes(8, "little") + nonce.to_bytes(8, "little")
    expected = Cipher(algorithms.ChaCha20(key, initial), mode=None).encryptor().update(bytes(64))
    assert struct.pack("<16I", *chacha_block(key, counter, nonce, 20)) == expected


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("first", [2**32 - 24, 2**34 - 24, 2**36 - 24, 2**42 - 48, None])
@pytest.mark.parametrize(("tensor", "step"), [(2**23 - 1, 2**63 - 2), (2**16, 2**32 - 1), (0x2A5A5A, 2**32)])
def test_words_far_out(generator, first, tensor, step, backend):
    """None: up to the last of the 2^40 blocks."""
    case = Case("flat", "", generator, step, tensor)
    first = 2**40 * BLOCKS[generator][0] - 48 if first is None else first
    state = tip.NoiseRNG(KEY, generator, step).state(backend.device)
    got = backend.words(state, tensor, first, 48, GENERATORS[generator])
    assert got.tolist() == expected_words(case, first, 48).tolist()
