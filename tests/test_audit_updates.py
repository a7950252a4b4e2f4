"""Audits of updates after several steps of SGD, against torch's own optimizer and finite differences."""

import copy
import math

import pytest
import torch
from torch import nn

from tip_kernels import TIP, NoiseRNG
from tip_kernels._audit.channels import Channels, LocalSteps
from tip_kernels.audit import ImagePrior, audit

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

SHAPE = (1, 5, 5)
cross_entropy = nn.functional.cross_entropy


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 3))


def with_statistics() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, *SHAPE, dtype=torch.float64), torch.arange(count) % 3


def update_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, lr: float, steps: int) -> torch.Tensor:
    """New minus old parameters by torch's optimizer, in one vector."""
    client = copy.deepcopy(model)
    optimizer = torch.optim.SGD(client.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(client(images), labels).backward()
        optimizer.step()
    pairs = zip(client.parameters(), model.parameters(), strict=True)
    return torch.cat([(new - old).detach().flatten() for new, old in pairs])


def jacobian(function, images: torch.Tensor, step: float = 1e-4) -> torch.Tensor:
    """By central differences, [message, values of all images]."""
    columns = []
    for direction in torch.eye(images.numel(), dtype=torch.float64).view(-1, *images.shape):
        columns.append((function(images + step * direction) - function(images - step * direction)) / (2 * step))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("make", [net, with_statistics])
@pytest.mark.parametrize("clips", [False, True])
def test_ceilings_are_those_of_what_the_optimizer_makes(make, clips):
    model, (images, labels), lr, steps, std = make().double(), batch(2), 0.5, 3, 0.02
    norm = update_of(model, images, labels, lr, steps).norm().item()
    bound = 0.5 * norm if clips else None

    def message(images: torch.Tensor) -> torch.Tensor:
        update = update_of(model, images, labels, lr, steps)
        return update * bound / update.norm() if clips else update

    found = audit(model, cross_entropy, images, labels, std, max_grad_norm=bound, per_message=2, lr=lr, steps=steps)
    prior = ImagePrior.natural(SHAPE)
    factor = torch.block_diag(*[prior.spread(torch.eye(25, dtype=torch.float64)).flatten(1).T] * 2)
    covariance = factor @ factor.T
    fisher = jacobian(message, images).T @ jacobian(message, images) / std**2
    left = torch.linalg.inv(fisher + torch.linalg.inv(covariance)).diagonal().view(2, -1).mean(1)
    torch.testing.assert_close(found.psnr, -10 * left.log10(), rtol=0, atol=1e-3)
    assert found.psnr.min() > found.prior_psnr + 0.5  # so that the message matters
    gradients = audit(model, cross_entropy, images, labels, std / lr, per_message=2)
    assert (gradients.psnr - found.psnr).abs().max() > 0.02  # three steps tell something else than one


def test_one_step_tells_what_a_gradient_does():
    model, (images, labels), lr = net(), batch(3), 0.01
    images = images.float()
    gradients = audit(model, cross_entropy, images, labels, 0.05, max_grad_norm=0.5)
    updates = audit(model, cross_entropy, images, labels, 0.05 * lr, max_grad_norm=0.5 * lr, lr=lr)
    torch.testing.assert_close(updates.psnr, gradients.psnr, rtol=0, atol=1e-2)
    assert (updates.guess - gradients.guess).abs().max() > 1e-3  # an update goes down, and the noise is the same


def test_channels_are_those_that_are_selected_after_the_steps():
    model, (images, labels) = net().double(), batch(2)
    defense = TIP(model, ratio=0.5, std=0.1, max_grad_norm=1.0, rng=NoiseRNG.from_seed(0))
    expected = Channels(defense, cross_entropy, LocalSteps(4, 0.7)).selected(images, labels)
    received = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.7)
    for _ in range(4):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    defense.perturb_update({name: p.detach() - received[name] for name, p in model.named_parameters()})
    assert {name: channels.tolist() for name, channels in defense.selected().items()} == {
        name: channels.tolist() for name, channels in expected.items()
    }


def test_under_a_tip_and_by_both_methods():
    model, (images, labels) = net(), batch(2)
    images = images.float()
    defense = TIP(model, ratio=0.5, std=0.2, floor_std=0.1, max_grad_norm=0.5)
    before = copy.deepcopy(model.state_dict())
    asked = {"per_message": 2, "lr": 0.5, "steps": 3}
    exact = audit(model, cross_entropy, images, labels, defense, **asked)
    other = audit(model, cross_entropy, images, labels, defense, **asked, method="iterative", probes=200)
    assert ((exact.psnr - other.psnr).abs() < 4 * other.psnr_error + 0.01).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_statistics_that_are_sent_are_refused():
    model, (images, labels) = with_statistics().double(), batch(2)
    sends = TIP(model, ratio=0.5, std=0.2, floor_std=0.1, max_grad_norm=0.5)
    audit(model, cross_entropy, images, labels, sends, per_message=2)  # gradients have none
    with pytest.raises(ValueError, match=r"that sends parameters alone, got one that sends 1\.running_mean too"):
        audit(model, cross_entropy, images, labels, sends, per_message=2, lr=0.1, steps=2)
    sends.close()
    withholds = TIP(model, ratio=0.5, std=0.2, floor_std=0.1, max_grad_norm=0.5, buffers="withhold")
    audit(model, cross_entropy, images, labels, withholds, per_message=2, lr=0.1, steps=2)


def test_buffers_that_do_not_change_are_no_statistics():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((1,), 0.5))
            self.net = with_statistics()
            self.net[1].eval()

        def forward(self, images):
            return self.net(images - self.mean)

    model, (images, labels) = Scaled(), batch(2)
    defense = TIP(model, ratio=0.5, std=0.2, floor_std=0.1, max_grad_norm=0.5)
    found = audit(model, cross_entropy, images.float(), labels, defense, per_message=2, lr=0.1, steps=2)
    assert found.psnr.min() > found.prior_psnr


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"steps": 2}, ValueError, "expected lr beside steps, for the update after 2 steps of SGD, got None"),
        ({"steps": 0, "lr": 0.1}, ValueError, "expected steps to be an integer of at least 1, got 0"),
        ({"steps": True, "lr": 0.1}, ValueError, "expected steps to be an integer of at least 1, got True"),
        ({"steps": 1.5, "lr": 0.1}, ValueError, "expected steps to be an integer of at least 1, got 1.5"),
        ({"lr": 0.0}, ValueError, "expected lr to be above 0, got 0: nothing would be sent"),
        ({"lr": -0.1}, ValueError, "expected lr to be finite and at least 0, got -0.1"),
        ({"lr": math.nan}, ValueError, "expected lr to be finite and at least 0, got nan"),
        ({"lr": "0.1"}, TypeError, "expected lr to be a number, got str"),
        ({"lr": 1e30, "steps": 3}, ValueError, "expected finite updates, got NaN or infinite numbers"),
    ],
)
def test_refuses(options, error, said):
    images, labels = batch(1)
    with pytest.raises(error, match=said):
        audit(net(), cross_entropy, images.float(), labels, 0.1, **options)
