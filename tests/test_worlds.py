"""Nets and batches beside the study's first: what attackers compute on them is what autograd and torch's layers do."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy import nets
from bench.privacy.attacker.candidates import Candidates
from bench.privacy.attacker.climbing import ADAM
from bench.privacy.attacker.inversion import Search, invert
from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.matching import Matcher, squared_distance
from bench.privacy.attacker.posterior import invert_posterior
from bench.privacy.attacker.priors import TotalVariation
from bench.privacy.attacker.problem import Problem
from bench.privacy.client import defenses
from bench.privacy.client.gradients import LocalSteps, client_gradient, trained
from bench.privacy.client.statistics import sent_statistics

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend"),
]

NETS = {
    "tanh": partial(nets.small_conv_net, 3, 16, width=4),
    "ReLU": partial(nets.small_conv_net, 3, 16, width=4, activation=nn.ReLU),
    "batch norm": partial(nets.small_conv_net, 3, 16, width=4, activation=nn.ReLU, batch_norm=True),
    "ResNet": partial(nets.small_resnet, 3),
    "ResNet without norms": partial(nets.small_resnet, 3, norm=nn.Identity),
}
WITH_NORMS = ("batch norm", "ResNet")


def client(net: str, batch: int = 4, training: bool = True) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model whose running statistics are not those of its start, its images and their labels."""
    torch.manual_seed(0)
    model = NETS[net]().train()
    with torch.no_grad():
        model(torch.rand(8, 3, 16, 16))
    return model.train(training), torch.rand(batch, 3, 16, 16), torch.arange(batch) % 10


@pytest.mark.parametrize("size", [32, 64])
def test_nets_take_both_sizes(size):
    images = torch.rand(2, 3, size, size)
    for model in (
        nets.small_conv_net(3, size),
        nets.small_conv_net(3, size, activation=nn.ReLU, batch_norm=True),
        nets.small_resnet(3),
    ):
        assert model(images).shape == (2, 10)
    for model in (nets.small_resnet(3), nets.small_resnet(3, norm=nn.Identity)):
        assert 50_000 < sum(p.numel() for p in model.parameters()) < 80_000
        assert {p.shape[2:] for p in model.parameters() if p.dim() == 4} == {(3, 3)}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 16])
def test_gradients_of_candidates_are_those_of_autograd(net, training, batch):
    """Each candidate by its own statistics, whatever is beside it."""
    model, _, labels = client(net, batch, training)
    candidates = torch.rand(3, batch, 3, 16, 16) * torch.tensor([0.1, 1.0, 0.5]).view(3, 1, 1, 1, 1)
    found = Candidates(model).gradients(candidates, labels.expand(3, -1), math.inf)
    for number, images in enumerate(candidates):
        for one, expected in zip(found, client_gradient(model, images, labels), strict=True):
            # Float32 sums of up to 16 x 256 products in another order, and batch norms divide by deviations below 1.
            torch.testing.assert_close(one[number], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_local_steps_of_candidates_are_those_of_the_client(net):
    model, images, labels = client(net)
    release = defenses.local_steps(3, 0.1)(model, images, labels, 0)
    found = Candidates(model, release.local).gradients(images[None], labels[None], release.max_norm)
    for one, sent in zip(found, release.gradient, strict=True):
        torch.testing.assert_close(one[0], sent, rtol=1e-3, atol=2e-5)  # an update's rounding divided by 0.3


DEFENSES = {
    "local steps": defenses.local_steps(2, 0.1),
    "Gaussian": defenses.gaussian(0.02),
    "smoothed": defenses.smoothed_gaussian(0.02),
    "adaptive": defenses.AdaptiveGaussian(0.02),
    "pruning": defenses.pruning(0.9, True),
    "APG": defenses.grad_cam_noise(0.05),
    "TIP": defenses.targeted(0.3, 0.05, floor_std=0.01),
}


@pytest.mark.parametrize("net", WITH_NORMS)
@pytest.mark.parametrize("name", DEFENSES)
def test_client_and_attacker_leave_running_statistics_alone(net, name):
    model, images, labels = client(net)
    before = copy.deepcopy(model.state_dict())
    release = defenses.with_statistics(DEFENSES[name])(model, images, labels, 0)
    Likelihood(model, [release], batch_size=4).residuals(torch.rand(1, 4, 3, 16, 16))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("net", WITH_NORMS)
@pytest.mark.parametrize("local", [None, LocalSteps(3, 0.1)])
def test_statistics_of_candidates_are_those_of_running_statistics(net, local):
    model, images, labels = client(net)
    known = sent_statistics(model, images, labels, local)
    found = Candidates(model, local).sent(images[None], labels[None], math.inf).statistics
    # What running statistics in float32 leave of a batch's, of which they are a tenth at first.
    torch.testing.assert_close(found.mean[0], known.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.variance[0], known.variance, rtol=1e-4, atol=1e-5)


def test_first_statistics_are_of_the_first_convolutions_output():
    model, images, labels = client("batch norm", batch=1)
    known = sent_statistics(model, images, labels)
    output = model[0](images)
    torch.testing.assert_close(known.mean[:4], output.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(known.variance[:4], output.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_statistics_without_a_batch_norm_in_training_are_refused():
    for name, training in (("ReLU", True), ("batch norm", False)):
        with pytest.raises(ValueError, match="expected a batch norm in training mode, got none"):
            sent_statistics(*client(name, training=training))
    model, images, labels = client("batch norm")
    model[1].momentum = None
    with pytest.raises(ValueError, match="expected batch norms with a momentum"):
        sent_statistics(model, images, labels)


@pytest.mark.parametrize("steps", [1, 2])
def test_residuals_of_the_true_images_are_standard_normal_with_statistics(steps):
    model, images, labels = client("batch norm", batch=2)
    defense = defenses.gaussian(0.02) if steps == 1 else defenses.local_steps(steps, 0.1)
    likelihood = Likelihood(model, [defenses.with_statistics(defense)(model, images, labels, 1)], batch_size=2)
    plain = Likelihood(model, [defense(model, images, labels, 1)], batch_size=2)
    residuals = likelihood.residuals(images[None])[0]
    more = residuals[plain.std.shape[1] :]
    assert len(more) == 2 * 8  # mean and variance of the channels of two layers
    assert more.abs().max() < 1  # float32, by a floor far above it
    torch.testing.assert_close(residuals[: plain.std.shape[1]], plain.residuals(images[None])[0])
    assert likelihood.residuals(0.9 * images[None])[0, -16:].abs().max() > 5


def test_statistics_tell_of_images_under_loud_noise():
    """Noise drowns the gradient: with the statistics alone the colors of the image are found."""
    model, _, _ = client("batch norm", batch=1)
    image = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1) + 0.05 * torch.rand(1, 3, 16, 16)
    errors = []
    for defense in (defenses.gaussian(1.0), defenses.with_statistics(defenses.gaussian(1.0))):
        release = defense(model, image, torch.tensor([3]), 0)
        search = Search(iterations=200, lr=0.05)
        prior = TotalVariation(10.0, (3, 16, 16))
        found = invert_posterior(model, [release], prior=prior, method=ADAM, search=search).images[0]
        errors.append((found.mean((2, 3)) - image.mean((2, 3))).abs().max().item())
    assert errors[1] < 0.1 < errors[0]


@pytest.mark.parametrize("net", WITH_NORMS)
def test_matching_by_distance_takes_batch_norms_in_training(net):
    model, images, labels = client(net)
    problem = Problem(client_gradient(model, images, labels), labels)
    matcher = Matcher(model, [problem], 2, None)
    candidates = torch.stack([images, torch.rand_like(images)])
    losses = matcher.distance(squared_distance, candidates, labels.expand(2, -1))
    assert losses[0] < 1e-6 < 1e-2 < losses[1]
    found = invert(model, [problem], (3, 16, 16), search=Search(iterations=2, restarts=2))
    assert found.losses.isfinite().all()


def test_local_training_moves_a_copy():
    model, images, labels = client("batch norm")
    after = trained(model, images, labels, LocalSteps(1, 0.5))
    slope = client_gradient(model, images, labels)
    for old, new, g in zip(model.parameters(), after.parameters(), slope, strict=True):
        torch.testing.assert_close(new, old - 0.5 * g)
    assert not after[1].running_mean.equal(model[1].running_mean)
