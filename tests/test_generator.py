"""The generator that an attacker searches: its training, its file, and the search in its features."""

import dataclasses

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import torch

from bench.privacy import __main__ as entry
from bench.privacy.attacker import feature_search
from bench.privacy.attacker.feature_search import Latents, Moves, Plan, by_stage, divided, within_l1
from bench.privacy.attacker.inversion import Search
from bench.privacy.client import defenses
from bench.privacy.generator import settings, training, weights
from bench.privacy.generator.network import Decoder, sketched
from bench.privacy.generator.settings import Settings
from bench.privacy.prior.time import standardized
from bench.privacy.study import generator, scenes, with_priors
from bench.privacy.trained import data
from bench.privacy.trained import training as trained
from bench.privacy.trained.weights import read

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Settings(data="photos", size=8, latent=6, width=4, batch=8)
SHAPE = (3, 8, 8)
CROPS = data.photo_crops(40)
SMALL = CROPS._replace(images=torch.nn.functional.avg_pool2d(CROPS.images.float(), 4).byte())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TIP_KERNELS_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def decoder() -> Decoder:
    """Of tiny images, after some steps, so that no block is zero."""
    one = training.Training(SMALL, TINY)
    for _ in range(3):
        one.step()
    return one.net.decoder.eval().requires_grad_(False)


# --- the net


def test_an_untrained_decoder_is_that_of_principal_components():
    points = standardized(SMALL.images.float() / 255)
    flat = points.flatten(1) - points.flatten(1).mean(0)
    _, _, vectors = torch.linalg.svd(flat, full_matrices=False)
    nearest = flat @ vectors[:6].T @ vectors[:6] + points.flatten(1).mean(0)
    decoder = training.Training(SMALL, TINY).net.decoder
    latents = (points - decoder.average).flatten(1) @ torch.linalg.pinv(decoder.components)
    found = standardized(decoder.finish(decoder.start(latents), 0))
    torch.testing.assert_close(found.flatten(1), nearest, atol=1e-4, rtol=0)
    whitened = latents.T @ latents / (len(latents) - 1)
    torch.testing.assert_close(whitened, torch.eye(6), atol=1e-3, rtol=0)  # the latents' density is standard normal


def test_features_of_every_stage_lead_to_one_image(decoder):
    features = decoder.start(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
    image = decoder.finish(features, 0)
    assert image.shape == (2, *SHAPE)
    for number, stage in enumerate(decoder.stages):
        assert features.shape == (2, stage.channels, stage.side, stage.side)
        torch.testing.assert_close(decoder.finish(features, number), image)
        if number < 3:
            features = decoder.advance(features, number)


def test_a_sketch_of_finer_squares_is_the_shuffled_one():
    images = torch.randn(2, *SHAPE)
    assert torch.equal(torch.nn.functional.pixel_shuffle(sketched(images, 8), 2), sketched(images, 4))
    assert torch.equal(sketched(images, 1), images)


# --- training


def test_training_reduces_the_loss(monkeypatch):
    monkeypatch.setattr(trained, "WARM_UP", 5)
    one = training.Training(SMALL, dataclasses.replace(TINY, lr=1e-2, batch=32))
    losses = [one.step() for _ in range(40)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_moves_have_a_bounded_size():
    """A guide that asks for moves of e^100 once made the loss infinite and then all weights NaN."""
    net = training.Training(SMALL, TINY).net
    torch.nn.init.constant_(net.guides[0].conv2.bias, 100.0)
    rebuilt, told = net(standardized(SMALL.images[:4].float() / 255), torch.Generator().manual_seed(0))
    assert rebuilt.isfinite().all()
    assert told.isfinite().all()


def test_a_training_that_diverges_stops_and_leaves_its_weights():
    one = training.Training(SMALL, TINY)
    one.step()
    one.net.detail = 0.0  # an error by it is infinite
    before = {name: tensor.clone() for name, tensor in one.state()["net"].items()}
    with pytest.raises(FloatingPointError, match=r"expected a finite loss, got (nan|inf) in step 2; .* smaller --lr"):
        one.step()
    assert all(tensor.equal(before[name]) for name, tensor in one.state()["net"].items())


def test_what_moves_tell_is_their_divergence_from_the_decoders_own():
    """Against torch's, with guides that are not zero."""
    net = training.Training(SMALL, TINY).net
    for guide in net.guides:
        torch.nn.init.normal_(guide.conv2.weight, std=0.1)
    told, expected, drawn = 0, [], []
    hooks = [guide.register_forward_hook(lambda *hook: drawn.append(hook[2])) for guide in net.guides]
    _, told = net(standardized(SMALL.images[:4].float() / 255), torch.Generator().manual_seed(0))
    for hook in hooks:
        hook.remove()
    for mean, log_std in drawn:
        own = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        both = torch.distributions.kl_divergence(torch.distributions.Normal(mean, log_std.exp()), own)
        expected.append(both.flatten(1).sum(1))
    torch.testing.assert_close(told, sum(expected), rtol=1e-4, atol=1e-3)


def test_a_resumed_training_has_the_weights_of_one_that_was_not_interrupted(cache):
    whole, first = training.Training(SMALL, TINY), training.Training(SMALL, TINY)
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    trained.keep(first, TINY.file())
    second = training.Training(SMALL, TINY)
    second.restore(read(TINY))
    for _ in range(2):
        second.step()
    for name, tensor in whole.averaged.items():
        assert torch.equal(second.averaged[name], tensor), name
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(second.net.state_dict()[name], tensor), name
    assert torch.equal(weights.load(TINY).average, first.averaged["decoder.average"])


def test_weights_that_are_missing_are_refused_with_the_command(cache):
    with pytest.raises(FileNotFoundError, match=r"\n    python -m bench.privacy train-generator --data FOLDER --minu"):
        weights.load(Settings())
    scene = scenes.one_image()
    release = defenses.none(scene.model, *scene.scored[0], 1)
    attack = generator.by_name()["generator, features"]
    with pytest.raises(FileNotFoundError, match=r"train-generator --minutes 20"):
        attack.rebuild(scene, [release], attack.settings, Search(iterations=1))
    assert "train-generator" in with_priors.missing()["generator, features"]


def test_the_command_trains_and_goes_on(cache, monkeypatch, capsys):
    monkeypatch.setattr(data, "photo_crops", lambda count: CROPS)
    for _ in range(2):
        entry.main(["train-generator", "--width", "4", "--latent", "5", "--minutes", "0.001", "--threads", "1"])
    first, second = (line.split(" steps")[0] for line in capsys.readouterr().out.splitlines())
    assert int(first) == int(second) > 0  # the second had no minutes left
    assert settings.of_data(None, width=4, latent=5).file().exists()


# --- the search


def test_the_projection_onto_the_ball_is_the_nearest_point():
    """Against the definition, solved by bisection: sizes less one threshold, so that they sum to the radius."""
    rows = torch.randn(5, 3, 40, generator=torch.Generator().manual_seed(0)).double()
    rows[0] *= 0.01  # within already
    found = within_l1(rows, 3.0)
    low, high = torch.zeros(5, 3, 1).double(), rows.abs().amax(-1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        outside = (rows.abs() - middle).clamp(min=0).sum(-1, keepdim=True) > 3
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    torch.testing.assert_close(found, rows.sign() * (rows.abs() - high).clamp(min=0))
    assert torch.equal(found[0], rows[0])
    assert (found[1:].abs().sum(-1) - 3).abs().max() < 1e-9


class LinearMessage:
    """Random sums of pixels with noise, known for P candidates."""

    def __init__(self, images: torch.Tensor, sums: int, std: float) -> None:
        draw = torch.Generator().manual_seed(3)
        self.matrix = torch.randn(sums, images[0].numel(), generator=draw)
        clean = images.flatten(1) @ self.matrix.T
        self.noise = std
        self.observed = clean + std * torch.randn(clean.shape, generator=draw)
        self.std, self.signal = torch.full_like(clean, std), torch.ones(len(images))

    def residuals(self, images: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        level = torch.as_tensor(level).view(-1, 1)
        return (images.flatten(1) @ self.matrix.T - self.observed) / torch.maximum(self.std, level)


def test_latents_of_a_linear_problem_are_found():
    """An untrained decoder is linear: the highest density in latents is that of ridge regression."""
    decoder = training.Training(SMALL, TINY).net.decoder.eval().requires_grad_(False)
    message = LinearMessage(torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1)), sums=30, std=0.5)
    latents = Latents(decoder)
    basis = torch.cat([torch.zeros(1, 6), torch.eye(6)])[:, None]
    columns = latents.images(basis).flatten(1)
    center, slopes = columns[0], columns[1:] - columns[0]
    seen = message.matrix @ slopes.T / message.noise
    right = seen.T @ ((message.observed - message.matrix @ center) / message.noise).T
    expected = center + torch.linalg.solve(seen.T @ seen + torch.eye(6), right).T @ slopes
    plan = Plan(first=1.0, hot=0.0)
    found = by_stage(message, decoder, torch.zeros(2, 1, 6), plan, Search(iterations=300, lr=0.1), lambda losses: None)
    torch.testing.assert_close(found[0].flatten(1), expected, atol=1e-3, rtol=0)


def test_each_stage_starts_where_the_one_before_ended(decoder, monkeypatch):
    message = LinearMessage(torch.rand(2, 1, *SHAPE), sums=30, std=0.05)
    starts, climb = [], feature_search.climb

    def watched(posterior, z, search, progress):
        starts.append(posterior.prior.images(z))
        return climb(posterior, z, search, progress)

    monkeypatch.setattr(feature_search, "climb", watched)
    found = by_stage(message, decoder, torch.zeros(2, 1, 6), Plan(), Search(iterations=20), lambda losses: None)
    assert len(starts) == len(found) == 5
    for ended, start in zip(found, starts[1:], strict=False):
        torch.testing.assert_close(start, ended)
    fits = [message.residuals(images).square().sum() for images in (starts[0], *found)]
    assert fits == sorted(fits, reverse=True)  # each explains more


def test_moves_keep_within_the_ball_of_each_image(decoder):
    features = decoder.start(torch.zeros(6, 6)).unflatten(0, (3, 2))
    moves = Moves(decoder, 0, features, radius=0.1)
    kept = moves.refine(torch.randn(features.shape), 0.0)
    torch.testing.assert_close(kept.abs().flatten(2).mean(2), torch.full((3, 2), 0.1))


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_the_stages_share_the_steps(steps):
    shares = divided(steps, first=0.4, stages=4)
    assert len(shares) == 5
    assert sum(shares) == steps
    assert min(shares) >= 0


@pytest.fixture
def untrained(cache):
    """A file for the photos, of a decoder of principal components."""
    trained.keep(training.Training(CROPS, settings.of_data(None)), settings.of_data(None).file())


def test_rebuilt_images_are_in_the_order_of_releases_and_settings(untrained):
    scene = scenes.one_image()
    attack = generator.by_name()["generator, features"]
    releases = [defenses.none(scene.model, *batch, 1) for batch in scene.scored[:2]]
    chosen = [(0.1, 0.05), (0.001, 0.01)]
    found = attack.rebuild(scene, releases, chosen, Search(iterations=10, restarts=2))
    assert found.images.shape == (4, 1, 3, 32, 32)
    assert found.tries.shape == (4, 2, 1, 3, 32, 32)
    alone = attack.rebuild(scene, releases[1:], chosen[:1], Search(iterations=10, restarts=2))
    torch.testing.assert_close(found.images[2], alone.images[0], atol=1e-3, rtol=0)
    assert len(attack.settings) <= 6


def test_the_stage_that_fits_best_is_chosen(untrained, monkeypatch):
    """Or by the whole message; neither by the order of the stages."""
    scene = scenes.one_image()
    image = scene.scored[0].images[None]
    release = defenses.gaussian(0.01)(scene.model, *scene.scored[0], 1)
    wrong = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(feature_search, "by_stage", lambda *_: [wrong, image, wrong])
    decoder = weights.load(settings.of_data(None))
    for withheld in (0.0, 0.1):
        plan = Plan(withheld=withheld)
        found = feature_search.invert_by_features(scene.model, [release], decoder=decoder, plan=plan)
        assert torch.equal(found.images, image)
