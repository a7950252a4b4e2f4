"""The audit against independent computations: Gaussian algebra, Monte Carlo of the op's own noise, Jacobians."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from tip_kernels import TIP, NoiseRNG, PrivacyBudget, spectrum
from tip_kernels._audit.channels import Channels
from tip_kernels._audit.iterative import conjugate_gradients
from tip_kernels.audit import ImagePrior, Row, audit

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

SHAPE = (1, 5, 5)
TARGETS = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(5))


def linear_loss(outputs, _labels):
    """Of which the gradient by the kernels is linear in the images."""
    return (outputs * TARGETS.to(outputs)).sum()


def linear_net() -> nn.Conv2d:
    return nn.Conv2d(1, 2, 3, bias=False)


def linear_map() -> torch.Tensor:
    """From images to gradients of the linear net, float64 [18, 25]."""
    model = linear_net().double()
    columns = []
    for image in torch.eye(25, dtype=torch.float64).view(25, 1, *SHAPE):
        (grad,) = torch.autograd.grad(linear_loss(model(image), None), model.weight)
        columns.append(grad.flatten())
    return torch.stack(columns, dim=1)


def covariance(prior: ImagePrior) -> torch.Tensor:
    factor = prior.spread(torch.eye(prior.latents, dtype=torch.float64)).flatten(1)
    return factor.T @ factor


def batch(count: int, shape=SHAPE, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=generator), torch.arange(count) % 3


def small_net() -> nn.Sequential:
    """A 3x3 conv, a batch norm that trains, a transposed and a 1x1 conv, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 1, bias=False), nn.Flatten(), nn.Linear(50, 3),
    )  # fmt: skip


SMALL = (2, 6, 6)
cross_entropy = nn.functional.cross_entropy


def psnr_of(covariance: torch.Tensor) -> float:
    return -10 * math.log10(covariance.trace().item() / len(covariance))


def test_ceiling_is_the_error_of_the_best_estimate():
    """Monte Carlo over images of the prior and noise that TIP itself adds: the mean squared error of E[x | message]."""
    prior, model, draws = ImagePrior.natural(SHAPE), linear_net(), 1500
    defense = TIP(model, ratio=0.5, std=2.0, floor_std=0.3, scores="public", rng=NoiseRNG.from_seed(3))
    defense.set_scores({"weight": torch.tensor([0.0, 1.0])})
    found = audit(model, linear_loss, *batch(1), defense, prior=prior)

    basis, d = spectrum.real_basis((3, 3), spectrum.radial_mask((3, 3), 0.5))
    stds = torch.full((2, 9), 0.3, dtype=torch.float64)
    stds[1, :d] = 2.0
    to_white = torch.block_diag(*(basis.T / std[:, None] for std in stds))
    sensitivity = to_white @ linear_map()
    s = covariance(prior)
    gain = s @ sensitivity.T @ torch.linalg.inv(sensitivity @ s @ sensitivity.T + torch.eye(18))

    latents = torch.randn(draws, prior.latents, dtype=torch.float64)
    images = prior.spread(latents).flatten(1)  # around the mean, which the linear map takes along
    messages = []
    for gradient in (images @ linear_map().T).float():
        model.weight.grad = gradient.view_as(model.weight).clone()
        defense.perturb_gradients()
        messages.append(model.weight.grad.flatten().double())
    guesses = torch.stack(messages) @ to_white.T @ gain.T
    squares = (guesses - images).square().mean(1)
    ceiling = 10 ** (-found.psnr.item() / 10)
    assert abs(squares.mean().item() - ceiling) < 3.5 * squares.std().item() / math.sqrt(draws)
    assert squares.std().item() / math.sqrt(draws) < 0.02 * ceiling  # so that 7 % would be seen
    assert found.psnr_error.item() == 0
    assert found.psnr.item() > found.prior_psnr + 1


def test_best_guess_is_what_the_ceiling_stands_for():
    """Over images of the prior, each with a message of its own."""
    prior, count = ImagePrior.natural(SHAPE, std=0.05), 100
    images = prior.mean + prior.spread(torch.randn(count, prior.latents, dtype=torch.float64))
    images = images[(images.flatten(1) >= 0).all(1) & (images.flatten(1) <= 1).all(1)].float()
    found = audit(linear_net(), linear_loss, images, torch.zeros(len(images)), 0.2, prior=prior)
    squares = (found.guess - images).square().flatten(1).mean(1)
    assert found.psnr.std() < 1e-4
    ceiling = 10 ** (-found.psnr[0].item() / 10)
    assert abs(squares.mean().item() - ceiling) < 3.5 * squares.std().item() / math.sqrt(len(images))
    torch.testing.assert_close(found.uncertainty.square().flatten(1).mean(1)[0].item(), ceiling)


def test_images_of_one_message_hide_each_other():
    """In a linear net the message is of their sum: P of one of them, by Gaussian algebra."""
    prior, g = ImagePrior.natural(SHAPE), linear_map()
    s = covariance(prior)
    images, labels = batch(4)
    found = audit(linear_net(), linear_loss, images, labels, 0.5, prior=prior, per_message=2)
    left = s - s @ g.T @ torch.linalg.inv(2 * g @ s @ g.T + 0.25 * torch.eye(18)) @ g @ s
    assert found.psnr.tolist() == pytest.approx([psnr_of(left)] * 4, abs=1e-3)
    alone = audit(linear_net(), linear_loss, images, labels, 0.5, prior=prior)
    assert (alone.psnr > found.psnr).all()


def trace_of_fisher(model, images, labels, std) -> float:
    """By torch's own Jacobian of the gradient, float64."""
    model = copy.deepcopy(model).double()

    def gradient(images):
        loss = cross_entropy(model(images), labels)
        grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return torch.cat([grad.flatten() for grad in grads])

    jacobian = torch.autograd.functional.jacobian(gradient, images.double())
    return jacobian.square().sum().item() / std**2


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_leak_of_all_rows_is_the_trace_of_fisher(method):
    model = small_net()
    images, labels = batch(2, SMALL)
    expected = trace_of_fisher(model, images, labels, 0.1)
    found = audit(model, cross_entropy, images, labels, 0.1, per_message=2, method=method)
    total = sum(row.leak for row in found.leak)
    if method == "exact":
        assert total == pytest.approx(expected, rel=1e-4)
        assert all(row.leak_error == 0 for row in found.leak)
    else:
        assert abs(total - expected) < 4 * sum(row.leak_error for row in found.leak)
    assert sum(row.count for row in found.leak) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("per_message", [1, 2])
def test_what_a_band_reveals_is_what_noise_there_would_hide(per_message, method):
    """By the difference of two audits: the error's growth with the logarithm of the variance of all floors, and std."""
    model, prior = small_net().eval(), ImagePrior.natural(SMALL)
    images, labels = batch(2, SMALL)

    def audited(std, floor_std, method="exact"):
        defense = TIP(model, ratio=0.5, std=std, floor_std=floor_std, scores="public", max_grad_norm=1.0)
        defense.measure(*batch(2, SMALL, seed=2))
        asked = {"prior": prior, "per_message": per_message, "method": method, "probes": 256}
        return audit(model, cross_entropy, images, labels, defense, **asked)

    def error(std, floor_std) -> float:  # summed over the images, of messages on average
        return (10 ** (-audited(std, floor_std).psnr / 10)).sum().item() * per_message / len(images)

    found, step = audited(0.05, 0.02, method).leak, 1.01
    for std, louder, quieter in (
        (0.02, (0.05, 0.02 * step), (0.05, 0.02 / step)),
        (0.05, (0.05 * step, 0.02), (0.05 / step, 0.02)),
    ):
        rows = [row for row in found if row.std == pytest.approx(std)]
        expected = (error(*louder) - error(*quieter)) / (4 * math.log(step))
        margin = 4 * sum(row.reveals_error for row in rows)
        assert abs(sum(row.reveals for row in rows) - expected) < margin + 1e-3 * expected
        assert margin < expected  # so that the comparison says something
    assert expected > 0


def test_gain_of_a_shape_is_that_of_cauchy_and_schwarz():
    """By two bands of 1 and 3 coefficients: harms 4 and 1, hidden by a unit of noise 1 and 9."""
    rows = [
        Row("a", "all", None, 0.5, 1.0, 1.0, 0.0, 1.0 / 0.25, 0.0, 4.0),
        Row("b", "all", None, 0.5, 3.0, 1.0, 0.0, 3 * 9.0 / 0.25, 0.0, 1.0),
        Row("c", "all", None, math.inf, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    ]
    found = audit(linear_net(), linear_loss, *batch(1), 0.2)
    gain = dataclasses.replace(found, leak=rows).shape_gain()
    assert gain == pytest.approx((4 + 3) * (1 + 27) / (2 + 3 * 3) ** 2)
    assert dataclasses.replace(found, leak=rows[2:]).shape_gain() == 1.0


def test_harm_is_the_mean_squared_gradient():
    model = small_net().eval()
    images, labels = batch(1, SMALL)
    found = audit(model, cross_entropy, images, labels, 0.1, max_grad_norm=1e-3)
    cross_entropy(model(images), labels).backward()
    for name, parameter in model.named_parameters():
        rows = [row for row in found.leak if row.parameter == name]
        total = sum(row.harm * row.count for row in rows)
        assert total == pytest.approx(parameter.grad.square().sum().item(), rel=1e-4)
    means = model[0].weight.grad.mean((2, 3))  # the coefficient of a kernel's mean is three times it
    low = next(row for row in found.leak if row.parameter == "0.weight" and row.radius == 0)
    assert low.harm == pytest.approx((3 * means).square().mean().item(), rel=1e-4)


def test_iterations_agree_with_matrices():
    model = small_net()
    images, labels = batch(4, SMALL)
    options = {"max_grad_norm": 1.0, "per_message": 2, "seed": 7}
    exact = audit(model, cross_entropy, images[:2], labels[:2], 0.02, method="exact", **options)
    found = audit(model, cross_entropy, images[:2], labels[:2], 0.02, method="iterative", probes=64, **options)
    assert ((found.psnr - exact.psnr).abs() < 4 * found.psnr_error).all()
    assert (found.psnr_error < 0.3).all()
    assert (found.guess - exact.guess).square().mean() < 0.02 * exact.uncertainty.square().mean()
    ratio = found.uncertainty.square().mean() / exact.uncertainty.square().mean()
    assert ratio.item() == pytest.approx(1, abs=0.1)


def test_what_iterations_leave_is_bounded():
    """b' z_k grows to b' M^-1 b, and misses no more than the residual's square."""
    root = torch.randn(30, 30, dtype=torch.float64)
    matrix = torch.eye(30, dtype=torch.float64) + root @ root.T
    right = torch.randn(3, 1, 30, dtype=torch.float64)
    true = torch.linalg.solve(matrix, right[:, 0].T).T
    target = (right[:, 0] * true).sum(1)
    shares = []
    for most in (3, 10, 200):
        found, rest = conjugate_gradients(lambda z: z @ matrix, right, 1e-12, most, shares.append)
        missing = target - (right * found).flatten(1).sum(1)
        assert (missing > -1e-6).all()
        assert (missing <= rest + 1e-6).all()
    torch.testing.assert_close(found[:, 0], true, rtol=1e-4, atol=1e-5)
    assert 0 < max(shares) <= 1
    same, _ = conjugate_gradients(lambda z: z @ matrix, torch.zeros(1, 1, 30), 1e-3, 9, shares.append)
    assert not same.any()


def test_floor_as_loud_as_std_is_plain_noise():
    model = small_net()
    images, labels = batch(2, SMALL)
    defense = TIP(model, ratio=0.5, std=0.05, floor_std=0.05, max_grad_norm=0.7)
    tip = audit(model, cross_entropy, images, labels, defense, per_message=2)
    plain = audit(model, cross_entropy, images, labels, 0.05, max_grad_norm=0.7, per_message=2)
    torch.testing.assert_close(tip.psnr, plain.psnr, rtol=0, atol=1e-3)
    torch.testing.assert_close(tip.uncertainty, plain.uncertainty, rtol=1e-3, atol=1e-5)
    assert {row.channels for row in tip.leak} == {"all", "selected", "others"}
    assert {row.channels for row in plain.leak} == {"all"}


def test_more_noise_and_less_left_lower_the_ceiling():
    model = small_net()
    images, labels = batch(2, SMALL)

    def ceiling(**settings):
        defense = TIP(model, ratio=0.5, floor_std=0.01, **settings)
        return audit(model, cross_entropy, images, labels, defense, per_message=2).psnr

    loud, replaced, replaced_quietly = ceiling(std=1e6), ceiling(std=0.1, keep=0.0), ceiling(std=0.0, keep=0.0)
    torch.testing.assert_close(loud, replaced, rtol=0, atol=1e-3)
    assert torch.equal(replaced, replaced_quietly)
    torch.testing.assert_close(ceiling(std=0.1, keep=0.5), ceiling(std=0.2), rtol=0, atol=1e-6)
    assert (ceiling(std=0.01) > ceiling(std=0.1) + 0.01).all()
    assert (ceiling(std=0.1) > replaced + 0.01).all()


def test_nothing_left_has_no_leak():
    defense = TIP(model := linear_net(), ratio=1.0, cutoff=0.0, std=0.1, keep=0.0, floor_std=0.1)
    rows = audit(model, linear_loss, *batch(1), defense).leak
    assert {row.radius: row.leak for row in rows if math.isinf(row.std)}.keys() == {0.707107, 1.0}
    assert all((row.leak == 0) == math.isinf(row.std) for row in rows)


def test_infinite_noise_leaves_the_prior():
    found = audit(small_net(), cross_entropy, *batch(2, SMALL), 1e12, per_message=2)
    assert found.psnr.tolist() == pytest.approx([found.prior_psnr] * 2, abs=1e-6)
    torch.testing.assert_close(found.guess, torch.full_like(found.guess, 0.5))


def test_without_noise_everything_is_seen():
    """To the thousandth for which exact coefficients count: 18 numbers tell 18 of 25 directions of the image."""
    prior, g = ImagePrior.natural(SHAPE), linear_map()
    images, labels = batch(1)
    found = audit(linear_net(), linear_loss, images, labels, 0.0, prior=prior)
    std = 1e-3 * (g @ images.double().flatten()).square().mean().sqrt().item()
    assert found.exact_std == pytest.approx(std, rel=1e-4)
    s = covariance(prior)
    left = s - s @ g.T @ torch.linalg.inv(g @ s @ g.T + std**2 * torch.eye(18)) @ g @ s
    assert found.psnr.item() == pytest.approx(psnr_of(left), abs=1e-2)
    assert {row.std for row in found.leak} == {0.0}


def test_direction_of_a_clipped_gradient_drops_out():
    """The gradient of a 1x1 conv by one pixel is the pixel times a vector: clipped, it tells nothing."""

    def loss(outputs, _labels):
        return (outputs * torch.tensor([3.0, 4.0]).view(2, 1, 1)).sum()

    model = nn.Conv2d(1, 2, 1, bias=False)
    image, labels, prior = torch.full((1, 1, 1, 1), 0.6), torch.zeros(1), ImagePrior.natural((1, 1, 1))
    clipped = audit(model, loss, image, labels, 0.5, prior=prior, max_grad_norm=1.0)
    assert clipped.psnr.item() == pytest.approx(clipped.prior_psnr, abs=1e-3)
    whole = audit(model, loss, image, labels, 0.5, prior=prior, max_grad_norm=10.0)
    assert whole.psnr.item() == pytest.approx(10 * math.log10(1 / 0.25**2 + 25 / 0.5**2), abs=1e-3)


def test_channels_are_those_that_the_defense_would_select():
    model = small_net()
    images, labels = batch(2, SMALL)
    defense = TIP(model, ratio=0.5, std=0.1)
    expected = Channels(defense, cross_entropy).selected(images, labels)
    cross_entropy(model(images), labels).backward()
    known = Channels(defense, cross_entropy).selected(*batch(2, SMALL, seed=9))  # by the scores that it has
    defense.perturb_gradients()
    selected = defense.selected()
    assert selected["0.weight"].sum() == 2
    assert selected.keys() == expected.keys() == known.keys()
    for name, channels in selected.items():
        assert torch.equal(channels, expected[name])
        assert torch.equal(channels, known[name])


class Twice(nn.Module):
    """One layer under two names, and a parameter of one layer in another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.same, self.other = self.layer, nn.Conv2d(2, 2, 3, padding=1)
        self.other.weight = self.layer.weight
        self.head = nn.Linear(50, 3)

    def forward(self, images):
        return self.head(self.same(self.other(self.layer(self.first(images).tanh()).tanh())).flatten(1))


@pytest.mark.parametrize("update", [{}, {"lr": 0.5, "steps": 3}])
def test_a_layer_under_two_names_stays_as_it_is(update):
    model = Twice().double()
    parameters, values = dict(model.named_parameters()), copy.deepcopy(model.state_dict())
    images, labels = batch(1)
    images, labels = images.double().repeat(2, 1, 1, 1), labels.repeat(2)
    found = [audit(model, cross_entropy, images, labels, 0.02, **update).psnr for _ in range(2)]
    assert found[0][0] == pytest.approx(found[0][1].item(), abs=1e-9)  # two messages of one image
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-9)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())


def test_a_model_that_casts_its_images():
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3)).double()

        def forward(self, images):
            return self.net(images.double())

    model, (images, labels) = Casts(), batch(1)
    found = audit(model, cross_entropy, images, labels, 0.1)
    expected = audit(model.net, cross_entropy, images.double(), labels, 0.1)
    torch.testing.assert_close(found.psnr, expected.psnr, rtol=0, atol=1e-4)


def test_noise_too_small_to_divide_by_is_refused():
    with pytest.raises(ValueError, match="expected noise by which float32 can divide, got a std of 1e-44"):
        audit(linear_net(), linear_loss, *batch(1), 1e-44)


def test_public_scores_must_be_measured_first():
    model = small_net()
    defense = TIP(model, ratio=0.5, std=0.1, scores="public")
    with pytest.raises(RuntimeError, match="expected measure"):
        audit(model, cross_entropy, *batch(2, SMALL), defense, per_message=2)
    defense.measure(*batch(3, SMALL, seed=8))
    found = audit(model, cross_entropy, *batch(4, SMALL), defense, per_message=2)
    assert (
        len({(row.parameter, row.channels) for row in found.leak}) == 11
    )  # two for each 3x3 layer: the same ones each time


def test_everything_stays_as_it_was():
    model = small_net()
    model.append(nn.Dropout(0.3))
    model[0].bias.requires_grad_(False)
    defense = TIP(
        model, ratio=0.5, std=0.1, floor_std=0.1, max_grad_norm=1.0, scores="public", buffers="withhold",
        budget=PrivacyBudget(100.0, 1e-5),
    )  # fmt: skip
    images, labels = batch(2, SMALL)
    images.requires_grad_()
    model[4].weight.grad = torch.ones_like(model[4].weight)
    defense.measure(images.detach(), labels)
    before = {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "objects": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "scores": defense.scores(), "defense": str(defense.state_dict()),
        "random": torch.get_rng_state(), "grads": [parameter.grad for parameter in model.parameters()],
    }  # fmt: skip
    found = audit(model, cross_entropy, images, labels, defense, per_message=2)
    assert not any(tensor.requires_grad for tensor in (found.psnr, found.uncertainty, found.guess))
    assert "0.bias" not in {row.parameter for row in found.leak}
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before["state"].items())
    assert before["objects"] == [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    assert before["hooks"] == [len(module._forward_hooks) for module in model.modules()]
    assert before["modes"] == [module.training for module in model.modules()]
    assert all(torch.equal(score, defense.scores()[name]) for name, score in before["scores"].items())
    assert before["defense"] == str(defense.state_dict())
    assert torch.equal(before["random"], torch.get_rng_state())
    assert all(a is b.grad for a, b in zip(before["grads"], model.parameters(), strict=True))
    assert images.grad is None
    again = audit(model, cross_entropy, images, labels, defense, per_message=2)  # dropout draws the same
    assert torch.equal(found.psnr, again.psnr)
    assert torch.equal(found.guess, again.guess)


def test_a_failure_changes_nothing_either():
    model = small_net()
    with pytest.raises(ValueError, match=r"expected loss\(outputs, labels\) to be one number, got shape \(2, 3\)"):
        audit(model, lambda outputs, _: outputs, *batch(2, SMALL), 0.1, per_message=2)
    assert model[1].running_mean is not None
    assert int(model[1].num_batches_tracked) == 0
    nn.init.constant_(model[8].bias, math.nan)
    with pytest.raises(ValueError, match=r"expected finite gradients.*\(0.weight\)"):
        audit(model, cross_entropy, *batch(2, SMALL), 0.1, per_message=2)


def test_a_model_without_convs():
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3), nn.Tanh(), nn.Linear(3, 3))
    found = audit(model, cross_entropy, *batch(2), 0.1)
    assert [row.parameter for row in found.leak] == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert all(row.radius is None for row in found.leak)


def test_progress_and_printed_table():
    shares = []
    found = audit(small_net(), cross_entropy, *batch(4, SMALL), 0.1, per_message=2, chunk=50, progress=shares.append)
    assert shares == sorted(shares)
    assert len(shares) >= 6
    assert shares[-1] == 1
    lines = str(found).splitlines()
    assert lines[0].startswith(f"ceiling {found.psnr.mean():.1f} dB")
    assert len(lines) == 3 + len(found.leak)
    assert lines[-1].endswith(f"would cost {found.shape_gain():.2f} times less")


WRONG = [
    ({"images": torch.ones(2, 1, 5, 5, dtype=torch.int64)}, TypeError, "expected images to be a floating tensor"),
    ({"images": torch.rand(2, 5, 5)}, ValueError, r"expected images of shape \[N, channels"),
    ({"images": torch.randn(2, 1, 5, 5)}, ValueError, r"expected images in \[0, 1\]"),
    ({"labels": torch.zeros(3)}, ValueError, "expected labels to be a tensor with 2 in axis 0"),
    ({"per_message": 3}, ValueError, "expected per_message to divide the number of images, 2, got 3"),
    ({"defense": -0.1}, ValueError, "expected defense, the std of plain noise, to be finite"),
    ({"defense": "tip"}, TypeError, "expected defense, the std of plain noise, to be a number"),
    ({"max_grad_norm": 0.0}, ValueError, "expected max_grad_norm"),
    ({"prior": 3}, TypeError, "expected prior to be an ImagePrior"),
    ({"prior": ImagePrior.natural((3, 5, 5))}, ValueError, r"expected a prior for images of shape \(1, 5, 5\)"),
    ({"method": "fast"}, ValueError, "expected method"),
    ({"probes": 1}, ValueError, "expected probes to be an integer of at least 2, got 1"),
    ({"model": "net"}, TypeError, "expected model to be a torch.nn.Module"),
    ({"model": nn.Flatten()}, ValueError, "expected a model with parameters that are trained"),
]


def test_tip_of_another_model():
    with pytest.raises(ValueError, match="expected a TIP of this model"):
        audit(linear_net(), cross_entropy, *batch(2, SMALL), TIP(linear_net(), std=0.1))


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[name for change, *_ in WRONG for name in change])
def test_wrong_arguments(change, error, message):
    images, labels = batch(2)
    arguments = {"model": linear_net(), "loss": linear_loss, "images": images, "labels": labels, "defense": 0.1}
    with pytest.raises(error, match=message):
        audit(**{**arguments, **change})


def test_clipping_is_the_defense_s_own():
    model = linear_net()
    with pytest.raises(ValueError, match="expected max_grad_norm to be left to the TIP"):
        audit(model, linear_loss, *batch(1), TIP(model, std=0.1), max_grad_norm=1.0)


def test_the_defense_is_of_the_model():
    with pytest.raises(ValueError, match="expected a TIP of this model, got one of another model"):
        audit(linear_net(), linear_loss, *batch(1), TIP(linear_net(), std=0.1))
