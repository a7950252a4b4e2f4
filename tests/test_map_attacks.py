"""Attackers by likelihood and prior: right where the answer is known, and told the truth about every defense."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import tip_kernels as tip

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy import images, nets
from bench.privacy.attacker import priors, public_images, sampling
from bench.privacy.attacker.candidates import Candidates
from bench.privacy.attacker.climbing import ADAM
from bench.privacy.attacker.gauss_newton import GAUSS_NEWTON, conjugate_gradients
from bench.privacy.attacker.inversion import Search
from bench.privacy.attacker.likelihood import EXACT, Likelihood
from bench.privacy.attacker.posterior import Posterior, invert_posterior
from bench.privacy.attacker.priors import Contrasts, Gaussian, TotalVariation
from bench.privacy.attacker.sampling import HAMILTONIAN
from bench.privacy.attacker.spectral import Spectral
from bench.privacy.client import defenses
from bench.privacy.client.gradients import kernel_shape, norm
from bench.privacy.client.release import Release
from bench.privacy.study import metrics
from bench.privacy.study.ceiling import limits
from tip_kernels._audit.prior import Dense
from tip_kernels.audit import ImagePrior, audit

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend"),
]


PIXELS, CLASSES, STD = 12, 5, 0.05


class Linear:
    """A net whose gradient is linear in the image: with weights of zero, predictions are uniform whatever it shows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES))
        for parameter in self.model.parameters():
            nn.init.zeros_(parameter)
        self.prior = Gaussian(torch.full((PIXELS,), 0.5), 0.1 * torch.randn(PIXELS, PIXELS) / 3, (3, 2, 2))
        self.image = self.prior.images(torch.randn(1, PIXELS))
        slope = torch.full((CLASSES,), 1 / CLASSES)
        slope[2] -= 1
        self.jacobian = torch.cat([torch.kron(slope[:, None], torch.eye(PIXELS)), torch.zeros(CLASSES, PIXELS)])
        clean = self.jacobian @ self.image.flatten()
        clean[-CLASSES:] = slope
        sent = clean + STD * torch.randn(clean.shape)
        noise = [torch.full((1, 1, 1), STD)] * 2
        parts = [sent[:-CLASSES].view(CLASSES, PIXELS), sent[-CLASSES:]]
        self.release = Release(parts, noise, [None] * 2, max_norm=10.0)  # longer than it is: nothing is clipped
        whitened = self.jacobian @ self.prior.factor / STD
        self.covariance = torch.linalg.inv(whitened.T @ whitened + torch.eye(PIXELS))  # of z under the posterior
        left = (sent - clean + self.jacobian @ (self.image.flatten() - 0.5)) / STD
        z = self.covariance @ whitened.T @ left
        self.mean = self.prior.images(z[None])


@pytest.mark.parametrize(
    ("method", "lr", "tolerance"),
    [
        (ADAM, 0.1, 1e-4),  # where a step size that falls to zero leaves it
        (GAUSS_NEWTON, 1e-3, 1e-4),
        # The mean of 16 chains with 30 samples each, of a std of up to 0.1: were but each fourth independent, 0.009.
        (HAMILTONIAN, 0.3, 0.02),
    ],
)
def test_posterior_of_a_linear_net_is_known(method, lr, tolerance):
    known = Linear()
    search = Search(iterations=400, lr=lr, restarts=16 if method is HAMILTONIAN else 2)
    found = invert_posterior(known.model, [known.release], prior=known.prior, method=method, search=search, hot=1.0)
    assert (known.mean - known.image).abs().max() > 0.02  # so that being right by chance is impossible
    torch.testing.assert_close(found.images[0], known.mean, rtol=0, atol=tolerance)
    assert found.tries.shape == (1, search.restarts, 1, 3, 2, 2)


def test_limits_of_a_linear_net_are_known():
    known = Linear()
    factor = known.prior.factor
    error = torch.trace(factor @ known.covariance @ factor.T) / PIXELS
    found = limits(known.model, known.release, known.prior, known.image, chunk=5)
    assert found.ceiling.item() == pytest.approx(-10 * math.log10(error), abs=1e-3)  # dB; float32

    gain = factor @ known.covariance @ (known.jacobian @ factor).T / STD**2  # from messages to guesses
    clean = known.jacobian @ (known.image.flatten() - 0.5)
    noise = STD * torch.randn(20_000, len(clean), generator=torch.Generator().manual_seed(1))
    errors = ((clean + noise) @ gain.T + 0.5 - known.image.flatten()).square().mean(1)
    margin = 5 * errors.std().item() / math.sqrt(len(errors))
    assert 10 ** (-found.guess.item() / 10) == pytest.approx(errors.mean().item(), abs=margin)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["gaussian", "TIP", "TIP with floor", "keep 0"])
def test_limits_are_those_of_an_audit(name, batch):
    """Two ways to the same number: from what a client sent and the study's likelihood, and from a TIP's settings."""
    settings = {
        "TIP": {"ratio": 0.5, "std": 0.05},
        "TIP with floor": {"ratio": 0.5, "std": 0.05, "floor_std": 0.02},
        "keep 0": {"ratio": 1.0, "std": 0.05, "floor_std": 0.02, "keep": 0.0},
    }.get(name)
    torch.manual_seed(0)
    model = nets.small_conv_net(channels=1, size=8)
    pictures, labels = torch.rand(batch, 1, 8, 8), torch.tensor([3, 5])[:batch]
    spread = 0.2 * torch.randn(64, 64) / 8
    prior = priors.Gaussian(torch.full((64,), 0.5), torch.linalg.cholesky(spread @ spread.T), (1, 8, 8))
    release = (defenses.gaussian(0.02) if settings is None else defenses.targeted(**settings))(
        model, pictures, labels, 1
    )
    found = limits(model, release._replace(labels=labels), prior, pictures)
    known = ImagePrior(prior.average.double().view(1, 8, 8), Dense(prior.factor.double()))
    cross_entropy = nn.functional.cross_entropy
    if settings is None:
        audited = audit(model, cross_entropy, pictures, labels, 0.02, prior=known, max_grad_norm=1.0, per_message=batch)
    else:
        with tip.TIP(model, **settings, max_grad_norm=1.0, rng=tip.NoiseRNG.from_seed(1)) as defense:
            audited = audit(model, cross_entropy, pictures, labels, defense, prior=known, per_message=batch)
    assert audited.psnr.min() > audited.prior_psnr + 0.5  # so that the message matters
    torch.testing.assert_close(found.ceiling.float(), audited.psnr.float(), rtol=0, atol=0.05)


def test_samples_are_as_wide_as_the_posterior(monkeypatch):
    known = Linear()
    monkeypatch.setattr(sampling, "BURNT", 0.94)
    search = Search(iterations=160, lr=0.3, restarts=400)  # 20 turns, of which only the last counts
    tries = invert_posterior(
        known.model, [known.release], prior=known.prior, method=HAMILTONIAN, search=search, hot=0.0
    ).tries
    variance = tries[0].flatten(1).var(0).sum().item()
    expected = torch.trace(known.prior.factor @ known.covariance @ known.prior.factor.T).item()
    assert variance == pytest.approx(expected, rel=5 * math.sqrt(2 / 400))  # at most, if one direction had all of it


def digit_client() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return nets.small_conv_net(channels=1, size=8), torch.rand(1, 1, 8, 8), torch.tensor([3])


@pytest.mark.parametrize(
    "defense",
    [
        defenses.none,
        defenses.local_steps(3, 0.1),
        defenses.gaussian(0.02),
        defenses.smoothed_gaussian(0.02),
        defenses.grad_cam_noise(0.05),
        defenses.targeted(0.5, 0.05),
        defenses.targeted(0.3, 0.05, floor_std=0.01),
        defenses.targeted(1.0, 0.05, keep=0.0),
        defenses.pruning(0.9, True),
    ],
)
def test_residuals_of_the_true_image_are_standard_normal(defense):
    """Whatever the defense: its noise, bases, smoothing, pruning, clipping and local steps are all accounted for."""
    client = digit_client()
    likelihood = Likelihood(client[0], [defense(*client, seed) for seed in range(4)])
    residuals = likelihood.residuals(client[1].expand(4, 1, 1, 8, 8))
    assert likelihood.labels.tolist() == [[3]] * 4
    floor = likelihood.std.amin(1, keepdim=True)
    exact = (likelihood.std == floor) & (floor < 1e-3)
    assert residuals[exact].abs().sum() == 0 or residuals[exact].abs().max() < 0.1  # float32, by a floor far above it
    assert (residuals[likelihood.std.isinf()] == 0).all()
    noised = residuals[~exact & likelihood.std.isfinite()]
    if len(noised):
        # Independent squares with variance 2. TIP's grid of a floor adds (2^-10 std)^2 / 12, nothing here.
        assert noised.square().mean() == pytest.approx(1, abs=5 * math.sqrt(2 / len(noised)))


def test_adaptive_norm_is_that_of_the_message():
    defense, client = defenses.AdaptiveGaussian(0.02, quantile=0.0), digit_client()
    releases = [defense(*client, seed) for seed in range(4)]
    assert len({release.max_norm for release in releases}) == 4
    residuals = Likelihood(client[0], releases).residuals(client[1].expand(4, 1, 1, 8, 8))
    for row in residuals:
        assert row.square().mean() == pytest.approx(1, abs=5 * math.sqrt(2 / len(row)))


def test_weights_are_one_over_the_std_of_the_release():
    client = digit_client()
    release = defenses.targeted(0.5, 0.05)(*client, 0)
    likelihood = Likelihood(client[0], [release, release], restarts=2)
    pairs = zip(release.noise_std, release.gradient, strict=True)
    given = torch.cat([std.expand(kernel_shape(g.shape)).flatten() for std, g in pairs])
    exact = given == 0
    assert likelihood.std.shape == (4, len(given))
    assert (likelihood.std[:, ~exact] == given[~exact]).all()
    rms = likelihood.observed[0, exact].square().mean().sqrt()
    torch.testing.assert_close(likelihood.std[0, exact], (EXACT * rms).expand(int(exact.sum())))


def test_candidates_are_clipped_each_to_its_norm():
    model, image, label = digit_client()
    free = Candidates(model).gradients(image[None].repeat(3, 1, 1, 1, 1), label.repeat(3, 1), math.inf)
    length = norm([g[:1] for g in free]).item()
    bounds = torch.tensor([0.1, 0.7, 2.0]) * length
    found = Candidates(model).gradients(image[None].repeat(3, 1, 1, 1, 1), label.repeat(3, 1), bounds)
    lengths = [norm([g[i] for g in found]).item() for i in range(3)]
    assert lengths == pytest.approx([0.1 * length, 0.7 * length, length], rel=1e-5)


def test_annealing_starts_loud_and_ends_at_the_true_noise():
    client = digit_client()
    likelihood = Likelihood(client[0], [defenses.targeted(0.5, 0.05)(*client, 0)])
    posterior = Posterior(likelihood, TotalVariation(1.0, (1, 8, 8)), hot=20.0)
    levels = [posterior.level(share).item() for share in (0.0, 0.3, 0.6, posterior.cooling, 1.0)]
    assert levels[0] == pytest.approx(20 * (likelihood.signal).item(), rel=1e-5)
    assert levels == sorted(levels, reverse=True)
    assert likelihood.annealed_std(posterior.level(0.0)).amin() >= levels[0] * (1 - 1e-6)
    for share in (posterior.cooling, 1.0):
        assert likelihood.annealed_std(posterior.level(share)).equal(likelihood.std)
    unheated = Posterior(likelihood, TotalVariation(1.0, (1, 8, 8)), hot=0.0)
    assert likelihood.annealed_std(unheated.level(0.0)).equal(likelihood.std)


@pytest.fixture(scope="module")
def digits() -> tuple[Gaussian, torch.Tensor]:
    """What is known of digits, and two that are not among them."""
    train, _, test, _ = images.digits()
    return Gaussian.fitted(train, ridge=1e-4), test[:2]


def digit_releases(defense, shown):
    model = digit_client()[0]
    return model, [defense(model, image[None], torch.tensor([label]), 1) for label, image in enumerate(shown)]


def test_searches_agree(digits):
    prior, shown = digits
    model, releases = digit_releases(defenses.gaussian(0.005), shown)
    attack = partial(invert_posterior, model, releases, prior=prior)
    adam = attack(method=ADAM, search=Search(iterations=300, lr=0.1, restarts=2))
    newton = attack(method=GAUSS_NEWTON, search=Search(iterations=300, lr=1.0, restarts=2))
    torch.testing.assert_close(adam.losses, newton.losses, rtol=1e-3, atol=0)
    torch.testing.assert_close(adam.images, newton.images, rtol=0, atol=0.02)


@pytest.mark.parametrize(("method", "lr"), [(ADAM, 0.1), (GAUSS_NEWTON, 0.1)])
def test_undefended_images_are_rebuilt(digits, method, lr):
    """The positive control."""
    prior, shown = digits
    model, releases = digit_releases(defenses.none, shown)
    found = invert_posterior(model, releases, prior=prior, method=method, search=Search(iterations=400, lr=lr))
    psnr = [-10 * (a[0] - b).square().mean().log10().item() for a, b in zip(found.images, shown, strict=True)]
    assert min(psnr) > 35


def test_images_come_in_batches():
    prior = TotalVariation(3.0, (1, 12, 12))
    torch.manual_seed(0)
    model, shown = nets.small_conv_net(channels=1, size=12), torch.rand(2, 1, 12, 12)
    release = defenses.gaussian(0.001)(model, shown, torch.tensor([1, 4]), 0)
    search = Search(iterations=20, lr=0.05, restarts=2)
    for method in (ADAM, GAUSS_NEWTON, HAMILTONIAN):
        found = invert_posterior(model, [release] * 3, prior=prior, method=method, search=search, batch_size=2)
        assert found.tries.shape == (3, 2, 2, 1, 12, 12)
        assert found.losses.isfinite().all()
        assert len(metrics.compare(found.images[0], shown)) == 2


def test_gaussian_has_the_moments_of_its_images():
    torch.manual_seed(0)
    shown = 0.5 + 0.1 * torch.randn(5000, 1, 2, 3) @ torch.randn(3, 3)
    prior = Gaussian.fitted(shown, ridge=0.0)
    torch.testing.assert_close(prior.average, shown.flatten(1).mean(0))
    torch.testing.assert_close(prior.factor @ prior.factor.T, shown.flatten(1).T.cov(correction=0), rtol=0, atol=1e-5)
    leading = prior.factor.square().sum(0)
    assert (leading[:-1] >= leading[1:]).all()


def test_contrasts_are_found_and_keep_the_covariance():
    torch.manual_seed(0)
    scales = 0.9 ** torch.arange(300.0)
    truth = Contrasts(torch.zeros(300), torch.diag(scales), (3, 10, 10), spread=0.4)
    shown = truth.images(torch.randn(4000, 301))
    fitted = Contrasts.of(Gaussian(truth.average, truth.factor, (3, 10, 10)), shown)
    assert fitted.spread == pytest.approx(0.4, abs=0.04)  # 290 squares an image add a spread of 0.04 of their own
    square = (shown.flatten(1) / scales).square().mean(0)
    assert square[:10].mean() == pytest.approx(1, rel=0.05)
    assert square[10:].mean() == pytest.approx(1, rel=0.1)


def test_curvature_of_total_variation_touches_its_cost():
    """The quadratic's slope at z is that of the cost, and it lies above it elsewhere."""
    torch.manual_seed(0)
    prior = TotalVariation(2.0, (1, 5, 4))
    z, other = torch.rand(3, 2, 1, 5, 4), torch.rand(3, 2, 1, 5, 4)
    bent = prior.curvature(z)
    slope = torch.func.grad(lambda z: prior.cost(z).sum())(z)
    torch.testing.assert_close(bent(z), slope, rtol=1e-4, atol=1e-5)

    def quadratic(at):
        return (at * bent(at)).flatten(1).sum(1) / 2

    assert (quadratic(other) - quadratic(z) >= prior.cost(other) - prior.cost(z) - 1e-4).all()
    assert prior.refine(torch.tensor([-1.0, 0.3, 2.0]), 0.5).tolist() == pytest.approx([0, 0.3, 1])


def test_differences_are_of_neighbors():
    image = torch.tensor([[[[[0.0, 1.0], [3.0, 7.0]]]]])
    assert priors.differences(image).tolist() == [[3.0, 6.0, 1.0, 4.0]]


def test_conjugate_gradients_solve_dense_systems():
    torch.manual_seed(0)
    factor = torch.randn(3, 6, 6, dtype=torch.float64)
    dense = factor @ factor.mT + torch.eye(6)
    target = torch.randn(3, 2, 3, dtype=torch.float64)
    found = conjugate_gradients(lambda x: (dense @ x.flatten(1)[..., None]).view_as(x), target, 12)
    torch.testing.assert_close(found.flatten(1), torch.linalg.solve(dense, target.flatten(1)), rtol=0, atol=1e-8)


def test_public_photos_show_nothing_that_is_attacked(monkeypatch):
    """Photos that are white where crops are attacked and black elsewhere: no public crop has any white."""
    real = public_images.load_sample_images()
    real.images = [np.zeros_like(photo) for photo in real.images]
    for number, photo in enumerate(real.images):
        for where, top, left, shrink in (images.PHOTO_CROPS | images.MORE_CROPS).values():
            if where == number:
                photo[top : top + 32 * shrink, left : left + 32 * shrink] = 255
    monkeypatch.setattr(public_images, "load_sample_images", lambda: real)
    crops = public_images.photo_crops(stride=16)
    assert crops.shape[1:] == (3, 32, 32)
    assert len(crops) > 500
    assert (crops == 0).all()
    larger = public_images.photo_crops(stride=16, size=64)
    assert larger.shape[1:] == (3, 64, 64)
    assert len(larger) > 500
    assert (larger == 0).all()


def test_the_broadest_directions_are_kept():
    torch.manual_seed(0)
    images = 0.5 + 0.1 * torch.randn(2000, 3, 2, 2) * torch.arange(1, 13).view(3, 2, 2)
    whole, part = Gaussian.fitted(images), Gaussian.fitted(images, latents=4)
    assert part.factor.shape == (12, 4)
    assert part.factor.equal(whole.factor[:, :4])
    variances = whole.factor.square().sum(0)
    assert variances[:4].min() > variances[4:].max()


def test_fitted_prior_is_kept(tmp_path, monkeypatch):
    asked = []

    def public(data):
        asked.append(data)
        return torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr(public_images, "public", public)
    monkeypatch.setenv("TIP_KERNELS_CACHE", str(tmp_path / "priors"))
    flat = Gaussian(torch.zeros(3072), torch.eye(3072), (3, 32, 32))
    monkeypatch.setattr(Gaussian, "fitted", lambda images, latents: flat)
    first, second = public_images.gaussian(None), public_images.gaussian(None)
    assert asked == [None]
    assert first.factor.equal(second.factor)
    assert first.spread == second.spread


def test_priors_of_other_images_have_files_of_their_own(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"expected train\*.parquet below"):
        public_images.fingerprint(tmp_path)
    found = [public_images.fingerprint(None)]
    for content in (b"one", b"two"):
        (tmp_path / "train-0.parquet").write_bytes(content)
        found.append(public_images.fingerprint(tmp_path))
    monkeypatch.setattr(public_images, "COUNT", 10)
    found.append(public_images.fingerprint(tmp_path))
    monkeypatch.setattr(public_images, "VERSION", 2)
    found.append(public_images.fingerprint(None))
    assert len(set(found)) == len(found)


def smooth_images(count: int, size: int) -> torch.Tensor:
    return nn.functional.interpolate(torch.rand(count, 3, size // 4, size // 4), scale_factor=4, mode="bilinear")


def test_gaussian_by_frequency_has_the_moments_of_its_images():
    torch.manual_seed(0)
    shown = smooth_images(2000, 16)
    prior = Spectral.fitted(shown, ridge=0.0)
    drawn = prior.images(prior.draw(2000, torch.Generator().manual_seed(1))[None])[0]
    torch.testing.assert_close(prior.images(prior.mean(1)[None])[0, 0], shown.mean(0), rtol=0, atol=1e-4)
    for change in (lambda x: x, lambda x: x[..., 1:] - x[..., :-1]):  # total energy, and that of differences
        assert change(drawn).var(0).mean().item() == pytest.approx(change(shown).var(0).mean().item(), rel=0.1)
    noise = 0.1 * torch.randn(shown.shape)
    cleaned = prior.denoised(shown + noise, torch.full((2000,), 0.1))
    assert (cleaned - shown).square().mean() < 0.4 * noise.square().mean()


def test_larger_images_are_rebuilt_by_frequency():
    torch.manual_seed(0)
    prior, image = Spectral.fitted(smooth_images(100, 64)), smooth_images(1, 64)
    model = nets.small_conv_net(channels=3, size=64)
    release = defenses.none(model, image, torch.tensor([3]), 0)
    search = Search(iterations=60, lr=0.1)
    found = invert_posterior(model, [release], prior=prior, method=ADAM, search=search).images[0]
    assert (found - image).square().mean().sqrt() < 0.3 * image.std()


def test_photos_of_both_sizes_are_of_one_square():
    large = images.photo_crop("bud", 64)
    assert large.shape == (3, 64, 64)
    torch.testing.assert_close(nn.functional.avg_pool2d(large, 2), images.photo_crop("bud"))
