"""Properties of ``perturb_`` and ``channel_saliency`` over random calls, against an independent model of the contract.

``make test`` tries a few hundred calls, the same each time; ``make test-fuzz`` tries ten thousand others.
"""

import calls
import contract_model as model
import numpy as np
import pytest
import torch
from calls import Call
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

import tip_kernels as tip

EXAMPLES = settings.default.max_examples
FUZZING = EXAMPLES >= 10_000
ONE_FIXTURE = [HealthCheck.function_scoped_fixture]  # ``backend`` is the same for every example
some = settings(max_examples=EXAMPLES if FUZZING else max(EXAMPLES // 4, 1), suppress_health_check=ONE_FIXTURE)
few = settings(max_examples=EXAMPLES if FUZZING else max(EXAMPLES // 10, 1), suppress_health_check=ONE_FIXTURE)
# A call in Triton's interpreter takes a third of a second.
interpreted = settings(max_examples=max(EXAMPLES // 10, 1), suppress_health_check=ONE_FIXTURE)


def bits(tensor: torch.Tensor) -> np.ndarray:
    """All memory of a tensor, inside and outside of the view."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().copy()


def all_bits(tensors: list) -> list:
    return [None if t is None else bits(t).tobytes() for t in tensors]


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Bit for bit, wherever they lie; NaN is NaN."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def compiled_or_plain(backend) -> str:
    if backend.interpreted:
        pytest.skip("Triton's interpreter takes fewer and smaller calls, in a test of its own")
    return backend.name


def check_against_the_model(call: Call, backend: str) -> None:
    grads, scores, rng = call.grads(), call.scores(), call.rng()
    memory, scores_before = [None if g is None else bits(g) for g in grads], all_bits(scores)
    call.run(backend, grads, scores, rng)
    assert rng.step == call.step + 1
    assert all_bits(scores) == scores_before
    for grad, want, before in zip(grads, call.expected(), memory, strict=True):
        if want is not None:
            want.check(grad.double().numpy())
        if grad is not None:
            assert_only_the_view_changed(grad, before)


def assert_only_the_view_changed(grad: torch.Tensor, before: np.ndarray) -> None:
    after = torch.from_numpy(before).view(grad.dtype)
    after.as_strided(grad.shape, grad.stride(), grad.storage_offset()).copy_(grad)
    assert (after.view(torch.uint8).numpy() == bits(grad)).all(), "wrote outside of the gradient"


@settings(suppress_health_check=ONE_FIXTURE)
@given(call=calls.calls())
def test_equals_the_model(call, backend):
    check_against_the_model(call, compiled_or_plain(backend))


@interpreted
@given(call=calls.calls(most=2, largest=60, exponents=(0, -6)))
def test_the_interpreted_kernels_equal_the_model(call, backend):
    if not backend.interpreted:
        pytest.skip("tested with more calls")
    check_against_the_model(call, backend.name)


@few
@given(call=calls.calls())
def test_perturb_is_perturb_on_copies(call, backend):
    name = compiled_or_plain(backend)
    grads = call.grads()
    before = all_bits(grads)
    results = tip.perturb(grads, call.scores(), rng=call.rng(), backend=name, **call.options())
    assert all_bits(grads) == before
    copies = [None if g is None else g.clone() for g in grads]
    call.run(name, copies)
    assert all(map(same, results, copies))


@some
@given(call=calls.calls(fewest=1), data=st.data())
def test_what_is_left_out_changes_nothing_else(call, data, backend):
    """The noise of a layer does not depend on which others are there: gradients None or empty keep their place."""
    name = compiled_or_plain(backend)
    together, rest = call.grads(), call.grads()
    call.run(name, together)
    left_out = data.draw(st.sets(st.integers(0, len(rest) - 1)), label="left out")
    for i in left_out:
        rest[i] = data.draw(st.sampled_from([None, torch.zeros(0)]), label="instead")
    scores = call.scores()
    call.run(name, rest, [None if i in left_out else s for i, s in enumerate(scores)])
    assert all(same(a, b) for i, (a, b) in enumerate(zip(together, rest, strict=True)) if i not in left_out)


@some
@given(call=calls.calls(most=1, fewest=1), data=st.data())
def test_parts_equal_the_whole(call, data, backend):
    name = compiled_or_plain(backend)
    spec = call.specs[-1]
    assume(spec is not None and len(spec.shape) > 1 and 0 not in spec.shape)
    call = call._replace(specs=(None, spec), with_shards=True)
    whole = call.grads()[1]
    pieces, sides = whole.clone(memory_format=torch.preserve_format), []
    call.run(name, [None, whole])
    channel, kernel, per_channel = spec.shard or (0, 0, spec.shape[1])
    cuts = [sorted({0, n, data.draw(st.integers(0, n), label="cut")}) for n in spec.shape[:2]]
    for a, b in zip(cuts[0], cuts[0][1:], strict=False):
        for c, d in zip(cuts[1], cuts[1][1:], strict=False):
            place = (channel + a, kernel + c, per_channel)
            part = call._replace(specs=(None, spec._replace(shard=place)))
            part.run(name, [None, pieces[a:b, c:d]])
            sides.append((a, b, c, d))
    assert same(whole, pieces), sides


def test_keep_is_no_float32_number_for_float64_gradients(backend):
    """Found by random calls: without noise the result is exact to float64 rounding."""
    values = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grad = values.to(backend.device, copy=True)
    scores = torch.ones(2, device=backend.device)
    backend.perturb_([grad], [scores], ratio=1.0, std=0.0, keep=0.3, rng=tip.NoiseRNG(bytes(32)))
    tensor = model.Tensor(values.numpy(), "float64", [1.0, 1.0], 1.0, keep=0.3, mask=model.high_bins((3, 3), 0.5))
    (want,) = model.perturb(model.Noise(bytes(32), "chacha12", 0), [tensor])
    want.check(grad.cpu().numpy())


def spoilers() -> dict:
    """What makes a good call a bad one: options from a call's own, or more tensors behind the others."""
    nan, inf = float("nan"), float("inf")
    bad: dict = {}
    numbers = {"ratio": (-0.1, 1.1, nan), "cutoff": (-0.1, 1.0, nan), "keep": (-0.1, 1.1, nan)}
    numbers |= {"std": (-1.0, nan, inf, 1e39), "floor_std": (-1.0, nan, inf, 1e39), "grad_scale": (nan, inf, -1e39)}
    for name, values in numbers.items():
        bad |= {f"{name} {value}": _options(**{name: value}) for value in (*values, "1", None)}
    del bad["grad_scale None"]
    for name in ("std", "floor_std"):
        for table in (torch.ones(99), torch.ones(()), torch.ones(1, 1), torch.ones(99, dtype=torch.float64)):
            bad[f"{name} {table.dtype} {tuple(table.shape)}"] = _options(**{name: table})
    for scale in (torch.ones(1), torch.ones((), dtype=torch.float64)):
        bad[f"grad_scale {scale.dtype} {tuple(scale.shape)}"] = _options(grad_scale=scale)
    for name, value in {"ratio": [0.5] * 99, "shards": [None] * 99, "names": ["layer"] * 99}.items():
        bad[f"long {name}"] = _options(**{name: value})
    lopsided = torch.zeros(3, 2, dtype=torch.bool)
    lopsided[1, 0] = True
    bad_masks = {"lopsided": lopsided, "wide": torch.ones(3, 3, dtype=torch.bool), "float": torch.ones(3, 2), "a": 1}
    bad |= {f"mask {name}": _options(masks={(3, 3): mask}) for name, mask in bad_masks.items()}
    bad["rng"] = _options(rng=torch.Generator())
    bad["backend"] = _options(backend="fpga")
    kernel = torch.ones(2, 2, 3, 3)
    gradients = {
        "whole numbers": (torch.ones(3, dtype=torch.int64), None),
        "complex numbers": (torch.ones(3, dtype=torch.complex64), None),
        "sparse": (torch.ones(3, 3).to_sparse(), None),
        "list": ([1.0], None),
        "expanded": (torch.ones(1, 3).expand(4, 3), None),
        "windows": (torch.ones(9).unfold(0, 3, 1), None),
        "two dimensions with scores": (torch.ones(2, 2), torch.ones(2)),
        "few scores": (kernel, torch.ones(1)),
        "many scores": (kernel, torch.ones(3)),
        "square scores": (kernel, torch.ones(2, 2)),
        "double scores": (kernel, torch.ones(2, dtype=torch.float64)),
        "list of scores": (kernel, [1.0, 2.0]),
    }
    for name, (grad, score) in gradients.items():
        bad[name] = _more_tensors(grad, score)
    for shard in ((-1, 0, 2), (0, 1, 2), (0, 0, 1), (0, 0, 2**41), (2**60, 0, 2), (0, 0), (0.0, 0, 2), "no"):
        bad[f"shard {shard}"] = _more_tensors(kernel, None, shard)
    return bad


def _options(**spoilt):
    return lambda grads, scores, options: {**options, **spoilt}


def _more_tensors(grad, score, shard=None):
    def spoil(grads, scores, options):
        grads.append(grad)
        scores.append(score)
        return {**options, "ratio": 0.5, "std": 1.0, "floor_std": 1.0, "shards": [None] * (len(grads) - 1) + [shard]}

    return spoil


SPOILERS = spoilers()


@settings(suppress_health_check=ONE_FIXTURE)
@given(call=calls.calls(most=3, largest=200), how=st.sampled_from(sorted(SPOILERS)))
def test_a_refused_call_changes_nothing_and_is_refused_again(call, how, backend):
    name = compiled_or_plain(backend)
    good, grads, scores, rng = call.grads(), call.grads(), call.scores(), call.rng()
    count = len(grads)
    options = SPOILERS[how](grads, scores, {"rng": rng, "backend": name, **call.options()})
    before = all_bits(grads[:count])
    errors = []
    for _ in range(2):
        with pytest.raises((TypeError, ValueError)) as caught:
            tip.perturb_(grads, scores, **options)
        errors.append((caught.type, str(caught.value)))
        assert all_bits(grads[:count]) == before
        assert rng.step == call.step
    assert errors[0] == errors[1]
    assert str(caught.value).startswith("expected ")
    call.run(name, grads[:count], scores[:count], rng)
    call.run(name, good)
    assert all(map(same, grads[:count], good))


@st.composite
def views(draw: st.DrawFn, memory: torch.Tensor) -> torch.Tensor:
    """Any view of up to three axes, overlapping ones among them."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    strides = [draw(st.integers(0, 9)) for _ in shape]
    return memory.as_strided(shape, strides, draw(st.integers(0, 20)))


def addresses(view: torch.Tensor) -> list[int]:
    places = torch.arange(view.untyped_storage().nbytes() // view.element_size())
    return places.as_strided(view.shape, view.stride(), view.storage_offset()).flatten().tolist()


@settings(suppress_health_check=ONE_FIXTURE)
@given(data=st.data())
def test_shared_memory_is_refused_and_nothing_changed(data, backend):
    """Within a tensor and between two; views that only interleave are good."""
    name = compiled_or_plain(backend)
    memory = torch.arange(128.0)
    tensors = [data.draw(views(memory), label=f"view {i}") for i in range(2)]
    rng, before = tip.NoiseRNG(bytes(32)), memory.clone()
    places = [addresses(t) for t in tensors]
    alone = [len(set(p)) == len(p) for p in places]
    disjoint = not set(places[0]) & set(places[1])
    try:
        tip.perturb_(tensors, [None, None], ratio=0.0, std=0.0, floor_std=1.0, rng=rng, backend=name)
    except ValueError:
        assert torch.equal(memory, before)
        assert rng.step == 0
        assert not (disjoint and all(map(is_nested, tensors)))
    else:
        assert all(alone)
        assert disjoint
        changed = (memory != before).nonzero().flatten().tolist()
        assert set(changed) <= set(places[0]) | set(places[1])


def is_nested(view: torch.Tensor) -> bool:
    """Whether each stride goes past all that smaller ones reach, as in every slice and permutation of dense memory."""
    reach = 0
    for stride, size in sorted(zip(view.stride(), view.shape, strict=True)):
        if size > 1 and stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


@st.composite
def activation_gradients(draw: st.DrawFn) -> torch.Tensor:
    """[N, C, *spatial] of any strides: permuted, sliced, expanded along any axes, or overlapping windows."""
    shape = (draw(st.integers(0, 6)), draw(st.integers(0, 20)), *draw(st.lists(st.integers(1, 12), max_size=3)))
    dtype = getattr(torch, draw(st.sampled_from(calls.DTYPES)))
    numbers, mean = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from([0.0, 9.0]))
    kind = draw(st.sampled_from(["own memory", "expanded", "windows"]))
    if kind == "windows":
        strides = draw(st.tuples(*[st.integers(0, 7)] * len(shape)))
        room = numbers.standard_normal(sum(n * s for n, s in zip(shape, strides, strict=True)) + 1) + mean
        return torch.tensor(room).to(dtype).as_strided(shape, strides)
    kept = draw(st.tuples(*[st.booleans()] * len(shape))) if kind == "expanded" else [True] * len(shape)
    values = numbers.standard_normal([n if own else 1 for n, own in zip(shape, kept, strict=True)]) + mean
    return draw(calls.layouts(len(shape))).place(torch.tensor(values).to(dtype)).expand(shape)


@settings(suppress_health_check=ONE_FIXTURE)
@given(grad=activation_gradients())
def test_channel_saliency_is_the_sum_of_absolute_means(grad, backend):
    """Sums of S values and of N means in float32, in any order: at most S + N + 4 roundings of the mean |x|."""
    name = compiled_or_plain(backend)
    note(f"strides {grad.stride()}, {grad.dtype}")
    x = grad.double().flatten(2) if grad.dim() > 2 else grad.double().unsqueeze(2)
    got = tip.channel_saliency(grad, backend=name)
    assert got.dtype == torch.float32
    allowed = (x.shape[2] + x.shape[0] + 4) * 2.0**-24 * x.abs().mean(2).sum(0)
    assert ((got.double() - x.mean(2).abs().sum(0)).abs() <= allowed).all()
