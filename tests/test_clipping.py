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
