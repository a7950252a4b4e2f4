"""Hypothesis strategies for whole calls of ``perturb_``, as values: what to make, how it lies, what is expected."""

import math
from typing import Any, NamedTuple

import contract_model as model
import numpy as np
import torch
from hypothesis import strategies as st

import tip_kernels as tip

DTYPES = ("float32", "bfloat16", "float16", "float64")
EXPONENTS = (0, 0, 13, -24, -135)  # of two, by which gradients are scaled: overflow of float16, subnormal numbers
SPECIAL_SCORES = (0.0, -0.0, 1.0, 0.5, 1e-45, 3e38, -1.0, math.inf, -math.inf, math.nan)


class Layout(NamedTuple):
    """How a tensor lies in memory: axes from slow to fast, a factor on each stride, room after each axis."""

    order: tuple[int, ...]
    gaps: tuple[int, ...]
    room: tuple[int, ...]
    offset: int

    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        strides, reach = [0] * len(shape), 1
        for axis in reversed(self.order):
            strides[axis] = reach * self.gaps[axis]
            reach = strides[axis] * max(shape[axis], 1) + self.room[axis]
        return tuple(strides)

    def place(self, values: torch.Tensor) -> torch.Tensor:
        """A view of these values, inside memory that is otherwise filled with noise."""
        strides = self.strides(tuple(values.shape))
        span = sum(max(n - 1, 0) * s for n, s in zip(values.shape, strides, strict=True)) + 1
        other_bytes = torch.arange((self.offset + span + 5) * values.element_size()).remainder(120).byte()
        memory = other_bytes.view(values.dtype)
        return memory.as_strided(values.shape, strides, self.offset).copy_(values)


class Spec(NamedTuple):
    """One tensor of a call."""

    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    seed: int | None  # of random values; None: the same ones for every NumPy
    exponent: int
    poisoned: bool  # whether some values are infinite or NaN
    scores: tuple[float, ...] | None
    scattered: bool  # whether the scores have a stride
    ratio: float
    std: float
    floor_std: float
    shard: tuple[int, int, int] | None
    shape_seed: int | None = None  # of its amplitudes; -1: powers of two, the same ones for every NumPy

    def values(self) -> torch.Tensor:
        if self.seed is None:
            pattern = (np.arange(math.prod(self.shape)) * 37 % 17 - 8) / 8
            return torch.tensor(pattern.reshape(self.shape)).to(getattr(torch, self.dtype))
        draw = np.random.default_rng(self.seed)
        values = np.ldexp(draw.standard_normal(self.shape), self.exponent)
        if self.poisoned:
            values = np.where(draw.random(self.shape) < 0.1, draw.choice([np.inf, -np.inf, np.nan], self.shape), values)
        return torch.tensor(values).to(getattr(torch, self.dtype))

    def score_tensor(self) -> torch.Tensor | None:
        if self.scores is None:
            return None
        scores = torch.tensor(self.scores, dtype=torch.float32)
        return torch.stack([scores, -scores], dim=1)[:, 0] if self.scattered else scores


class Call(NamedTuple):
    """A call: its tensors and settings."""

    specs: tuple[Spec | None, ...]
    generator: str
    key: bytes
    step: int
    keep: float
    grad_scale: float | None
    has_floor: bool
    given_as: str  # how std, floor_std and grad_scale are given: "floats" or "tables"
    ratios: str  # "one" or "each"
    with_shards: bool
    cutoff: float
    masks: tuple[tuple[tuple[int, ...], bytes], ...] | None  # of all bins

    def grads(self) -> list[torch.Tensor | None]:
        return [None if spec is None else spec.layout.place(spec.values()) for spec in self.specs]

    def scores(self) -> list[torch.Tensor | None]:
        return [None if spec is None else spec.score_tensor() for spec in self.specs]

    def rng(self) -> tip.NoiseRNG:
        return tip.NoiseRNG(self.key, self.generator, self.step)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of ``perturb_``, but for ``rng`` and ``backend``."""
        given: dict[str, Any] = {"keep": self.keep, "cutoff": self.cutoff, "grad_scale": self.grad_scale}
        per_tensor = [self._tensor(place) for place in range(len(self.specs))]
        given["ratio"] = [t.ratio for t in per_tensor] if self.ratios == "each" else self._first().ratio
        given["std"], given["floor_std"] = self._first().std, self._first().floor_std if self.has_floor else 0.0
        if self.given_as == "tables":
            given["std"] = torch.tensor([t.std for t in per_tensor], dtype=torch.float32)
            if self.has_floor:
                given["floor_std"] = torch.tensor([t.floor_std for t in per_tensor], dtype=torch.float32)
            if self.grad_scale is not None:
                given["grad_scale"] = torch.tensor(self.grad_scale)
        if self.with_shards:
            given["shards"] = [None if spec is None else spec.shard for spec in self.specs]
        amplitudes = [None if spec is None else self.amplitudes(spec) for spec in self.specs]
        given["amplitudes"] = [None if pair is None else tip.Amplitudes(*map(tuple, pair)) for pair in amplitudes]
        if self.masks is not None:
            given["masks"] = {size: torch.tensor(_half(size, mask)) for size, mask in self.masks}
        return given

    def run(self, backend: str, grads: list, scores: list | None = None, rng: tip.NoiseRNG | None = None) -> None:
        scores = self.scores() if scores is None else scores
        tip.perturb_(grads, scores, rng=rng or self.rng(), backend=backend, **self.options())

    def expected(self) -> list[model.Expected | None]:
        noise = model.Noise(self.key, self.generator, self.step)
        return model.perturb(noise, [None if s is None else self._model_tensor(s) for s in self.specs])

    def amplitudes(self, spec: Spec) -> tuple[np.ndarray, np.ndarray] | None:
        """Between 2^-6 and 2^6, of what has a high band."""
        if spec.shape_seed is None or spec.scores is None or 0 in spec.shape or not self.mask_of(spec.shape[2:]).any():
            return None
        taps = math.prod(spec.shape[2:])
        if spec.shape_seed == -1:
            return tuple(2.0 ** (np.arange(2 * taps) * 5 % 7 - 3).reshape(2, taps))
        exponents = np.random.default_rng(spec.shape_seed).uniform(-6, 6, (2, taps))
        return tuple(np.exp2(exponents).astype(np.float32).astype(np.float64))

    def mask_of(self, kernel_size: tuple[int, ...]) -> np.ndarray:
        """Of all bins."""
        given = dict(self.masks or ())
        if kernel_size in given:
            return np.frombuffer(given[kernel_size], bool).reshape(kernel_size)
        return model.high_bins(kernel_size, self.cutoff)

    def _model_tensor(self, spec: Spec) -> model.Tensor:
        per_tensor = self.given_as == "tables"
        amounts = spec if per_tensor else self._first()
        floor = float(np.float32(amounts.floor_std)) if self.has_floor else None
        if not per_tensor and floor == 0.0 and amounts.floor_std == 0.0:
            floor = None  # a float of 0 is no floor; a table of zeros is one
        return model.Tensor(
            spec.values().double().numpy(),
            spec.dtype,
            spec.scores,
            spec.ratio if self.ratios == "each" else self._first().ratio,
            float(np.float32(amounts.std)),
            floor,
            None if self.grad_scale is None else float(np.float32(self.grad_scale)),
            self.keep,
            self.mask_of(spec.shape[2:]) if spec.scores is not None and 0 not in spec.shape else None,
            spec.shard if self.with_shards else None,
            self.amplitudes(spec),
        )

    def _first(self) -> Spec:
        return next((spec for spec in self.specs if spec is not None), _ABSENT)

    def _tensor(self, place: int) -> Spec:
        return self.specs[place] or _ABSENT


_ABSENT = Spec((), "float32", Layout((), (), (), 0), 0, 0, False, None, False, 0.25, 99.0, 77.0, None)


def _half(kernel_size: tuple[int, ...], mask: bytes) -> np.ndarray:
    """A mask of all bins in rfftn layout."""
    return np.frombuffer(mask, bool).reshape(kernel_size)[..., : kernel_size[-1] // 2 + 1].copy()


def kernel_sizes() -> st.SearchStrategy[tuple[int, ...]]:
    length = st.integers(1, 9)
    return st.one_of(
        st.just((3, 3)),
        st.tuples(length),
        st.tuples(length, length),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    )


@st.composite
def shapes(draw: st.DrawFn, largest: int) -> tuple[int, ...]:
    kind = draw(st.sampled_from(["conv", "conv", "conv", "depthwise", "1x1", "linear", "bias", "scalar", "empty"]))
    channels = draw(st.sampled_from([5, 2, 3, 7, 8, 1]))
    if kind == "scalar":
        return ()
    if kind == "bias":
        return (draw(st.integers(1, largest // 4)),)
    if kind == "linear":
        return (channels, draw(st.integers(1, max(largest // 64, 2))))
    if kind == "empty":
        return draw(st.sampled_from([(0,), (0, 3, 3, 3), (3, 0, 3, 3), (2, 3, 0, 1), (0, 5)]))
    kernel_size = (1,) * draw(st.integers(1, 3)) if kind == "1x1" else draw(kernel_sizes())
    room = max(largest // (channels * math.prod(kernel_size)), 1)
    kernels = 1 if kind == "depthwise" else draw(st.integers(1, min(room, 40)))
    return (channels, kernels, *kernel_size)


@st.composite
def layouts(draw: st.DrawFn, axes: int) -> Layout:
    plain = tuple(range(axes))
    kind = draw(st.sampled_from(["contiguous", "channels last", "transposed", "any", "any"]))
    nothing = Layout(plain, (1,) * axes, (0,) * axes, draw(st.integers(0, 3)))
    if kind == "channels last" and axes > 2:
        return nothing._replace(order=(0, *plain[2:], 1))
    if kind == "transposed" and axes > 1:
        return nothing._replace(order=(1, 0, *plain[2:]))
    if kind == "any":
        each = [st.integers(1, 3)] * axes
        gaps, room = draw(st.tuples(*each)), [n - 1 for n in draw(st.tuples(*each))]
        return Layout(tuple(draw(st.permutations(plain))), gaps, tuple(room), nothing.offset)
    return nothing


amounts = st.one_of(st.sampled_from([0.0, 0.03, 0.7]), st.floats(0.0, 16.0, width=32))
ratios = st.one_of(st.sampled_from([0.3, 0.5, 0.7, 1 / 3, 0.1, 1.0, 0.0]), st.floats(0.0, 1.0))


@st.composite
def shards(draw: st.DrawFn, shape: tuple[int, ...], scored: bool) -> tuple[int, int, int] | None:
    """A place in a whole of at most 2^41 elements, near its beginning or far from it."""
    if draw(st.booleans()):
        return None
    channels, kernels = (*shape, 1, 1)[:2]
    taps = max(math.prod(shape[2:]), 1)
    first_channel = draw(st.integers(0, 5))
    first_kernel = draw(st.integers(0, 5))
    most = 2**41 // (taps * (first_channel + max(channels, 1)))
    far = draw(st.sampled_from(["no", "kernels", "channels", "carry"]))
    if far == "kernels":
        first_kernel = draw(st.integers(0, most - kernels - 5))
    if far == "carry":  # groups of 16 words on both sides of number 2^32
        distances = {taps, model.pitch(taps), model.pitch(max(taps - 1, 1))}
        middle = 2**36 // draw(st.sampled_from(sorted(distances)))
        first_kernel = min(middle - draw(st.integers(0, 40)), most - kernels - 5)
        first_channel = 0
    per_channel = first_kernel + kernels + draw(st.integers(0, 5))
    if far == "channels" and not scored:
        first_channel = draw(st.integers(0, 2**41 // (taps * max(per_channel, 1)) - max(channels, 1)))
    return first_channel, first_kernel, per_channel


@st.composite
def score_lists(draw: st.DrawFn, count: int) -> tuple[float, ...]:
    few_levels = [st.sampled_from([0.0, 1.0]), st.sampled_from([-0.0, 0.0, math.nan]), st.integers(0, 3).map(float)]
    value = draw(st.sampled_from([*few_levels, st.sampled_from(SPECIAL_SCORES), st.floats(width=32)]))
    return tuple(draw(value) for _ in range(count))


@st.composite
def specs(draw: st.DrawFn, largest: int, exponents: tuple[int, ...], with_shards: bool) -> Spec:
    shape = draw(shapes(largest))
    scored = len(shape) > 2 and draw(st.sampled_from([True, True, True, False]))
    shard = draw(shards(shape, scored)) if with_shards else None
    count = shape[0] if scored else 0
    if shard is not None:
        count += shard[0] + draw(st.integers(0, 3))
    return Spec(
        shape,
        draw(st.sampled_from(DTYPES)),
        draw(layouts(len(shape))),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from(exponents)),
        exponents is EXPONENTS and draw(st.sampled_from([False] * 9 + [True])),
        draw(score_lists(count)) if scored else None,
        draw(st.booleans()),
        draw(ratios),
        draw(amounts),
        draw(amounts),
        shard,
        draw(st.one_of(st.none(), st.integers(0, 2**32 - 1))),
    )


@st.composite
def masks(draw: st.DrawFn, kernel_size: tuple[int, ...]) -> bytes:
    """Of all bins, equal at conjugate ones."""
    likely = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    mask = np.random.default_rng(draw(st.integers(0, 999))).random(kernel_size) < likely
    for bin_ in np.ndindex(*kernel_size):
        mask[bin_] = mask[min(bin_, model.conjugate(bin_, kernel_size))]
    return mask.tobytes()


@st.composite
def mask_tables(draw: st.DrawFn, tensors: list[Spec | None]) -> tuple[tuple[tuple[int, ...], bytes], ...]:
    sizes = {s.shape[2:] for s in tensors if s is not None and len(s.shape) > 2 and 0 not in s.shape}
    return tuple((size, draw(masks(size))) for size in sorted(sizes) if draw(st.booleans()))


steps = st.one_of(st.sampled_from([0, 2**32 - 1, 2**33 + 7, 2**63 - 2]), st.integers(0, 2**63 - 2))


@st.composite
def calls(
    draw: st.DrawFn, most: int = 4, largest: int = 2000, exponents: tuple[int, ...] = EXPONENTS, fewest: int = 0
) -> Call:
    """Valid calls of ``fewest`` to ``most`` tensors, Nones among them, of about ``largest`` elements.

    If any are asked for, the last is no None.
    """
    with_shards = draw(st.sampled_from([False, False, True]))
    spec = specs(largest, exponents, with_shards)
    count = draw(st.sampled_from([n for n in (2, 1, 3, 4, 0) if fewest <= n <= most]))
    tensors = [draw(spec) if draw(st.sampled_from([True] * 5 + [False])) else None for _ in range(count)]
    if fewest and tensors[-1] is None:
        tensors[-1] = draw(spec)
    return Call(
        tuple(tensors),
        draw(st.sampled_from(model.GENERATORS)),
        draw(st.binary(min_size=32, max_size=32)),
        draw(steps),
        draw(st.one_of(st.sampled_from([1.0, 0.0, 0.5]), st.floats(0.0, 1.0))),
        draw(st.sampled_from([None, None, 1.5, -1.7, 1.0, 0.0, 2.0**-9, 1 / 3])),
        draw(st.booleans()),
        draw(st.sampled_from(["floats", "tables"])),
        draw(st.sampled_from(["one", "each"])),
        with_shards,
        draw(st.one_of(st.sampled_from([0.0, 0.5, 0.75]), st.integers(0, 99).map(lambda n: n / 100))),
        draw(mask_tables(tensors)) if draw(st.booleans()) else None,
    )
