"""What one version of the contract gives: random words and the noise of small calls, kept in ``tests/vectors``.

``python -m tests.make_golden`` writes the file, ``test_determinism.py`` compares.
"""

import json
import pathlib
from typing import Any

import contract_model as model
import numpy as np
from calls import Call, Layout, Spec

from tip_kernels.rng import CONTRACT_VERSION

KEY = bytes(range(32))
WORDS_AT_ONCE = 20  # more than a block of any generator
ADVICE = "reproduce the golden file or bump CONTRACT_VERSION"


def path(version: int = CONTRACT_VERSION) -> pathlib.Path:
    return pathlib.Path(__file__).parent / "vectors" / f"golden-{version}.json"


def read() -> dict[str, Any]:
    assert path().exists(), f"{path().name} is missing: {ADVICE}"
    return json.loads(path().read_text())


def addresses() -> list[dict[str, Any]]:
    """First positions of runs of words: ends of blocks, of 32 bits of the counter, of the stream, and late steps."""
    streams = [(0, 0), (1, 1), (5, 2**32 + 1), (2**23 - 1, 2**63 - 2)]  # tensor_id, step
    first = [0, 15, 2**32 - 3, 2**34 - 5, 2**36 - 7, 2**41 - WORDS_AT_ONCE]
    return [
        {"generator": generator, "tensor_id": tensor_id, "step": step, "first": position}
        for generator in model.GENERATORS
        for tensor_id, step in streams
        for position in first
    ]


def words(address: dict[str, Any]) -> str:
    """The words at an address by the model, in hexadecimal."""
    noise = model.Noise(KEY, address["generator"], address["step"])
    return as_text(noise.words(address["tensor_id"], np.arange(address["first"], address["first"] + WORDS_AT_ONCE)))


def as_text(values: np.ndarray) -> str:
    return " ".join(f"{int(word):08x}" for word in values)


def calls() -> dict[str, dict[str, Call]]:
    """Small calls by section and name: without a floor, with one, and with a floor and amplitudes."""
    every: dict[str, dict[str, Call]] = {"noise": {}, "floor": {}, "amplitudes": {}}
    settings = {
        "chacha12": {"keep": 1.0, "grad_scale": None},
        "chacha8": {"keep": 0.5, "grad_scale": -1.75},
        "chacha20": {"keep": 0.0, "grad_scale": None, "with_shards": True},
        "philox": {"keep": 1.0, "grad_scale": 0.375, "with_shards": True},
    }
    for generator, others in settings.items():
        for section, has_floor in (("noise", False), ("floor", True)):
            every[section][generator] = _call(generator)._replace(has_floor=has_floor, **others)
        with_floor = every["floor"][generator]
        shaped = tuple(spec and spec._replace(shape_seed=-1) for spec in with_floor.specs)
        every["amplitudes"][generator] = with_floor._replace(specs=shaped)
    return every


def _call(generator: str) -> Call:
    specs = (
        _conv((3, 2, 3, 3), "float32", (0.5, float("nan"), 0.5), (0, 1, 2**30)),
        None,
        _conv((2, 2, 2, 5), "bfloat16", (1.0, 2.0)),
        _conv((2, 3, 4), "float64", (0.0, -0.0), (0, 2**35, 2**35 + 3)),
        _conv((2, 1, 2, 1, 3), "float16", (1.0, 2.0)),
        _conv((1, 9, 1), "float64", (1.0,)),  # its mask is full: the bare normals
        _conv((1, 1, 5, 5), "float32", (1.0,)),
        _plain((2, 4), "float64", (2**38, 1, 7)),
        _plain((11,), "float32"),
        _plain((), "bfloat16"),
    )
    masks = (((1,), np.ones(1, bool).tobytes()),)
    return Call(specs, generator, KEY, 2**33 + 7, 1.0, None, False, "tables", "each", False, 0.5, masks)


def _conv(shape: tuple[int, ...], dtype: str, scores: tuple[float, ...], shard=None) -> Spec:
    return _plain(shape, dtype, shard)._replace(scores=scores, ratio=1.0 if len(scores) == 1 else 0.5)


def _plain(shape: tuple[int, ...], dtype: str, shard=None) -> Spec:
    axes = len(shape)
    layout = Layout(tuple(range(axes)), (1,) * axes, (0,) * axes, 0)
    return Spec(shape, dtype, layout, None, 0, False, None, False, 0.0, 0.75, 0.25, shard)


def results(call: Call) -> list[dict[str, Any] | None]:
    """What a file keeps of a call: exact results before the store, and the grid of what is released."""
    return [
        None if want is None else {"grid": want.grid, "exact": [float(f"{x:.12g}") for x in want.exact.flatten()]}
        for want in call.expected()
    ]


def kept(expected: model.Expected, result: dict[str, Any]) -> model.Expected:
    """What the model expects, with the numbers of the file instead of its own."""
    exact = np.array(result["exact"]).reshape(expected.exact.shape)
    in_the_file = 1e-12 * np.abs(exact)  # twelve digits
    return expected._replace(exact=exact, tolerance=expected.tolerance + in_the_file, grid=result["grid"])


def contents() -> dict[str, Any]:
    """The whole file, by the model."""
    made: dict[str, Any] = {"contract_version": CONTRACT_VERSION}
    made["words"] = [{**address, "words": words(address)} for address in addresses()]
    for section, by_name in calls().items():
        made[section] = {name: results(call) for name, call in by_name.items()}
    return made
