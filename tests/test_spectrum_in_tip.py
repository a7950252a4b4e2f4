"""A TIP with a spectrum: every coefficient has its amount of noise, and what would make it another is refused."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import tip_kernels as tip
from tip_kernels import spectrum as bases
from tip_kernels.audit import ImagePrior, audit

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

NORM = 2.0


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def some_stds(model: nn.Module) -> dict[str, torch.Tensor | float]:
    stds: dict[str, torch.Tensor | float] = {}
    for number, (name, parameter) in enumerate(model.named_parameters()):
        stds[name] = 0.1 + 0.05 * number
        if parameter.dim() == 4 and parameter.shape[2:].numel() > 1:
            radii = bases.radial_mask((3, 3), 0.5).double()  # 0 for DC, 1 elsewhere
            stds[name] = torch.stack([0.2 + radii, 0.4 + 2 * radii])
    return stds


def build(model: nn.Module, stds=None, **settings) -> tip.TIP:
    settings = {"max_grad_norm": NORM, "scores": "public", "rng": tip.NoiseRNG.from_seed(1), **settings}
    defense = tip.TIP(model, spectrum=tip.Spectrum(some_stds(model) if stds is None else stds), **settings)
    kernels = [(name, kernel) for name, kernel in model.named_parameters() if kernel.dim() == 4]
    defense.set_scores({name: torch.arange(len(kernel), dtype=torch.float32) for name, kernel in kernels})
    return defense


def noise_of(defense: tip.TIP) -> dict[str, torch.Tensor]:
    """What gradients of zero become."""
    for parameter in defense.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    defense.perturb_gradients()
    return {name: parameter.grad for name, parameter in defense.model.named_parameters()}


def assert_std(values: torch.Tensor, expected: float) -> None:
    """Within five standard errors."""
    found = values.double().square().mean().sqrt().item()
    assert found == pytest.approx(expected, rel=5 / math.sqrt(2 * values.numel()))


@pytest.mark.parametrize("shares", [1, 4])
def test_every_coefficient_has_its_std(shares):
    model = net(width=400)
    defense = build(model, ratio=0.5, shares=shares)
    found = noise_of(defense)
    stds = some_stds(model)
    basis, d = bases.real_basis((3, 3), bases.radial_mask((3, 3), 0.5))
    coefficients = found["0.weight"].double().flatten(2) @ basis
    unit = NORM / math.sqrt(shares)
    for rows, low, high in ((slice(0, 200), 0.2, 1.2), (slice(200, 400), 0.4, 2.4)):  # the higher scores are selected
        assert_std(coefficients[rows, :, :d], high * unit)
        assert_std(coefficients[rows, :, d:], low * unit)
    for name in ("0.bias", "2.weight", "4.weight"):
        assert_std(found[name], stds[name] * unit)


def test_noise_multiplier_is_the_least_of_all():
    model = net()
    stds = some_stds(model)
    assert build(model).noise_multiplier() == pytest.approx(0.15)  # 0.bias
    stds["0.bias"] = 1.0
    assert build(model, stds).noise_multiplier() == pytest.approx(0.2)  # DC of what is not selected
    assert build(model, stds, keep=0.5).noise_multiplier() == pytest.approx(0.2)
    stds["0.weight"][0] = 9.0
    stds["2.weight"] = stds["2.bias"] = stds["4.weight"] = stds["4.bias"] = 8.0
    assert build(model, stds).noise_multiplier() == pytest.approx(0.4)
    stds["0.weight"][1] = torch.where(stds["0.weight"][1] > 1, 0.3, 7.0)
    assert build(model, stds).noise_multiplier() == pytest.approx(0.3)  # the selected high band
    assert build(model, stds, keep=0.1).noise_multiplier() == pytest.approx(1.0, rel=1e-4)  # 0.bias; 0.3 / 0.1 is more
    assert build(model, stds, shares=4, honest=1).noise_multiplier() == pytest.approx(0.15)


def test_the_accountant_takes_it():
    pytest.importorskip("dp_accounting")
    model = net()
    flat = tip.TIP(model, std=0.15 * NORM, floor_std=0.15 * NORM, max_grad_norm=NORM, scores="public")
    expected = tip.calibration.accounted_epsilon(flat, rounds=3, delta=1e-5)
    flat.close()
    assert tip.calibration.accounted_epsilon(build(model), rounds=3, delta=1e-5) == pytest.approx(expected)


def test_copies_and_pickles_keep_it():
    model = net()
    model.defense = build(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        images = torch.rand(2, 3, 6, 6)
        other(images)
        assert other.defense._settings["spectrum"] == model.defense._settings["spectrum"]
        assert f"spectrum={model.defense._settings['spectrum']!r}" in repr(other.defense)
        assert other.defense.noise_multiplier() == model.defense.noise_multiplier()


def other(**changes):
    """The amounts with some changed or, for None, taken out."""

    def change(stds):
        return {name: std for name, std in {**stds, **changes}.items() if std is not None}

    return change


NO_BAND = {"masks": {(3, 3): torch.zeros(3, 2, dtype=torch.bool)}}


@pytest.mark.parametrize(
    ("change", "settings", "error", "text"),
    [
        (None, {"std": 0.1}, ValueError, "std and floor_std to be left out beside a spectrum"),
        (None, {"floor_std": 0.1}, ValueError, "std and floor_std to be left out beside a spectrum"),
        (None, {"floor_std": {"0.bias": 0.1}}, ValueError, "std and floor_std to be left out beside a spectrum"),
        (None, {"floor_std": torch.ones(4)}, ValueError, "std and floor_std to be left out beside a spectrum"),
        (None, {"masks": [1]}, TypeError, "expected masks to map kernel sizes to bool tensors, got list"),
        (None, {"masks": {(3, 3): "high"}}, TypeError, r"masks\[\(3, 3\)\] to be a bool tensor on the CPU, got str"),
        (None, {"cutoff": "half"}, TypeError, "expected cutoff to be a number, got str"),
        (None, {"max_grad_norm": None}, ValueError, "expected max_grad_norm beside a spectrum, .* got None"),
        (
            lambda stds: {"0.weight": stds["0.weight"]},
            {},
            ValueError,
            "every parameter of the model, got none for '0.b",
        ),
        (other(more=1.0), {}, ValueError, "expected the spectrum to be of this model, got one with 'more'"),
        (other(**{"0.weight": torch.ones(2, 5, 3)}), {}, ValueError, r"\(2, 3, 2\) for \(3, 3\) taps.*\(0.weight\)"),
        (
            other(**{"0.bias": torch.ones(2, 3, 2)}),
            {},
            ValueError,
            r"for what is no conv kernel, got many \(0.bias\)",
        ),
        (other(**{"2.weight": torch.ones(2, 1, 1)}), {}, ValueError, r"got none \(2.weight\): lower cutoff, or give"),
        (
            None,
            {"masks": {(3, 3): torch.zeros(3, 2, dtype=torch.bool)}},
            ValueError,
            r"high band.*got none \(0.weight\)",
        ),
    ],
)
def test_what_would_be_other_noise_is_refused(change, settings, error, text):
    model = net()
    stds = some_stds(model) if change is None else change(some_stds(model))
    with pytest.raises(error, match=text):
        build(model, stds, **settings)


def test_a_mapping_is_no_spectrum():
    with pytest.raises(TypeError, match=r"expected spectrum to be a tip_kernels.Spectrum, got dict"):
        tip.TIP(net(), spectrum={"0.weight": 1.0}, max_grad_norm=1.0)


def test_it_can_be_built_in_a_dry_run():
    model = net()
    noise = tip.Spectrum(some_stds(model))
    with FakeTensorMode():
        defense = tip.TIP(model, spectrum=noise, max_grad_norm=NORM, scores="public")
    assert defense.noise_multiplier() == pytest.approx(0.15)
    defense.close()
    assert noise_of(build(model))["0.weight"].ne(0).all()


def test_one_number_for_a_kernel_is_the_same_everywhere():
    model = net(width=400)
    found = noise_of(build(model, {name: 0.3 for name, _ in model.named_parameters()}, ratio=0.5))
    assert_std(found["0.weight"], 0.3 * NORM)


def test_buffers_that_are_sent_need_an_amount():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    stds = {"0.weight": torch.ones(2, 3, 2), "0.bias": 0.5, "1.weight": 0.5, "1.bias": 0.5}
    update = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"expected spectrum to have an entry for '1.running_mean', got none"):
        build(model, stds).perturb_update(update)
    assert not any(tensor.any() for tensor in update.values())
    withheld = build(model, stds, buffers="withhold")
    withheld.perturb_update(update)
    assert update["0.weight"].ne(0).all()
    assert not update["1.running_mean"].any()
    every = {**stds, "1.running_mean": 0.7, "1.running_var": 0.7}
    update = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    build(model, every).perturb_update(update)
    assert update["1.running_mean"].ne(0).all()


def test_noise_that_the_dtype_cannot_hold_is_refused():
    """By the least of a kernel's amounts, not by the clipping norm that they multiply."""
    model = net().half()
    stds = some_stds(model)
    stds["0.weight"][0, 0, 0] = 1e-9
    defense = build(model, stds)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(ValueError, match=r"float16.*0.weight|0.weight.*float16"):
        defense.perturb_gradients()


def test_an_audit_sees_it():
    """Flat, it is a floor; louder noise on what selected channels have high hides more."""
    model, prior = net(), ImagePrior.natural((3, 6, 6))
    images, labels = torch.rand(2, 3, 6, 6), torch.tensor([1, 2])

    def ceiling(defense) -> torch.Tensor:
        found = audit(model, nn.functional.cross_entropy, images, labels, defense, prior=prior).psnr
        defense.close()
        return found

    flat = ceiling(build(model, {name: 0.02 for name, _ in model.named_parameters()}))
    floor = tip.TIP(model, std=0.02 * NORM, floor_std=0.02 * NORM, max_grad_norm=NORM)
    torch.testing.assert_close(flat, ceiling(floor))
    stds = {name: 0.02 for name, _ in model.named_parameters()}
    stds["0.weight"] = torch.full((2, 3, 2), 0.02)
    torch.testing.assert_close(ceiling(build(model, stds)), flat)
    stds["0.weight"][1] = torch.where(bases.radial_mask((3, 3), 0.5), 1e3, 0.02)
    louder = ceiling(build(model, stds))
    by_std = tip.TIP(model, std=1e3 * NORM, floor_std=0.02 * NORM, max_grad_norm=NORM, scores="public")
    by_std.set_scores(dict.fromkeys(("0.weight", "2.weight"), torch.arange(4, dtype=torch.float32)))
    torch.testing.assert_close(louder, ceiling(by_std))
    assert (louder < flat).all()
    stds["0.weight"][0, 0, 0] = 1e3  # the mean of kernels that are not selected
    assert (ceiling(build(model, stds)) < louder).all()
