"""TIP(shares=m): clients whose messages are only seen in sums share the noise; the multiplier says whom it trusts."""

import copy
import math

import pytest
import torch
from torch import nn

from tip_kernels import TIP, NoiseRNG, PrivacyBudget, calibration, spectrum

STD, FLOOR = 0.5, 0.2


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 50))


def sharing(shares: int = 1, honest: int | None = None, **settings) -> TIP:
    settings = {"ratio": 1.0, "scores": "public", "std": STD, "floor_std": FLOOR, **settings}
    return TIP(settings.pop("model", None) or net(), shares=shares, honest=honest, **settings)


def message(defense: TIP, value: float = 0.0) -> dict[str, torch.Tensor]:
    update = {name: torch.full_like(parameter, value) for name, parameter in defense.model.named_parameters()}
    defense.perturb_update(update)
    return update


@pytest.mark.parametrize("amounts", ["floats", "mappings"])
def test_a_share_of_four_is_half_of_the_noise(amounts):
    """In every bit, the grid too: it is half as wide."""
    settings = {}
    if amounts == "mappings":
        floors = {name: FLOOR * (1 + i) for i, (name, _) in enumerate(net().named_parameters())}
        settings = {"std": {"0.weight": STD}, "floor_std": floors}
    whole = message(sharing(rng=NoiseRNG.from_seed(0), **settings))
    share = message(sharing(4, rng=NoiseRNG.from_seed(0), **settings))
    assert all(torch.equal(share[name] * 2, tensor) for name, tensor in whole.items())
    assert all(tensor.any() for tensor in whole.values())


def test_a_share_is_on_the_grid_of_its_own_noise():
    shares = 7
    sent = message(sharing(shares), value=0.1)
    for name, least in (("0.weight", FLOOR), ("2.weight", FLOOR)):
        grid = 2.0 ** (math.floor(math.log2(least / math.sqrt(shares))) - 10)
        assert torch.equal(sent[name], (sent[name] / grid).round() * grid)
        assert not torch.equal(sent[name], (sent[name] / (2 * grid)).round() * (2 * grid))


def test_the_sum_of_all_shares_has_the_noise_of_one_message():
    """Sums of squares of n normals lie within n +- 2 sqrt(n t) + 2 t but for exp(-t) (Laurent & Massart 2000)."""
    shares, rounds = 5, 40
    defenses = [sharing(shares, rng=NoiseRNG.from_seed(client)) for client in range(shares)]
    high, low = [], []
    basis, dimensions = spectrum.real_basis((3, 3), spectrum.radial_mask((3, 3), 0.5))
    for _ in range(rounds):
        messages = [message(defense) for defense in defenses]
        kernels = sum(sent["0.weight"].double() for sent in messages).flatten(2) @ basis
        high.append(kernels[..., :dimensions].flatten() / STD)
        low += [kernels[..., dimensions:].flatten() / FLOOR]
        low += [sum(sent["2.weight"].double() for sent in messages).flatten() / FLOOR]
    for normals in (torch.cat(high), torch.cat(low)):
        n, t = len(normals), 21  # exp(-21) is below 1e-9
        squares = normals.square().sum().item()
        assert n - 2 * math.sqrt(n * t) < squares < n + 2 * math.sqrt(n * t) + 2 * t


def test_each_client_clips_its_own_message():
    """To all of max_grad_norm, and not to a share."""
    sent = message(sharing(100, max_grad_norm=3.0, std=1e-4, floor_std=1e-4), value=5.0)
    norm = torch.cat([tensor.flatten() for tensor in sent.values()]).norm().item()
    assert norm == pytest.approx(3.0, rel=1e-4)


@pytest.mark.parametrize(("shares", "honest"), [(1, None), (1, 1), (4, 4), (10, 7), (10, 1)])
def test_the_multiplier_is_of_the_noise_that_is_sure(shares, honest):
    defense = sharing(shares, honest, max_grad_norm=2.0)
    sure = FLOOR * math.sqrt((honest or 1) / shares)
    assert defense.noise_multiplier() == pytest.approx(sure / 2, rel=1e-15)
    alone = sharing(max_grad_norm=2.0, std=sure, floor_std=sure)
    epsilons = [calibration.accounted_epsilon(each, rounds=3, delta=1e-5) for each in (defense, alone)]
    assert epsilons[0] == pytest.approx(epsilons[1], rel=1e-9)


def test_no_multiplier_without_a_word_on_who_is_honest():
    defense = sharing(10, max_grad_norm=1.0)
    message(defense)  # as without any guarantee
    with pytest.raises(ValueError, match="expected honest to say how many of the 10 shares of the noise are surely in"):
        defense.noise_multiplier()
    with pytest.raises(ValueError, match="how many of the 10 shares"):
        sharing(10, max_grad_norm=1.0, budget=PrivacyBudget(8.0, 1e-5))


def test_a_budget_counts_by_the_sum():
    defense = sharing(10, 8, max_grad_norm=0.01, budget=PrivacyBudget(8.0, 1e-5))
    message(defense)
    assert defense.budget.spent() == calibration.accounted_epsilon(defense, rounds=1, delta=1e-5)


def test_a_kept_part_counts_by_the_least_noise_of_any_client():
    """Others may take channels with less noise than the floor, which this client leaves as they are.

    Its own signal is then whole there, and so is the sum's, under its floor and their std.
    """
    shares, std, keep = 5, 0.1, 0.5
    alone = sharing(std=std, keep=keep, max_grad_norm=1.0).noise_multiplier()
    assert alone == pytest.approx(min(FLOOR, std / keep), rel=1e-3)
    together = sharing(shares, shares, std=std, keep=keep, max_grad_norm=1.0).noise_multiplier()
    worst = math.sqrt((FLOOR**2 + (shares - 1) * std**2) / shares)
    assert together == pytest.approx(std, rel=1e-15)
    assert together <= worst < alone


def test_copies_have_the_shares_of_the_original():
    defense = sharing(4, 3, max_grad_norm=1.0)
    twin = copy.deepcopy(defense)
    assert twin.noise_multiplier() == defense.noise_multiplier()
    assert "shares=4, honest=3" in repr(twin)


@pytest.mark.parametrize(
    ("shares", "honest", "error", "text"),
    [
        (0, None, ValueError, "expected shares to be at least 1, got 0"),
        (2.0, None, TypeError, "expected shares to be an integer, got float"),
        (3, 4, ValueError, r"expected honest in \[1, 3\], of the shares, got 4"),
        (3, 0, ValueError, r"expected honest in \[1, 3\], of the shares, got 0"),
        (3, 1.5, TypeError, "expected honest to be an integer, got float"),
    ],
)
def test_bad_shares(shares, honest, error, text):
    with pytest.raises(error, match=text):
        sharing(shares, honest)


@pytest.mark.parametrize("change", [{"std": -0.1}, {"floor_std": float("inf")}, {"std": {"0.weight": -0.1}}])
def test_bad_amounts_of_shares(change):
    with pytest.raises(ValueError, match=r"to be finite and at least 0, got (-0.1|inf)"):
        sharing(3, **change)
