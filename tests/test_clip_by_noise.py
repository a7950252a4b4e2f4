"""Clipping by the noise: in the norm that is bounded, a coefficient counts the less, the louder its noise."""

import copy
import math
import pickle

import pytest
import torch
from test_spectrum_in_tip import NORM, net, some_stds
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import tip_kernels as tip
from tip_kernels import spectrum as bases
from tip_kernels._audit.channels import Channels
from tip_kernels._audit.coefficients import under_tip
from tip_kernels._audit.message import open_message
from tip_kernels._tip.bands import HighBands

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

BASIS, HIGH = bases.real_basis((3, 3), bases.radial_mask((3, 3), 0.5))


def settings_of(model: nn.Module) -> dict[str, tuple[dict, dict[str, torch.Tensor]]]:
    """Settings with ``clip_by='noise'``, and the least noise of the coefficients of each parameter, by what is left."""
    stds = some_stds(model)
    others, selected = stds["0.weight"].flatten(1)[:, bases.column_bins(BASIS, (3, 3))]
    plain = {name: torch.tensor(NORM * std) for name, std in stds.items() if name != "0.weight"}
    kept = torch.where(torch.arange(9) < HIGH, selected / 0.25, selected)
    floors = {name: 0.3 + 0.1 * number for number, (name, _) in enumerate(model.named_parameters())}
    quiet = {name: torch.tensor(floor) for name, floor in floors.items()}
    quiet["0.weight"] = torch.where(torch.arange(9) < HIGH, 0.1, 0.3)
    spectrum = {"spectrum": tip.Spectrum(stds)}
    return {
        "spectrum": (spectrum, {**plain, "0.weight": NORM * torch.minimum(others, selected)}),
        "kept": ({**spectrum, "keep": 0.25}, {**plain, "0.weight": NORM * torch.minimum(others, kept)}),
        "nobody": ({**spectrum, "ratio": 0.0}, {**plain, "0.weight": NORM * others}),
        "floors": ({"std": 0.1, "floor_std": floors}, quiet),
    }


SETTINGS = ["spectrum", "kept", "nobody", "floors"]


def defended(settings: dict) -> tip.TIP:
    given = {"max_grad_norm": NORM, "scores": "public", "clip_by": "noise", "rng": tip.NoiseRNG.from_seed(1)}
    defense = tip.TIP(net(), **{**given, **settings})
    defense.set_scores({"0.weight": torch.arange(4.0), "2.weight": torch.arange(4.0)})  # the last two are selected
    return defense


def sent(defense: tip.TIP, grads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for name, parameter in defense.model.named_parameters():
        parameter.grad = grads[name].clone()
    defense.perturb_gradients()
    return {name: parameter.grad.double() for name, parameter in defense.model.named_parameters()}


def clipped(settings: dict, grads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a gradient is in a message: what the same noise on zeros does not have; 0.weight in coefficients."""
    silence = {name: torch.zeros_like(grad) for name, grad in grads.items()}
    with_it, without = [sent(defended(settings), given) for given in (grads, silence)]
    found = {name: with_it[name] - without[name] for name in grads}
    found["0.weight"] = found["0.weight"].flatten(2) @ BASIS
    found["0.weight"][2:, :, :HIGH] /= settings.get("keep", 1.0)
    return found


def gradient(length: float) -> dict[str, torch.Tensor]:
    grads = {name: torch.randn_like(parameter) for name, parameter in net().named_parameters()}
    norm = math.sqrt(sum(grad.square().sum().item() for grad in grads.values()))
    return {name: grad * (length / norm) for name, grad in grads.items()}


def length_of(message: dict[str, torch.Tensor], least: dict[str, torch.Tensor] | None = None) -> float:
    """|c|, or in units of the noise |diag(1/s) c|."""
    parts = [values if least is None else values / least[name] for name, values in message.items()]
    return math.sqrt(sum(part.square().sum().item() for part in parts))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_long_gradient_has_one_by_the_multiplier_as_its_length_in_units_of_noise(name):
    """The definition of the noise multiplier, of all coefficients together: no more, and no less."""
    settings, least = settings_of(net())[name]
    multiplier = defended(settings).noise_multiplier()
    assert multiplier * NORM == pytest.approx(min(noise.min().item() for noise in least.values()), rel=1e-4)
    message = clipped(settings, gradient(1e4))
    assert length_of(message, least) * multiplier == pytest.approx(1.0, rel=3e-3)  # the grid of the noise


@pytest.mark.parametrize("name", SETTINGS)
def test_more_is_let_through_than_by_the_norm(name):
    settings, _ = settings_of(net())[name]
    grads = gradient(1e4)
    by_noise, by_norm = clipped(settings, grads), clipped({**settings, "clip_by": "norm"}, grads)
    assert length_of(by_norm) == pytest.approx(NORM, rel=3e-3)
    assert length_of(by_noise) > 1.3 * NORM
    assert defended(settings).noise_multiplier() == defended({**settings, "clip_by": "norm"}).noise_multiplier()


@pytest.mark.parametrize("name", SETTINGS)
def test_short_gradients_are_left_as_they_are(name):
    settings, _ = settings_of(net())[name]
    grads = gradient(NORM / 100)
    message = clipped(settings, grads)
    for parameter in ("0.bias", "2.weight", "4.weight"):
        torch.testing.assert_close(message[parameter], grads[parameter].double(), rtol=0, atol=1e-3)


def test_the_selection_is_not_in_the_factor():
    settings, _ = settings_of(net())["spectrum"]
    grads, messages = gradient(1e4), []
    for scores in (torch.arange(4.0), -torch.arange(4.0)):
        defense = defended(settings)
        defense.set_scores({"0.weight": scores, "2.weight": scores})
        messages.append(sent(defense, grads))
    assert not torch.equal(messages[0]["0.weight"], messages[1]["0.weight"])
    assert torch.equal(messages[0]["4.weight"], messages[1]["4.weight"])


def test_the_same_noise_everywhere_is_clipping_by_the_norm():
    grads = gradient(100.0)
    for settings in ({"std": 0.5, "floor_std": 0.5}, {"std": 0.9, "floor_std": 0.5}):  # others have the floor alone
        by_noise, by_norm = [sent(defended({**settings, "clip_by": how}), grads) for how in ("noise", "norm")]
        assert all(torch.equal(by_noise[name], by_norm[name]) for name in grads)


def test_shares_are_clipped_as_one_message_is():
    """In a sum others may have selected what this client has not, and keep gains nothing."""
    settings, _ = settings_of(net())["spectrum"]
    grads = gradient(1e4)
    alone = clipped(settings, grads)
    for given in ({"shares": 4}, {"shares": 4, "keep": 0.25}):
        message = clipped({**settings, **given}, grads)
        torch.testing.assert_close(message["4.weight"], alone["4.weight"], rtol=0, atol=2e-3)


def test_updates_and_weights_are_clipped_alike():
    settings, _ = settings_of(net())["spectrum"]
    grads = gradient(1e4)
    want = sent(defended(settings), grads)
    update = {name: grad.clone() for name, grad in grads.items()}
    defended(settings).perturb_update(update)
    assert all(torch.equal(update[name].double(), want[name]) for name in grads)


def test_transposed_convs_and_kernels_without_a_band():
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv1d(4, 2, 5))
    floors = {name: 0.2 + 0.1 * i for i, (name, _) in enumerate(model.named_parameters())}
    given = {"std": 0.05, "floor_std": floors, "max_grad_norm": 1.0, "ratio": 1.0, "clip_by": "noise"}
    messages = []
    for scale in (1e4, 0.0):
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.grad = scale * torch.randn_like(parameter)
        with tip.TIP(model, rng=tip.NoiseRNG.from_seed(2), **given) as defense:
            defense.perturb_gradients()
        messages.append({name: parameter.grad.double() for name, parameter in model.named_parameters()})
    square = 0.0
    for name, parameter in model.named_parameters():
        values = messages[0][name] - messages[1][name]
        least = torch.tensor(floors[name])
        kernel_size = tuple(parameter.shape[2:])
        if math.prod(kernel_size) > 1:
            basis, d = bases.real_basis(kernel_size, bases.radial_mask(kernel_size, 0.5))
            values = values.flatten(2) @ basis
            least = torch.where(torch.arange(len(basis)) < d, 0.05, floors[name])
        square += (values / least).square().sum().item()
    assert math.sqrt(square) == pytest.approx(1 / 0.05, rel=3e-3)


def test_audits_clip_alike():
    """Their messages have the coefficients that the op sends, before its noise."""
    settings, _ = settings_of(net())["spectrum"]
    loss, images, labels = nn.functional.cross_entropy, torch.rand(1, 3, 6, 6), torch.tensor([2])
    for how in ("noise", "norm"):
        defense = defended({**settings, "clip_by": how, "max_grad_norm": 1e-2})
        coefficients = under_tip(defense, Channels(defense, loss).selected(images, labels))
        with open_message(defense.model, loss, images, labels, coefficients, 1e-2) as message:
            squares, scaled = message.squares, message._whitened(images) / message._weights
        factor = (scaled.square().sum() / squares.sum()).sqrt()
        loss(defense.model(images), labels).backward()
        grads = {name: parameter.grad.clone() for name, parameter in defense.model.named_parameters()}
        found = clipped({**settings, "clip_by": how, "max_grad_norm": 1e-2}, grads)
        assert factor.item() == pytest.approx(length_of(found) / math.sqrt(squares.sum().item()), rel=3e-3)


@pytest.mark.parametrize("keep", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("ratio", [1e3, 1e6, 1e7, 1e8])
def test_what_rounding_moves_to_quiet_noise_is_within_the_multiplier(ratio, keep, backend):
    """Kernels in which all is loud, where float32 rounding leaves something in the quiet coefficients."""
    model = nn.Conv2d(4, 64, 3, bias=False)
    band = {"cutoff": 0.75, "ratio": 1.0}
    given = {"std": 1 / ratio, "floor_std": 1.0, "keep": keep, "max_grad_norm": 1.0, "scores": "public"}
    defense = tip.TIP(model, clip_by="noise", **band, **given)
    basis, d = bases.real_basis((3, 3), bases.radial_mask((3, 3), 0.75))
    stds = torch.where(torch.arange(9) < d, 1 / ratio, 1.0)
    for quiet in (0.0, 3e-7):
        coefficients = torch.randn(64, 4, 9, dtype=torch.float64) * torch.where(torch.arange(9) < d, quiet, 1.0)
        kernels = ((coefficients @ basis.T).unflatten(2, (3, 3)).float() * 1e12).to(backend.device)
        tip.perturb_(
            [kernels], [torch.zeros(64, device=backend.device)], std=0.0, keep=keep, rng=tip.NoiseRNG.from_seed(1),
            max_grad_norm=1.0, norm_weights=defense._mechanism._norm_weights, backend=backend.name, **band,
        )  # fmt: skip
        left = kernels.cpu().double().flatten(2) @ basis
        assert (left / stds).norm().item() * defense.noise_multiplier() <= 1 + 1e-7  # amounts are float32 numbers


def test_compiled_steps_clip_alike():
    settings, _ = settings_of(net())["spectrum"]
    grads, results = gradient(1e4), []
    for compiled in (False, True):
        defense = defended(settings)
        call = torch.compile(defense.perturb_gradients, backend="eager") if compiled else defense.perturb_gradients
        for name, parameter in defense.model.named_parameters():
            parameter.grad = grads[name].clone()
        call()
        results.append([parameter.grad for parameter in defense.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_copies_pickles_and_dry_runs():
    settings, _ = settings_of(net())["spectrum"]
    defense = defended(settings)
    assert "clip_by='noise'" in repr(defense)
    for other in (copy.deepcopy(defense), pickle.loads(pickle.dumps(defense))):
        assert repr(other) == repr(defense).replace(repr(defense.rng), repr(other.rng))
    with FakeTensorMode():
        dry = defended(settings)
    assert dry._mechanism._norm_weights == defense._mechanism._norm_weights


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"std": 0.1, "floor_std": 0.1, "clip_by": "loudness"}, "clip_by to be 'norm' or 'noise', got 'loudness'"),
        ({"std": 0.1, "floor_std": 0.1, "max_grad_norm": None}, "max_grad_norm beside clip_by='noise', got None"),
        ({"std": 0.1}, r"noise on all that is sent beside clip_by='noise', got a std of 0 \(0.weight\)"),
        ({"std": 0.0, "floor_std": 0.1}, r"noise on all that is sent beside clip_by='noise', .* \(0.weight\)"),
        ({"std": math.nan, "floor_std": 0.1}, "std to be finite and at least 0, got nan"),
        ({"std": 0.1, "floor_std": 0.1, "keep": math.nan}, r"keep in \[0, 1\], got nan"),
        ({"std": 0.1, "floor_std": 0.1, "masks": {(3, 3): torch.ones(3, 2)}}, r"masks\[\(3, 3\)\] to be a bool tensor"),
    ],
)
def test_refuses(settings, text):
    with pytest.raises((ValueError, TypeError), match=text):
        defended(settings)


SIZES = [(3, 3), (2, 2), (4, 4), (5, 4), (1, 3), (7,), (2,), (3, 3, 4), (1, 1)]


@pytest.mark.parametrize("kernel_size", SIZES, ids=str)
def test_dimension_of_a_band_is_that_of_its_basis(kernel_size):
    for cutoff in (0.0, 0.5, 0.75, 0.99):
        mask = bases.radial_mask(kernel_size, cutoff)
        for given in (mask, ~mask):
            bands = HighBands(cutoff, {kernel_size: given}, 1.0)
            assert bands.dimension(kernel_size) == bases.real_basis(kernel_size, given)[1]
