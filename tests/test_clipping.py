"""``max_grad_norm`` of ``perturb_``: the norm of all gradients together, as ``clip_grad_norm_`` clips it."""

import pytest
import torch

import tip_kernels as tip

SHAPES = ((6, 4, 3, 3), (6,), (5, 3, 1, 1), (3, 7))


def gradients(backend, dtype=torch.float32) -> list[torch.Tensor]:
    return [backend.gradient(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(SHAPES)]


def norm(grads: list[torch.Tensor]) -> float:
    return torch.cat([grad.double().flatten() for grad in grads]).norm().item()


def clip(grads: list[torch.Tensor], backend, **given) -> list[torch.Tensor]:
    """Clipped and nothing else."""
    rng = tip.NoiseRNG.from_seed(0)
    return tip.perturb(grads, [None] * len(grads), ratio=0.0, std=0.0, rng=rng, backend=backend.name, **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_clips_as_torch_does(dtype, backend):
    grads = gradients(backend, dtype)
    parameters = [torch.nn.Parameter(grad.clone()) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    got = clip(grads, backend, max_grad_norm=0.5)
    for tensor, parameter in zip(got, parameters, strict=True):
        torch.testing.assert_close(tensor, parameter.grad, rtol=8e-3 if dtype is torch.bfloat16 else 1e-6, atol=0)
    if dtype is not torch.bfloat16:
        assert norm(got) <= 0.5


def test_short_gradients_are_left_as_they_are(backend):
    grads = gradients(backend)
    for tensor, grad in zip(clip(grads, backend, max_grad_norm=1e3), grads, strict=True):
        assert torch.equal(tensor, grad)


@pytest.mark.parametrize("scale", [4.0, -4.0, 1e-4])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_scaled_gradients_are_clipped(scale, as_tensor, backend):
    grads = gradients(backend)
    given = torch.tensor(scale, device=backend.device) if as_tensor else scale
    got = clip(grads, backend, max_grad_norm=0.5, grad_scale=given)
    scaled = [grad * scale for grad in grads]
    factor = min(1.0, 0.5 / norm(scaled))
    for tensor, grad in zip(got, scaled, strict=True):
        torch.testing.assert_close(tensor, grad * factor, rtol=1e-6, atol=0)
    assert norm(got) <= max(0.5, norm(scaled))


def test_the_noise_is_added_after_clipping(backend):
    grads = gradients(backend)
    scores = [backend.scores(grad.shape[0]) if grad.dim() == 4 else None for grad in grads]
    clipped = clip(grads, backend, max_grad_norm=0.5)
    options = {"ratio": 0.5, "std": 0.25, "floor_std": 0.125, "backend": backend.name}
    got = tip.perturb(grads, scores, max_grad_norm=0.5, rng=tip.NoiseRNG.from_seed(1), **options)
    want = tip.perturb(clipped, scores, rng=tip.NoiseRNG.from_seed(1), **options)
    for tensor, expected in zip(got, want, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=2.0**-13)  # a step of the grid


def test_parts_are_not_clipped_by_norms_of_their_own(backend):
    """Each would be as long as the whole may be."""
    grads, rng = gradients(backend), tip.NoiseRNG.from_seed(0)
    before = [grad.clone() for grad in grads]
    options = {"ratio": 0.0, "std": 0.0, "rng": rng, "max_grad_norm": 0.5, "backend": backend.name}
    with pytest.raises(ValueError, match=r"max_grad_norm to be None with shards.*grad_scale"):
        tip.perturb_(grads, [None] * 4, shards=[tip.Shard(0, 0, 4), None, None, None], **options)
    assert all(map(torch.equal, grads, before))
    assert rng.step == 0
    tip.perturb_(grads, [None] * 4, shards=[None] * 4, **options)
    assert norm(grads) <= 0.5


def test_nothing_to_clip(backend):
    assert tip.perturb([], [], ratio=0.0, std=0.0, rng=tip.NoiseRNG(), max_grad_norm=1.0, backend=backend.name) == []
    empty = torch.zeros(0, 3, device=backend.device)
    (got,) = clip([empty], backend, max_grad_norm=1.0)
    assert got.shape == empty.shape


WEIGHTS = [[0.1 * (j + 1) for j in range(9)], 0.5, None, 2.0]


def weighted(grads: list[torch.Tensor]) -> float:
    """Their norm by WEIGHTS."""
    basis, _ = tip.spectrum.real_basis((3, 3), tip.spectrum.radial_mask((3, 3), 0.5))
    kernels = grads[0].double().cpu().flatten(2) @ basis * torch.tensor(WEIGHTS[0], dtype=torch.float64)
    return norm([kernels, 0.5 * grads[1].cpu(), grads[2].cpu(), 2.0 * grads[3].cpu()])


@pytest.mark.parametrize("scale", [None, -4.0])
def test_coefficients_count_by_their_weights(scale, backend):
    """Those of kernels in the order of their basis, whether or not their channels are selected."""
    grads = gradients(backend)
    scores = [backend.scores(6), None, None, None]
    options = {"rng": tip.NoiseRNG.from_seed(0), "std": 0.0, "backend": backend.name, "grad_scale": scale}
    for ratio in (0.0, 0.5, 1.0):
        got = tip.perturb(grads, scores, ratio=ratio, max_grad_norm=0.5, norm_weights=WEIGHTS, **options)
        assert weighted(got) == pytest.approx(0.5, rel=1e-5)
        for tensor, grad in zip(got, grads, strict=True):
            torch.testing.assert_close(tensor / got[3][0, 0], grad / grads[3][0, 0], rtol=1e-4, atol=1e-5)


def test_another_mask_has_another_order_of_weights(backend):
    mask = torch.zeros(3, 2, dtype=torch.bool)
    mask[0, 0] = True  # DC first
    weights = [0.01] + 8 * [1.0]
    mean = backend.zeros(2, 3, 3, 3) + 1.0  # nothing but DC, of a norm of sqrt(54)
    options = {"ratio": 0.0, "std": 0.0, "rng": tip.NoiseRNG.from_seed(0), "backend": backend.name}
    options |= {"max_grad_norm": 0.5, "norm_weights": [weights]}
    for masks, left in (({(3, 3): mask}, 1.0), (None, 0.5 / 54**0.5)):
        (got,) = tip.perturb([mean], [backend.scores(2)], masks=masks, **options)
        torch.testing.assert_close(got, mean * left, rtol=1e-6, atol=0)


def test_weights_in_compiled_graphs(backend):
    if backend.name not in ("cpu", "reference"):
        pytest.skip("compiled graphs are tried where they run fast")
    options = {"ratio": 0.5, "std": 0.1, "floor_std": 0.05, "max_grad_norm": 0.5, "backend": backend.name}
    results = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="eager", fullgraph=True)):
        grads, rng = gradients(backend), tip.NoiseRNG.from_seed(0)
        scores = [backend.scores(6), None, None, None]
        wrap(lambda: tip.perturb_(grads, scores, rng=rng, norm_weights=WEIGHTS, **options))()  # noqa: B023
        results.append(grads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


BAD_WEIGHTS = {
    "too few": (WEIGHTS[:3], ValueError, "norm_weights of length 4, one per gradient, got 3"),
    "no list": (0.5, TypeError, "norm_weights to be a sequence, got float"),
    "a word": ([None, "half", None, None], TypeError, r"norm_weights\[1\] \(b\) to be a number, got str"),
    "zero": ([None, 0.0, None, None], ValueError, r"norm_weights\[1\] \(b\) to be above 0 and finite, got 0.0"),
    "infinite": ([None, float("inf"), None, None], ValueError, "to be above 0 and finite, got inf"),
    "not a number": ([None, float("nan"), None, None], ValueError, "to be above 0 and finite, got nan"),
    "of a coefficient": ([[1.0] * 8 + [-1.0]] + [None] * 3, ValueError, r"norm_weights\[0\] \(a\)\[8\] to be above 0"),
    "a list for one": ([[1.0] * 8 + [[1.0]]] + [None] * 3, TypeError, r"norm_weights\[0\] \(a\)\[8\] to be a number"),
    "a word for one": ([[1.0] * 8 + ["x"]] + [None] * 3, TypeError, r"norm_weights\[0\] \(a\)\[8\] to be a number"),
    "other taps": ([[1.0] * 4, None, None, None], ValueError, r"\(a\) to be one number, or 9, one per .*, got 4"),
    "no kernels": (
        [None, [1.0] * 9, None, None],
        ValueError,
        r"one number as norm_weights\[1\] \(b\), because .* got 9",
    ),
    "no high band": ([None, None, [1.0], None], ValueError, r"one number as norm_weights\[2\] \(c\)"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_refuses_weights(case, backend):
    weights, error, text = BAD_WEIGHTS[case]
    grads = gradients(backend)
    before = [grad.clone() for grad in grads]
    scores = [backend.scores(6), None, None, None]
    options = {
        "ratio": 0.5,
        "std": 0.1,
        "rng": tip.NoiseRNG.from_seed(0),
        "backend": backend.name,
        "names": list("abcd"),
    }
    with pytest.raises(error, match=text):
        tip.perturb_(grads, scores, max_grad_norm=1.0, norm_weights=weights, **options)
    assert all(map(torch.equal, grads, before))
    assert options["rng"].step == 0


def test_refuses_weights_without_a_norm(backend):
    options = {"ratio": 0.5, "std": 0.1, "rng": tip.NoiseRNG.from_seed(0), "backend": backend.name}
    with pytest.raises(ValueError, match="expected max_grad_norm beside norm_weights"):
        tip.perturb_(gradients(backend), [None] * 4, norm_weights=[0.5] * 4, **options)
