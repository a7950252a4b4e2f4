"""Spectra from audits: they meet their target, and follow what noise hides and costs."""

import math

import pytest
import torch
from torch import nn

import tip_kernels as tip
from tip_kernels import spectrum as bases
from tip_kernels._audit.fitting import _Amounts
from tip_kernels.audit import Audit, ImagePrior, Row, audit

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

cross_entropy = nn.functional.cross_entropy
SETTINGS = {"ratio": 0.5, "cutoff": 0.5, "masks": None, "max_grad_norm": 1.0}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(32, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 1, 6, 6), torch.tensor([0, 2])


def audited(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, **settings) -> Audit:
    with tip.TIP(model, **{**SETTINGS, **settings}) as defense:
        return audit(model, cross_entropy, images, labels, defense)


def test_a_ceiling_is_met_at_no_more_harm_than_by_the_same_noise_everywhere():
    model, (images, labels) = net(), batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = []
    target = audited(model, images, labels, std=0.1, floor_std=0.1).psnr.mean().item()
    fitted = tip.Spectrum.fit(model, cross_entropy, images, labels, psnr=target, ratio=0.5, progress=told.append)
    found = audited(model, images, labels, spectrum=fitted)
    assert found.psnr.mean().item() == pytest.approx(target, abs=0.06)
    harm = sum(row.harm * row.count * row.std**2 for row in found.leak)
    flat = sum(row.harm * row.count * 0.1**2 for row in audited(model, images, labels, std=0.1, floor_std=0.1).leak)
    assert harm < 1.02 * flat  # the tolerance of the target is worth 1.2 %
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._backward_hooks or module._forward_hooks for module in model.modules())


def test_a_noise_multiplier_is_met_exactly():
    model, (images, labels) = net(), batch()
    fitted = tip.Spectrum.fit(model, cross_entropy, images, labels, noise_multiplier=0.3, max_grad_norm=2.0)
    assert fitted.least() == pytest.approx(0.3)
    with tip.TIP(model, spectrum=fitted, scores="public", max_grad_norm=2.0) as defense:
        assert defense.noise_multiplier() == pytest.approx(0.3)


@pytest.mark.parametrize("target", [{"noise_multiplier": 0.3}, {"psnr": 14.0}])
def test_fits_what_is_clipped_by_the_noise(target):
    model, (images, labels) = net(), batch()
    settings = {"ratio": 0.5, "max_grad_norm": 0.1, "clip_by": "noise"}
    fitted = tip.Spectrum.fit(model, cross_entropy, images, labels, **target, **settings)
    if "psnr" in target:
        found = audited(model, images, labels, spectrum=fitted, **settings)
        assert found.psnr.mean().item() == pytest.approx(14.0, abs=0.06)
    with tip.TIP(model, spectrum=fitted, scores="public", **settings) as defense:
        assert defense.noise_multiplier() == pytest.approx(fitted.least())


def test_the_same_images_give_the_same_spectrum():
    model, (images, labels) = net(), batch()
    fits = [
        tip.Spectrum.fit(model, cross_entropy, images, labels, noise_multiplier=0.3, method="iterative", probes=4)
        for _ in range(2)
    ]
    assert fits[0].fingerprint() == fits[1].fingerprint()


def row(parameter: str, channels: str, radius: float | None, hides: float, costs: float) -> Row:
    """Of two coefficients under noise of 0.5."""
    return Row(parameter, channels, radius, 0.5, 2.0, 1.0, 0.0, 2.0 * hides / 0.25, 0.0, costs)


def test_variance_is_the_root_of_what_noise_hides_by_what_it_costs():
    amounts = _Amounts(nn.Sequential(nn.Conv2d(1, 1, (1, 3)), nn.BatchNorm2d(1)), SETTINGS)
    rows = [
        row("0.weight", "others", 0.0, 16.0, 1.0),  # a std of 2
        row("0.weight", "others", 1.0, 1.0, 1.0),  # 1
        row("0.weight", "selected", 0.0, 1.0, 16.0),  # 1/2
        row("0.weight", "selected", 1.0, 81.0, 1.0),  # 3
        row("0.bias", "all", None, 1.0, 81.0),  # 1/3
        row("1.weight", "all", None, 0.0, 1.0),  # tells nothing: the mean
        row("1.bias", "all", None, 1e20, 1.0),  # clamped
    ]
    mean = math.exp((math.log(2 * 1 / 2 * 3 / 3) + math.log(1e20) / 4) / 6)
    stds = amounts.shaped(rows).stds
    assert stds["0.weight"].flatten().tolist() == pytest.approx([2 / mean, 1 / mean, 0.5 / mean, 3 / mean])
    assert stds["0.bias"].item() == pytest.approx(1 / 3 / mean)
    assert stds["1.weight"].item() == stds["1.running_mean"].item() == 1.0
    assert stds["1.bias"].item() == pytest.approx(32.0)


def test_kernels_without_a_high_band_have_one_amount():
    model, (images, labels) = net(), batch()
    fitted = tip.Spectrum.fit(model, cross_entropy, images, labels, noise_multiplier=0.3)
    assert {name: tuple(std.shape) for name, std in fitted.stds.items() if std.dim()} == {"0.weight": (2, 3, 2)}
    for std in fitted.stds["0.weight"]:
        bases.check_conjugates("it", std, (3, 3))


def test_frozen_parameters_and_buffers_are_in_it():
    model, (images, labels) = net(), batch()
    model.insert(1, nn.BatchNorm2d(4))
    model[0].bias.requires_grad_(False)
    fitted = tip.Spectrum.fit(model, cross_entropy, images, labels, noise_multiplier=0.3)
    assert set(fitted.stds) == {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        ({}, ValueError, "either psnr or noise_multiplier as the target, got both or none"),
        ({"psnr": 13.0, "noise_multiplier": 1.0}, ValueError, "got both or none"),
        ({"noise_multiplier": 0.0}, ValueError, "expected noise_multiplier to be above 0, got 0"),
        ({"psnr": math.nan}, ValueError, "psnr"),
        ({"psnr": "13"}, TypeError, "psnr"),
        ({"psnr": 3.0}, ValueError, r"a psnr that noise can reach, got 3 dB: with .* on everything the ceiling is 12"),
    ],
)
def test_targets_that_cannot_be(target, error, text):
    with pytest.raises(error, match=text):
        tip.Spectrum.fit(net(), cross_entropy, *batch(), prior=ImagePrior.natural((1, 6, 6)), **target)
