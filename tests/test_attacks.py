"""The attacks of the study: they work where nothing is defended, and knowing the defense helps them."""

import math
from functools import partial

import pytest
import torch
from torch import nn

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy import images, nets
from bench.privacy.attacker import knowledge
from bench.privacy.attacker.inversion import Search, invert, invert_lbfgs
from bench.privacy.attacker.labels import recover_labels
from bench.privacy.attacker.problem import Problem
from bench.privacy.client import defenses, laplacian
from bench.privacy.client.grad_cam import last_convs
from bench.privacy.client.gradients import Gradient, client_gradient
from bench.privacy.client.noise_levels import as_published, at_energy
from bench.privacy.client.release import Defense, Release
from bench.privacy.commands import control
from bench.privacy.study import metrics

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend"),
]


def test_undefended_photos_are_rebuilt():
    """The positive control: without it no figure of the study means anything."""
    scores = control.rebuild([images.photo_crop(name) for name in images.PHOTO_CROPS], iterations=100)
    assert sorted(score.psnr for score in scores)[1] > 25  # dB, the median


def test_lbfgs_recovers_an_image_of_a_smooth_net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 36, 4)).double()
    image, label = torch.rand(1, 1, 8, 8, dtype=torch.float64), torch.tensor([2])
    problem = Problem(client_gradient(model, image, label), label, smoothing=0.0)
    found = invert_lbfgs(model, [problem], (1, 8, 8), search=Search(iterations=100, restarts=2))
    # Of squared distances below 1e-10 nothing is left to see; a start that ends in a local minimum has far more.
    assert found.losses.item() < 1e-10
    assert (found.images[0] - image).abs().max() < 1e-2
    assert found.tries.shape == (1, 2, 1, 1, 8, 8)


def test_update_of_one_step_is_its_gradient_and_of_several_nearly():
    model, image, label = digit_client()
    model = model.double()
    clean = flat(client_gradient(model, image.double(), label))
    for steps, tolerance in (
        (1, 1e-10),  # float64 rounding of weights below 1, over the 1e-4 of lr: 1e-16 / 1e-4
        (4, 1e-2),  # the gradient moves by lr * steps * curvature: 4e-4 times less than 10 here
    ):
        release = defenses.local_steps(steps, lr=1e-4)(model, image.double(), label, 0)
        # Clipped to 1, both of them.
        torch.testing.assert_close(flat(release.gradient), clean / clean.norm().clamp(min=1), rtol=0, atol=tolerance)


def test_an_image_that_is_not_a_number_is_gray():
    """The search went astray, and found nothing; the other images of its batch are scored as they are."""
    originals = torch.rand(2, 3, 16, 16)
    rebuilt = torch.stack([originals[0], torch.full_like(originals[1], torch.nan)])
    scores = metrics.compare(rebuilt, originals)
    expected = metrics.compare(torch.stack([originals[0], torch.full_like(originals[1], 0.5)]), originals)
    assert scores == expected
    assert scores[1].psnr < 20 < scores[0].psnr  # dB


def test_images_of_a_batch_are_paired_with_their_originals():
    originals = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rebuilt = originals.clone()
    rebuilt[2] = (rebuilt[2] + 0.1).clamp(max=1)
    scores = metrics.compare(rebuilt[[3, 2, 0, 1]], originals)
    error = (rebuilt[2] - originals[2]).square().mean().item()
    assert scores[2].psnr == pytest.approx(-10 * math.log10(error), abs=1e-3)  # dB; float32 sums of 768 squares
    assert all(scores[i].ssim == pytest.approx(1, abs=1e-5) for i in (0, 1, 3))
    assert scores[2].ssim < 1 - 1e-3


def digit_client() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The small net, an image of 8x8 pixels and its label."""
    torch.manual_seed(0)
    return nets.small_conv_net(channels=1, size=8), torch.rand(1, 1, 8, 8), torch.tensor([3])


def digit_release(defense: Defense) -> tuple[Release, Release]:
    """What the defense and what clipping alone sends for the same image."""
    return defense(*digit_client(), 0), defenses.none(*digit_client(), 0)


def flat(gradient: Gradient) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradient])


@pytest.mark.parametrize("attacker", [knowledge.oracle_mask, knowledge.spectral])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_informed_attackers_keep_only_what_is_exact(attacker, ratio):
    release, clean = digit_release(defenses.targeted(ratio=ratio, std=0.02))
    kept = 0
    for sent, exact, basis, weight in zip(
        release.gradient, clean.gradient, release.bases, attacker(release).weights, strict=True
    ):
        as_kernels = [t.flatten(2) @ basis if basis is not None else t.view(len(t), -1, 1) for t in (sent, exact)]
        # The low band went through one float32 round trip of 25 taps below 1: 25 * 2^-24 < 2e-6.
        torch.testing.assert_close(as_kernels[0] * weight, as_kernels[1] * weight, rtol=0, atol=2e-6)
        kept += weight.expand_as(as_kernels[0]).count_nonzero().item() if basis is not None else 0
    low_band, taps = 9, 25  # of a 5x5 kernel at cutoff 0.5
    kernels = 16 + 16 * 16
    spared = round(kernels * (1 - ratio))
    expected = {knowledge.oracle_mask: taps * spared, knowledge.spectral: taps * spared + low_band * (kernels - spared)}
    assert kept == expected[attacker]


def test_channels_are_inferred_from_the_noise_alone():
    release, _ = digit_release(defenses.targeted(ratio=0.5, std=0.05))
    inferred, known = knowledge.inferred_mask(release, ratio=0.5), knowledge.oracle_mask(release)
    for guess, truth, basis in zip(inferred.weights, known.weights, release.bases, strict=True):
        assert guess is None if basis is None else guess.equal(truth)


def test_whitening_prefers_the_quiet():
    release, _ = digit_release(defenses.targeted(ratio=0.5, std=0.05, floor_std=0.01))
    for weight, std in zip(knowledge.whitened(release).weights, release.noise_std, strict=True):
        assert weight.isfinite().all()
        assert weight[std == std.min()].min() >= weight[std == std.max()].max()


@pytest.mark.parametrize("by_magnitude", [True, False])
def test_pruning_removes_its_share(by_magnitude):
    release, clean = digit_release(defenses.pruning(0.9, by_magnitude))
    for sent, exact, std in zip(release.gradient, clean.gradient, release.noise_std, strict=True):
        gone = std.isinf().view_as(sent)
        assert gone.sum() == round(0.9 * sent.numel())
        assert (sent[gone] == 0).all()
        assert sent[~gone].equal(exact[~gone])
        if by_magnitude:
            assert exact[gone].abs().max() <= exact[~gone].abs().min()


RIVALS = {
    "gaussian": defenses.gaussian,
    "smoothed": defenses.smoothed_gaussian,
    "APG": defenses.grad_cam_noise,
    "TIP": partial(defenses.targeted, 0.3),
    "TIP keep 0": partial(defenses.targeted, 1.0, keep=0.0),
    "TIP with floor": lambda std: defenses.targeted(0.3, std, floor_std=0.5 * std),
}


@pytest.mark.parametrize("make", RIVALS.values(), ids=RIVALS)
def test_noise_energy_is_equal(make):
    rms, pairs = 0.02, 10
    defense, client = at_energy(make, rms), digit_client()
    releases = [defense(*client, seed) for seed in range(2 * pairs)]
    # Of two releases' difference only noise is left, of twice the energy.
    differences = [flat(a.gradient) - flat(b.gradient) for a, b in zip(releases[::2], releases[1::2], strict=True)]
    measured = torch.stack([difference.square().sum() / 2 for difference in differences]).mean().item()
    expected = rms**2 * flat(releases[0].gradient).numel()
    assert releases[0].noise_energy == pytest.approx(expected, rel=1e-5)  # float32 sums of up to 8e3 squares
    # Variances v_i of the coordinates give a mean energy with a relative variance of 2 sum v^2 / (sum v)^2 / pairs, and
    # sum v^2 <= max v sum v. At least 400 coordinates, a channel of APG's, have the largest v. Five sigma: 11 %.
    assert measured == pytest.approx(expected, rel=5 * math.sqrt(2 / 400 / pairs))


@pytest.mark.parametrize(
    "defense",
    [
        defenses.none,
        defenses.local_steps(2, 0.1),
        defenses.AdaptiveGaussian(0.02),
        defenses.pruning(0.9, False),
        as_published(partial(defenses.published_targeted, 0.3)),
        *(make(0.02) for make in RIVALS.values()),
    ],
)
def test_defense_leaves_the_model_alone(defense):
    model, image, label = digit_client()
    before = [p.detach().clone() for p in model.parameters()]
    release = defense(model, image, label, 0)
    assert all(p.equal(old) and p.grad is None for p, old in zip(model.parameters(), before, strict=True))
    assert [g.shape for g in release.gradient] == [p.shape for p in before]
    assert not any(module._forward_hooks for module in model.modules())


def test_smoothing_solves_its_dense_system():
    sigma, size = 1.5, 30
    ring = torch.eye(size, dtype=torch.float64)
    dense = ring.roll(1, 0) + ring.roll(-1, 0) - 2 * ring
    gradient = [torch.randn(4, 5, dtype=torch.float64), torch.randn(10, dtype=torch.float64)]
    smooth = laplacian.solve(gradient, sigma)
    # Two float64 solutions of a system with condition number 1 + 4 sigma = 7 and entries near 1.
    torch.testing.assert_close(
        flat(smooth), torch.linalg.solve(ring - sigma * dense, flat(gradient)), rtol=0, atol=1e-13
    )
    torch.testing.assert_close(flat(laplacian.apply(smooth, sigma)), flat(gradient), rtol=0, atol=1e-13)


def test_undoing_the_smoothing_leaves_plain_noise():
    smoothed, plain = defenses.smoothed_gaussian(0.02)(*digit_client(), 0), defenses.gaussian(0.02)(*digit_client(), 0)
    seen = knowledge.unsmoothed(smoothed)
    # Float32 rounding of values below 1, at most 5 times as large when undone.
    torch.testing.assert_close(flat(seen.gradient), flat(plain.gradient), rtol=0, atol=5 * 2**-24)


def test_clipping_norm_follows_the_quantile():
    defense = defenses.AdaptiveGaussian(0.02, quantile=0.3, rate=0.2, bit_std=0.0)
    client = digit_client()
    norm = flat(client_gradient(*client)).norm().item()
    defense.clip = 0.5 * norm
    release = defense(*client, 0)
    assert release.noise_std[0].item() == pytest.approx(0.02 * 0.5 * norm)
    assert defense.clip == pytest.approx(0.5 * norm * math.exp(0.2 * 0.3))  # clipped: the norm grows by eta gamma
    defense.clip = 2 * norm
    defense(*client, 0)
    assert defense.clip == pytest.approx(2 * norm * math.exp(-0.2 * 0.7))  # not clipped: it shrinks by eta (1 - gamma)


def test_grad_cam_noise_is_where_it_belongs():
    release, clean = digit_release(defenses.grad_cam_noise(0.05))
    names = [name for name, _ in digit_client()[0].named_parameters()]
    noised = [name for name, a, b in zip(names, release.gradient, clean.gradient, strict=True) if not a.equal(b)]
    assert noised == ["0.weight", "2.weight"]  # each conv is the last of its resolution
    assert [std.amax().item() for std in release.noise_std] == pytest.approx([0.05, 0, 0.05, 0, 0, 0])


def test_last_convs_are_those_of_the_residual_blocks():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.shortcut = nn.Sequential(nn.Conv2d(3, 3, 1))

    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sequential(Block(), Block()))
    sizes = {name: (8, 8) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert last_convs(model, sizes) == ["1.0.conv2", "1.1.conv2"]
    plain = nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(3)])
    assert last_convs(plain, {"0": (8, 8), "1": (8, 8), "2": (4, 4)}) == ["1", "2"]


def test_published_noise_is_for_the_mean_of_a_batch():
    """2 samples: half of clip * sqrt(2 ln(1.25 / 1e-5)) / 5 = 0.9690, and for TIP that over sqrt(25) taps."""
    model, image, label = digit_client()
    client = model, image.expand(2, -1, -1, -1), label.expand(2)
    for make, std in (
        (defenses.gaussian, 0.9690 / 2),
        (partial(defenses.published_targeted, 0.3), 0.9690 / 2 / 5),
    ):
        release = as_published(make)(*client, 0)
        assert max(level.max().item() for level in release.noise_std) == pytest.approx(std, rel=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_label_of_one_sample_is_exact(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 5, bias=bias))
    for label in range(5):
        gradient = client_gradient(model, torch.rand(1, 12), torch.tensor([label]))
        head = gradient[-2:] if bias else (gradient[-1], None)
        assert recover_labels(*head).tolist() == [label]


@pytest.mark.parametrize(
    "defense", [defenses.pruning(0.9, False), defenses.gaussian(0.05), defenses.targeted(1.0, 0.05, floor_std=0.05)]
)
def test_label_is_recovered_from_what_a_defense_leaves(defense):
    for seed, name in enumerate(images.PHOTO_CROPS):
        torch.manual_seed(seed)
        model, image, label = nets.small_conv_net(channels=3, size=32), images.photo_crop(name), torch.tensor([seed])
        assert recover_labels(*defense(model, image[None], label, seed).gradient[-2:]) == label


def test_label_of_a_sample_that_is_taken_for_another():
    """Softmax is 0.999 at a wrong class: two rows are nearly as large, and only signs tell."""
    shares = torch.full((10,), 1e-4)
    shares[4], shares[7] = 0.999, -0.999 - 8e-4
    assert recover_labels(shares[:, None] * torch.randn(20), None) == 7


def test_label_of_two_classes_needs_the_bias():
    model, label = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.tensor([1])
    weight, bias = client_gradient(model, torch.rand(1, 12), label)
    assert recover_labels(weight, bias) == label
    with pytest.raises(ValueError, match="expected a bias for 1 samples of 2 classes, got none"):
        recover_labels(weight, None)


def test_labels_of_a_batch_at_uniform_predictions():
    """With every logit 0, the bias gradient is 1/classes minus each class's share, so nothing is lost."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    labels = torch.tensor([4, 0, 4, 2])
    gradient = client_gradient(model, torch.rand(4, 12), labels)
    assert recover_labels(*gradient, batch_size=4).tolist() == [0, 2, 4, 4]


def test_best_start_is_chosen_by_loss():
    torch.manual_seed(0)
    model = nets.small_conv_net(channels=1, size=8, width=2)
    label = torch.tensor([1])
    problem = Problem(client_gradient(model, torch.rand(1, 1, 8, 8), label), label)
    still = Search(iterations=1, lr=0.0, restarts=4)  # does not move, so the first losses are the last
    seen: list[torch.Tensor] = []
    found = invert(model, [problem], (1, 8, 8), search=still, progress=seen.append)
    assert seen[0].shape == (1, 4)
    assert seen[0].unique().numel() == 4
    assert found.losses == seen[0].min()
    alone = invert(model, [problem], (1, 8, 8), search=still._replace(restarts=1))
    assert alone.losses == seen[0][0, 0]
