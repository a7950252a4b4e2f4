"""The model of the contract against other people's generators, and its bases against FFTs."""

import itertools
import pathlib

import contract_model as model
import numpy as np
import pytest
import randomgen
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

VECTORS = pathlib.Path(__file__).parent / "vectors"


def vectors(name: str) -> list[list[str]]:
    lines = (VECTORS / name).read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(("rounds", "key", "nonce", "stream"), vectors("chacha.txt"))
def test_chacha_gives_the_published_streams(rounds, key, nonce, stream):
    number = int.from_bytes(bytes.fromhex(nonce), "little")
    blocks = model.chacha_blocks(bytes.fromhex(key), np.array([0, 1]), number, int(rounds))
    assert blocks.astype("<u4").tobytes() == bytes.fromhex(stream)


@pytest.mark.parametrize("counter", [0, 2**32 - 2, 7 * 2**40 + 2**33])
def test_chacha20_is_that_of_cryptography(counter):
    key, nonce = bytes(range(32)), 2**62 + 12345
    start = counter.to_bytes(8, "little") + nonce.to_bytes(8, "little")
    stream = Cipher(algorithms.ChaCha20(key, start), mode=None).encryptor().update(bytes(64))
    assert model.chacha_blocks(key, np.array([counter]), nonce, 20).astype("<u4").tobytes() == stream


@pytest.mark.parametrize("row", vectors("philox.txt"))
def test_philox_gives_the_known_answers(row):
    c0, c1, c2, c3, k0, k1, *want = (int(word, 16) for word in row)
    key = k0.to_bytes(4, "little") + k1.to_bytes(4, "little") + bytes(24)
    counters = np.array([c0 + (c1 << 32)], np.uint64)
    assert model.philox_blocks(key, counters, c2 + (c3 << 32)).tolist() == [want]


def test_philox_is_that_of_randomgen():
    key, counter, step = bytes(range(32)), 5 * 2**40 + 2**32 - 1, 2**40 + 9
    other = randomgen.Philox(
        counter=counter + (step << 64) - 1, key=int.from_bytes(key[:8], "little"), number=4, width=32
    )
    blocks = model.philox_blocks(key, np.arange(counter, counter + 3), step)
    assert (other.random_raw(12) == blocks.flatten()).all()


@pytest.mark.parametrize("kernel_size", [(1,), (2,), (9,), (3, 3), (4, 6), (1, 5), (3, 2, 5), (2, 1, 4)])
def test_the_basis_spans_the_masked_bins(kernel_size):
    """Its high part does to a kernel what a masked FFT does, and its columns are orthonormal."""
    draw = np.random.default_rng(0)
    mask = draw.random(kernel_size) < 0.5
    for bin_ in itertools.product(*map(range, kernel_size)):
        mask[model.conjugate(bin_, kernel_size)] |= mask[bin_]
    q, high = model.basis(kernel_size, mask)
    assert np.abs(q.T @ q - np.eye(len(q))).max() < 1e-13
    x = draw.standard_normal(kernel_size)
    filtered = np.fft.ifftn(np.where(mask, np.fft.fftn(x), 0)).real.flatten()
    assert np.abs(q[:, :high] @ (q[:, :high].T @ x.flatten()) - filtered).max() < 1e-13


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rounds_as_torch_does(dtype):
    draw = np.random.default_rng(1)
    values = np.ldexp(draw.standard_normal(20_000).astype(np.float32), draw.integers(-150, 20, 20_000))
    values = np.concatenate([values, [0.0, -0.0, np.inf, -np.inf, 65519.0, 65520.0, 1e30]]).astype(np.float32)
    want = torch.tensor(values).to(getattr(torch, dtype)).double().numpy()
    assert (model.rounded(values.astype(np.float64), dtype) == want).all()


def test_selection_by_hand():
    nan = float("nan")
    assert model.selected_channels([1.0, nan, 3.0, 3.0, nan], 0.6) == {1, 4, 2}
    assert model.selected_channels([0.0, -0.0, 0.0], 0.3) == {0}
    assert model.selected_channels([1.0] * 10, 0.7) == set(range(7))


def test_pitch_by_hand():
    assert [model.pitch(n) for n in (1, 2, 3, 8, 9, 16, 17, 32, 33, 49)] == [1, 2, 4, 8, 16, 16, 32, 32, 48, 64]


def test_the_grid():
    """Results go to the nearest multiple of 2^-12 for a floor of 0.3; without a floor they stay as they are."""
    noise, zeros = model.Noise(bytes(32), "chacha12", 0), np.zeros(1000)
    (want,) = model.perturb(noise, [model.Tensor(zeros, floor_std=0.3)])
    want.check(np.rint(want.exact * 4096) / 4096)
    with pytest.raises(AssertionError, match="values are wrong"):
        want.check(model.rounded(want.exact, "float32"))
    (large,) = model.perturb(noise, [model.Tensor(zeros + 1e7, floor_std=0.3)])
    large.check(model.rounded(large.exact, "float32"))
    for floor in (0.0, None):
        (plain,) = model.perturb(noise, [model.Tensor(zeros, floor_std=floor)])
        assert plain.grid is None
