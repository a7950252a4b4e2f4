"""The denoiser that attackers use as a prior: its noise levels, its training, its file, and the search that uses it."""

import dataclasses

import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import torch

from bench.privacy import __main__ as entry
from bench.privacy.attacker import plug_and_play
from bench.privacy.attacker.inversion import Search
from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.plug_and_play import Plan
from bench.privacy.client import defenses
from bench.privacy.commands import prior
from bench.privacy.images import Labeled, is_attacked
from bench.privacy.prior import settings, training, weights, worth
from bench.privacy.prior.denoiser import Denoiser
from bench.privacy.prior.settings import Settings
from bench.privacy.prior.spectral import SpectralGaussian, cosines
from bench.privacy.prior.time import SPREAD, as_pixels, standardized, std_at, time_of
from bench.privacy.prior.wiener import Wiener
from bench.privacy.study import flow, scenes
from bench.privacy.study.cases import EQUAL, cases
from bench.privacy.trained import data
from bench.privacy.trained import training as trained
from bench.privacy.trained.weights import read

TINY = Settings(data="photos", size=8, classes=2, width=8, batch=16)
SHAPE = (3, 8, 8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TIP_KERNELS_CACHE", str(tmp_path))
    return tmp_path


def gaussian_images(count: int, seed: int = 0) -> torch.Tensor:
    """Whose cosine coefficients are independent and Gaussian, the lowest the largest, in pixels."""
    draw = torch.Generator().manual_seed(seed)
    scale = 1 / (1 + torch.arange(8.0)[:, None] + torch.arange(8.0))
    table = cosines(8)
    return as_pixels(table.T @ (scale * torch.randn(count, *SHAPE, generator=draw)) @ table)


def two_classes(count: int = 256) -> Labeled:
    """Images that are dark or bright in a half, by class: no Gaussian tells all of it."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (count,), generator=draw)
    pixels = torch.full((count, *SHAPE), 60.0)
    pixels[labels == 0, :, :4] = 200
    pixels[labels == 1, :, :, :4] = 200
    return Labeled((pixels + 20 * torch.rand(count, 1, 1, 1, generator=draw)).byte(), labels)


def fitted(images: torch.Tensor) -> SpectralGaussian:
    gaussian = SpectralGaussian(*SHAPE[:2])
    gaussian.fit(standardized(images))
    return gaussian


def as_denoiser(gaussian: SpectralGaussian) -> Denoiser:
    return Denoiser(lambda points, time, labels: gaussian.velocity(points, time), SHAPE, classes=2)


# --- noise levels and times


def test_times_and_noise_levels_are_each_others_inverse():
    std = torch.tensor([1e-3, 0.02, SPREAD, 2.0])
    torch.testing.assert_close(std_at(time_of(std)), std)
    assert time_of(torch.tensor(SPREAD)) == 0.5  # noise as large as the images
    assert time_of(torch.tensor(1e-6)) > 0.999


@pytest.mark.parametrize("std", [0.02, 0.1, 0.5])
def test_the_exact_velocity_of_a_gaussian_is_the_wiener_filter(std):
    gaussian = fitted(gaussian_images(4000))
    noisy = gaussian_images(5, seed=1) + std * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(2))
    # The filter anew from its definition, in pixels and in float64.
    basis = torch.eye(3 * 8 * 8).view(-1, *SHAPE)
    factor = SPREAD * gaussian.synthesize(gaussian.variance.sqrt() * basis).flatten(1).T.double()
    mean = as_pixels(gaussian.synthesize(gaussian.mean[None])).flatten().double()
    covariance = factor @ factor.T
    inverse = torch.linalg.inv(covariance + std**2 * torch.eye(len(mean), dtype=torch.float64))
    expected = mean + (noisy.flatten(1).double() - mean) @ (covariance @ inverse).T
    torch.testing.assert_close(
        as_denoiser(gaussian).denoise(noisy, std).flatten(1).double(), expected, atol=1e-4, rtol=0
    )
    each = torch.full((5,), std)
    torch.testing.assert_close(as_denoiser(gaussian).denoise(noisy, each), as_denoiser(gaussian).denoise(noisy, std))


def test_the_wiener_filter_of_samples_is_that_of_their_gaussian():
    images = gaussian_images(20_000)
    noisy = gaussian_images(50, seed=1) + 0.1 * torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(2))
    found, expected = Wiener(images).denoise(noisy, 0.1), as_denoiser(fitted(images)).denoise(noisy, 0.1)
    assert (found - expected).square().mean() < 0.02 * (noisy - expected).square().mean()  # what 20,000 images leave


def test_samples_of_a_gaussian_flow_have_its_mean_and_spread():
    gaussian = fitted(gaussian_images(4000) * 0.5 + 0.25)
    drawn = standardized(as_denoiser(gaussian).sample(2000, None, torch.Generator().manual_seed(0), steps=30))
    again = fitted(as_pixels(drawn))
    loud = gaussian.variance > 0.01
    assert (again.variance / gaussian.variance)[loud].mean().item() == pytest.approx(1, abs=0.05)
    assert (again.mean - gaussian.mean).abs().max() < 5 * (gaussian.variance / 2000).sqrt().max()


# --- training


@pytest.fixture
def quickly(monkeypatch):
    """Training at its full rate at once."""
    monkeypatch.setattr(trained, "WARM_UP", 10)
    return dataclasses.replace(TINY, lr=1e-2, batch=64)


def test_training_reduces_the_loss_below_the_gaussians(quickly):
    one = training.Training(two_classes(), quickly)
    losses = [one.step() for _ in range(100)]
    assert losses[0] == pytest.approx(1, abs=0.25)  # an untrained net is its Gaussian
    assert sum(losses[-20:]) / 20 < 0.8


def test_a_resumed_training_has_the_weights_of_one_that_was_not_interrupted(cache):
    whole = training.Training(two_classes(), TINY)
    for _ in range(6):
        whole.step()
    first = training.Training(two_classes(), TINY)
    for _ in range(3):
        first.step()
    trained.keep(first, TINY.file())
    second = training.Training(two_classes(), TINY)
    second.restore(read(TINY))
    for _ in range(3):
        second.step()
    for name, tensor in whole.averaged.items():
        assert torch.equal(second.averaged[name], tensor), name
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(second.net.state_dict()[name], tensor), name


def test_labels_are_those_of_the_images_or_hidden():
    one = training.Training(two_classes(), dataclasses.replace(TINY, batch=500))
    points, times, labels, velocity = one._batch(torch.Generator().manual_seed(0))
    images = points + (1 - times.view(-1, 1, 1, 1)) * velocity
    bright_on_top = images[:, :, :4].mean((1, 2, 3)) > images[:, :, 4:].mean((1, 2, 3)) + 0.5
    told = labels != 2
    assert torch.equal(labels[told] == 0, bright_on_top[told])
    assert (~told).float().mean().item() == pytest.approx(one.settings.drop, abs=0.06)


def test_every_step_draws_anew(monkeypatch):
    one, drawn = training.Training(two_classes(), TINY), []
    batch = one._batch
    monkeypatch.setattr(one, "_batch", lambda draw: drawn.append(batch(draw)) or drawn[-1])
    one.step()
    one.step()
    assert not torch.isclose(drawn[0][1], drawn[1][1]).any()  # the times


def test_training_ends_by_time_and_goes_on(cache, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(trained.time, "monotonic", lambda: 10.0 * next(clock))  # ten seconds a step
    one = training.Training(two_classes(), TINY)
    assert len(list(trained.train(one, minutes=1, every=20.0))) == 3
    assert (one.steps, one.seconds) == (6, 60.0)
    assert len(list(trained.train(one, minutes=2, every=20.0))) == 3
    assert (one.steps, one.seconds) == (12, 120.0)
    assert not list(trained.train(one, minutes=2))


def test_no_photo_crop_for_training_is_of_an_attacked_one():
    assert is_attacked(1, 100, 200, 32)  # within the flower
    assert not is_attacked(1, 0, 500, 64)
    crops = data.photo_crops(20)
    assert crops.images.shape == (20, 3, 32, 32)
    assert torch.equal(crops.images, data.photo_crops(20).images)


# --- the file


def test_weights_that_are_missing_are_refused_with_the_command(cache):
    with pytest.raises(FileNotFoundError, match=r"\n    python -m bench.privacy train-prior --data FOLDER --minutes"):
        weights.load(Settings())
    with pytest.raises(FileNotFoundError, match=r"train-prior --width 48 --minutes 60"):
        Denoiser.trained(settings.of_data(None, width=48))
    with pytest.raises(SystemExit, match="expected a trained prior in"):
        entry.main(["prior"])


def test_every_setting_and_the_version_have_a_file_of_their_own(cache, monkeypatch):
    changed = {"data": "photos", "channels": 1, "size": 64, "classes": 3, "width": 33, "batch": 65, "lr": 0.1,
               "drop": 0.3, "seed": 1}  # fmt: skip
    assert set(changed) == {field.name for field in dataclasses.fields(Settings)}
    files = {Settings().file(), *(Settings(**{name: value}).file() for name, value in changed.items())}
    assert len(files) == 1 + len(changed)
    monkeypatch.setattr(Settings, "VERSION", Settings.VERSION + 1)
    assert Settings().file() not in files


def test_a_file_of_other_settings_or_images_is_refused(cache):
    one = training.Training(two_classes(), TINY)
    trained.keep(one, TINY.file())
    other = dataclasses.replace(TINY, seed=1)
    TINY.file().rename(other.file())
    with pytest.raises(ValueError, match=r"to hold a prior of Settings.*seed=1.*got one of .*'seed': 0"):
        weights.load(other)
    with pytest.raises(ValueError, match="expected a training on these images"):
        training.Training(two_classes(count=200), TINY).restore(one.state())


def test_the_averaged_weights_are_used(cache):
    one = training.Training(two_classes(), TINY)
    for _ in range(3):
        one.step()
    trained.keep(one, TINY.file())
    loaded = weights.load(TINY).state_dict()
    assert torch.equal(loaded["unet.enter.bias"], one.averaged["unet.enter.bias"])
    assert not torch.equal(loaded["unet.enter.bias"], one.net.state_dict()["unet.enter.bias"])


# --- use


class LinearMessage:
    """Known numbers of random sums of pixels with noise: what any search for the posterior can be checked by."""

    def __init__(self, images: torch.Tensor, sums: int, std: float, labels: torch.Tensor) -> None:
        draw = torch.Generator().manual_seed(3)
        self.matrix = torch.randn(sums, images[0, 0].numel(), generator=draw)
        clean = images.flatten(2)[:, 0] @ self.matrix.T
        self.observed = (clean + std * torch.randn(clean.shape, generator=draw)).expand(len(labels), -1)
        self.std, self.labels, self.signal = std, labels, torch.ones(len(labels))

    def residuals(self, images: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        return (images.flatten(1) @ self.matrix.T - self.observed) / self.std


def posterior(gaussian: SpectralGaussian, message: LinearMessage) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the pixels, in closed form."""
    basis = torch.eye(3 * 8 * 8).view(-1, *SHAPE)
    factor = SPREAD * gaussian.synthesize(gaussian.variance.sqrt() * basis).flatten(1).T
    mean = as_pixels(gaussian.synthesize(gaussian.mean[None])).flatten()
    seen = message.matrix @ factor / message.std
    covariance = torch.linalg.inv(seen.T @ seen + torch.eye(len(mean)))
    right = seen.T @ (message.observed[0] - message.matrix @ mean) / message.std
    return mean + factor @ (covariance @ right), factor @ covariance @ factor.T


@pytest.mark.parametrize(("heat", "variance"), [(0.0, (0.0, 0.9)), (1.0, (0.9, 1.1))])
def test_runs_are_about_the_posterior_of_a_gaussian(heat, variance):
    """With drawn corrections they are samples of it; with mean ones less scattered, about the same mean."""
    gaussian = fitted(gaussian_images(4000))
    image, runs = gaussian_images(1, seed=1)[None], 64
    message = LinearMessage(image, sums=60, std=0.1, labels=torch.zeros(runs, 1, dtype=torch.int64))
    mean, covariance = posterior(gaussian, message)
    plan = Plan(last=0.002, count=40, solver=30, fresh=1.0, trust=1.0, heat=heat)
    found = plug_and_play.sampled(message, as_denoiser(gaussian), gaussian, plan).flatten(1)
    unit = covariance.trace()
    assert (image.flatten() - mean).square().sum() < 3 * unit  # the closed form is right
    assert (found.mean(0) - mean).square().sum() < 0.1 * unit  # 1 / 64 of it is left for samples
    assert variance[0] < found.var(0).sum() / unit < variance[1]


def test_a_drawn_correction_is_a_sample_of_what_the_message_leaves():
    gaussian, runs = fitted(gaussian_images(4000)), 2000
    image = gaussian_images(1, seed=1)[None]
    message = LinearMessage(image, sums=60, std=0.5, labels=torch.zeros(runs, 1, dtype=torch.int64))
    root, draw = plug_and_play.root_at(gaussian, 0.1, trust=1.0), torch.Generator().manual_seed(0)
    guess = torch.full((runs, 1, *SHAPE), 0.5)
    found = plug_and_play.Correction(message, guess, root, 1.0, draw).solve(40).flatten(1)
    factor = root(torch.eye(3 * 8 * 8).view(-1, 1, *SHAPE)).flatten(1).T
    seen = message.matrix @ factor / message.std
    covariance = factor @ torch.linalg.inv(seen.T @ seen + torch.eye(len(factor))) @ factor.T
    assert found.var(0).sum() == pytest.approx(covariance.trace().item(), rel=0.05)
    sums = message.matrix @ covariance @ message.matrix.T  # where the message decides
    assert (found @ message.matrix.T).var(0).sum() == pytest.approx(sums.trace().item(), rel=0.05)


@pytest.fixture
def untrained(cache):
    """A file for the photos, of a net that is no more than its Gaussian."""
    trained.keep(training.Training(CROPS, settings.of_data(None)), settings.of_data(None).file())


@pytest.mark.parametrize("name", ["none", "pruning 90 %, random", "DP, Laplacian smoothing", "TIP 0.3 with floor"])
def test_the_flow_meets_every_kind_of_defense(untrained, name):
    scene = scenes.one_image()
    release = cases()[EQUAL][name].defense(scene.model, *scene.scored[0], 1)
    attack = flow.by_name()["flow, plug-and-play"]
    found = attack.rebuild(scene, [release], [(1.0,)], Search(iterations=1))
    assert found.images.shape == (1, 1, 3, 32, 32)
    message = Likelihood(scene.model, [release])
    gray, own = (
        message.residuals(images).square().sum().item() / 2
        for images in (torch.full((1, 1, 3, 32, 32), 0.5), scene.scored[0].images[None])
    )
    assert found.losses.item() - own < 0.7 * (gray - own)


def test_images_of_one_class_in_a_batch_are_not_averaged(untrained):
    scene = scenes.four_images()
    chosen = settings.of_data(None)
    denoiser, spread = Denoiser.trained(chosen), weights.load(chosen).gaussian
    for labels, averaged in (([0, 3, 5, 8], True), ([0, 3, 3, 8], False)):
        classes = torch.tensor(labels)
        release = defenses.none(scene.model, scene.scored[0].images, classes, 1)._replace(labels=classes)
        plan = Plan(count=1, solver=1)
        found = plug_and_play.invert_by_flow(
            scene.model, [release], denoiser=denoiser, spread=spread, plan=plan, runs=2, batch_size=4
        )
        assert torch.equal(found.images, found.tries.mean(1)) == averaged


@pytest.mark.parametrize(("iterations", "restarts"), [(160, 2), (1000, 2), (4000, 1)])
def test_work_is_that_of_the_other_searches(iterations, restarts):
    count, runs = flow.divided(Search(iterations=iterations, restarts=restarts))
    assert 0.5 < count * runs * flow.WORK / (iterations * restarts) <= 1


def test_samples_know_their_class(cache, quickly):
    """On images that differ by class the class-conditional prior alone is closer with the class than with the other."""
    images = two_classes()
    one = training.Training(images, quickly)
    for _ in range(100):
        one.step()
    trained.keep(one, one.settings.file())
    denoiser = Denoiser.trained(one.settings)
    some = images[:8].images.float() / 255
    known = worth.alone(denoiser, some, images.labels[:8], samples=4, steps=10)
    wrong = worth.alone(denoiser, some, 1 - images.labels[:8], samples=4, steps=10)
    assert known.mean > wrong.mean + 3  # dB
    assert known.closest >= known.typical


def test_denoising_is_measured_at_every_level():
    images = gaussian_images(120).clamp(0, 1)
    found = worth.denoising({"none": lambda noisy, std, labels: noisy}, images, torch.zeros(120, dtype=torch.int64))
    # Without denoising the PSNR is that of the noise, a little better where pixels are cut to [0, 1].
    for std, psnr in zip(worth.NOISE, found["none"], strict=True):
        assert -20 * torch.tensor(std).log10() - 0.1 < psnr < -20 * torch.tensor(std).log10() + 3
    assert worth.table(found).count("dB") == len(worth.NOISE)


def test_train_and_judge_on_the_photos(cache, monkeypatch, capsys):
    monkeypatch.setattr(data, "photo_crops", lambda count: CROPS)
    monkeypatch.setattr(prior, "Wiener", lambda images: as_denoiser(SpectralGaussian(3, 32)))  # a covariance takes long
    entry.main(["train-prior", "--width", "4", "--minutes", "0.001", "--threads", "1"])
    assert " steps, 0 minutes, loss " in capsys.readouterr().out
    entry.main(["prior", "--width", "4", "--clients", "2", "--samples", "2"])
    out = capsys.readouterr().out
    assert "| Wiener | " in out
    assert "2 images, 2 samples a class, no message; median PSNR" in out


CROPS = data.photo_crops(40)
