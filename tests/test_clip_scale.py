"""The op ``clip_scale``: the factor that brings gradients of any dtype and layout to a norm, and what it refuses."""

import math

import pytest
import torch

import tip_kernels as tip
from tip_kernels._op import dispatch

SHAPES = ((70_001,), (40, 30, 3, 3), (), (5, 0, 3), (9, 7), (6, 5, 4, 3, 2))
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


def clip_scale(backend, grads, max_norm, scale=None, forms=(), form_ids=None) -> torch.Tensor:
    state = tip.NoiseRNG(bytes(32)).state(backend.device)
    before = state.clone()
    forms = [form.to(backend.device) for form in forms]
    result = dispatch.clip_op(backend.name, backend.device)(grads, scale, state, max_norm, forms, form_ids)
    assert torch.equal(state, before)
    return result


def wanted(grads, max_norm: float, scale: float = 1.0) -> float:
    norm = math.sqrt(sum(grad.double().square().sum().item() for grad in grads)) * abs(scale)
    return scale * min(1.0, max_norm / (norm + 1e-6))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_equals_the_formula(dtype, layout, backend):
    grads = [backend.gradient(*shape, dtype=dtype, layout=layout, seed=i) for i, shape in enumerate(SHAPES)]
    for max_norm, scale in ((1.0, None), (1e9, None), (3.0, -0.25)):
        given = None if scale is None else torch.tensor(scale, device=backend.device)
        got = clip_scale(backend, grads, max_norm, given)
        assert got.dtype is torch.float32
        assert got.shape == ()
        # Sums in float64, then 2^-24 of caution and the rounding of the result.
        assert got.item() == pytest.approx(wanted(grads, max_norm, scale or 1.0), rel=2.0**-22)


def form_of(taps: int, seed: int = 0) -> torch.Tensor:
    """Weights between a thousandth and 1 of the coefficients of some orthonormal basis."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(taps, taps, dtype=torch.float64, generator=draw))[0]
    weights = 10 ** (-3 * torch.rand(taps, 1, dtype=torch.float64, generator=draw))
    return (weights * basis).contiguous()


def weighted(grads, forms: list[torch.Tensor | None], max_norm: float) -> float:
    kernels = [g.double().cpu().reshape(-1, 1 if f is None else len(f)) for g, f in zip(grads, forms, strict=True)]
    parts = [k if form is None else k @ form.T for k, form in zip(kernels, forms, strict=True)]
    return min(1.0, max_norm / (math.sqrt(sum(part.square().sum().item() for part in parts)) + 1e-6))


KERNELS = ((7, 5, 3, 3), (40, 30, 3, 3), (3, 4, 1, 1), (6, 5, 5), (2, 3, 4, 3, 2), (4, 1, 13, 11), (1, 70, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_kernels_count_by_forms(dtype, layout, backend):
    """Beside others that count as they are, or by one number."""
    grads = [backend.gradient(*shape, dtype=dtype, layout=layout, seed=i) for i, shape in enumerate(KERNELS)]
    grads += [backend.gradient(*shape, dtype=dtype, layout=layout, seed=9) for shape in ((61,), (9, 7), (5, 4, 3, 3))]
    grads.append(backend.zeros(3, 0, 3))
    forms = [form_of(math.prod(grad.shape[2:])) for grad in grads[:-4]]
    forms += [form_of(1) * 0.3, form_of(1) * 0.01, form_of(1) * 2]
    ids = [*range(len(forms)), -1]
    for grad, form, id_ in zip(grads, [*forms, None], ids, strict=True):
        got = clip_scale(backend, [grad], 1e-3, forms=forms, form_ids=[id_])
        assert got.item() == pytest.approx(weighted([grad], [form], 1e-3), rel=2.0**-22)
    ids[2] = ids[8] = -1
    got = clip_scale(backend, grads, 1.0, forms=forms, form_ids=ids)
    used = [None if id_ < 0 else forms[id_] for id_ in ids]
    assert got.item() == pytest.approx(weighted(grads, used, 1.0), rel=2.0**-22)


def test_never_more_than_the_weighted_norm(backend):
    for seed in range(20):
        grad, form = backend.gradient(30, 2 + seed, 3, 3, seed=seed), form_of(9, seed)
        norm = (grad.double().cpu().reshape(-1, 9) @ form.T).norm().item()
        assert clip_scale(backend, [grad], 0.01, forms=[form], form_ids=[0]).item() * norm <= 0.01


def test_never_more_than_the_norm(backend):
    for seed in range(20):
        grads = [backend.gradient(1000 + 37 * seed, seed=seed)]
        norm = grads[0].double().norm().item()
        assert clip_scale(backend, grads, 0.1).item() * norm <= 0.1


def test_squares_beyond_float32(backend):
    """As in float32 they would overflow, or vanish beside a large sum."""
    large = [backend.gradient(100) * 1e30]
    assert clip_scale(backend, large, 1.0).item() == pytest.approx(wanted(large, 1.0), rel=1e-6)
    many = [torch.full((2**18,), 1e-3, device=backend.device), torch.full((1,), 1e3, device=backend.device)]
    assert clip_scale(backend, many, 1.0).item() == pytest.approx(wanted(many, 1.0), rel=1e-7)


@pytest.mark.parametrize("norm", [1e37, 1e39, 1e44, 1e45, 1e60])
def test_never_more_than_the_norm_where_the_factor_is_no_normal_number(norm, backend):
    """Such float32 numbers are rounded by more than 2^-24 of their size, also up."""
    grads = [backend.zeros(3, dtype=torch.float64).fill_(norm)]
    for forms, ids in (((), None), ((torch.full((1, 1), 0.5, dtype=torch.float64),), [0])):
        factor = clip_scale(backend, grads, 1.0, forms=forms, form_ids=ids).item()
        assert factor * norm * math.sqrt(3) * (0.5 if forms else 1.0) <= 1.0


def test_nothing_at_all(backend):
    assert clip_scale(backend, [], 1.0).item() == 1.0
    assert clip_scale(backend, [backend.zeros(0)], 1.0, torch.tensor(0.5, device=backend.device)).item() == 0.5
    assert clip_scale(backend, [backend.zeros(7)], 1.0).item() == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(value, backend):
    """The norm is not, either, so that everything that is scaled with it shows it."""
    grads = [backend.gradient(40), backend.zeros(3).fill_(value)]
    factor = clip_scale(backend, grads, 1.0)
    assert not torch.isfinite(grads[1] * factor).any()


def test_opcheck(backend):
    state = tip.NoiseRNG(bytes(32)).state(backend.device)
    grads = [backend.gradient(4, 3, 3, 3), backend.gradient(5)]
    op = dispatch.clip_op(backend.name, backend.device)
    torch.library.opcheck(op, (grads, None, state, 1.0, [], None))
    forms = [torch.rand(9, 9, dtype=torch.float64, device=backend.device)]
    torch.library.opcheck(op, (grads, torch.tensor(2.0, device=backend.device), state, 1.0, forms, [0, -1]))


def test_the_number_of_threads_changes_nothing():
    if "cpu" not in tip.available_backends():
        pytest.skip("no compiled library")
    grads = [torch.randn(300_000, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    state, threads = tip.NoiseRNG().state(torch.device("cpu")), torch.get_num_threads()
    results = set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.add(torch.ops.tip_kernels.clip_scale(grads, None, state, 1.0, [], None).item())
    finally:
        torch.set_num_threads(threads)
    assert len(results) == 1


REFUSED = {
    "no norm": {"max_norm": 0.0},
    "a norm that is no number": {"max_norm": math.nan},
    "integers": {"grads": lambda grad: grad.int()},
    "sparse": {"grads": torch.Tensor.to_sparse},
    "a longer scale": {"scale": lambda scale: scale.expand(2)},
    "a scale of float64": {"scale": torch.Tensor.double},
    "a shorter state": {"state": lambda state: state[:5]},
    "a state of int32": {"state": torch.Tensor.int},
    "a form of float32": {"form": torch.Tensor.float},
    "a form that is no square": {"form": lambda form: form[:2].contiguous()},
    "a transposed form": {"form": lambda form: torch.rand(3, 3, dtype=torch.float64, device=form.device).T},
    "an empty form": {"form": lambda form: form[:0, :0].contiguous()},
    "a form of other taps": {"form_ids": [0, 0]},
    "a form that is not there": {"form_ids": [-1, 1]},
    "a form below none": {"form_ids": [-2, -1]},
    "fewer forms than gradients": {"form_ids": [0]},
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case, backend):
    given = REFUSED[case]
    state = tip.NoiseRNG(bytes(32)).state(backend.device)
    grads, scale = [backend.gradient(2, 2, 3), backend.gradient(5)], torch.tensor(0.5, device=backend.device)
    form = torch.rand(3, 3, dtype=torch.float64, device=backend.device)
    forms, form_ids = [given.get("form", lambda form: form)(form)], given.get("form_ids", [0, -1])
    grads[1] = given.get("grads", lambda grad: grad)(grads[1])
    scale, state = given.get("scale", lambda scale: scale)(scale), given.get("state", lambda state: state)(state)
    op = dispatch.clip_op(backend.name, backend.device)
    with pytest.raises(RuntimeError, match=r"expected|sparse|storage"):
        op(grads, scale, state, given.get("max_norm", 1.0), forms, form_ids)
