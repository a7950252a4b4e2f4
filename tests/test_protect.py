"""protect keeps a whole run within its target, refuses what goes beyond, and says what it does and does not cover."""

import copy
import io

import pytest
import torch
from torch import nn

import tip_kernels as tip
from tip_kernels import BudgetExceeded, Protection, calibration, protect

EPSILON, DELTA, ROUNDS = 8.0, 1e-4, 5
TARGET = {"epsilon": EPSILON, "delta": DELTA, "rounds": ROUNDS}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def public():
    draw = torch.Generator().manual_seed(1)
    return torch.rand(8, 1, 8, 8, generator=draw), torch.arange(8) % 3


def net(*behind: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 6, 3), *behind, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3))


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        images, labels = torch.rand(4, 1, 8, 8), torch.randint(3, (4,))
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    return [tensor.clone() for tensor in (*model.state_dict().values(), *momenta)]


def norm_of(model: nn.Module, batch) -> float:
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))]).norm().item()


# The guarantee


@pytest.mark.parametrize("relation", ["add_or_remove", "replace"])
@pytest.mark.parametrize("std_over_floor", [1, 2.0])
def test_a_whole_run_keeps_to_its_target_and_no_step_more(relation, std_over_floor, public):
    model = net()
    optimizer = sgd(model)
    options = {"relation": relation, "std_over_floor": std_over_floor}
    protection = protect(model, optimizer, **TARGET, public=public, **options)

    def accounted(rounds: int) -> float:
        return calibration.accounted_epsilon(protection.defense, rounds=rounds, delta=DELTA, relation=relation)

    assert accounted(ROUNDS) <= EPSILON < accounted(ROUNDS + 1)
    assert accounted(ROUNDS) > 0.99 * EPSILON  # no more noise than the target asks for
    train(model, optimizer, ROUNDS)
    assert protection.budget.messages == protection.defense.rng.step == ROUNDS
    assert protection.budget.spent() == accounted(ROUNDS)
    before = tensors_of(model, optimizer)
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match="after 5 messages"):
            train(model, optimizer)
    assert all(map(torch.equal, before, tensors_of(model, optimizer)))
    assert protection.budget.messages == protection.defense.rng.step == ROUNDS


def test_every_number_gets_the_noise_that_is_accounted(public):
    """Of one step's gradients, zeros before: their spread is the multiplier times the clipping norm, or twice that."""
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 16, 64))
    optimizer = sgd(model)
    protection = protect(model, optimizer, **TARGET, public=public, max_grad_norm=0.5, std_over_floor=2.0, ratio=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    floor = protection.noise_multiplier * 0.5
    selected = protection.defense.selected()["1.weight"]
    kernels = model[1].weight.grad
    # The high band has 8 of 9 dimensions; samples of 18,432 and more are within 2 % of their std.
    assert kernels[~selected].std() == pytest.approx(floor, rel=0.02)
    assert kernels[selected].std() == pytest.approx(floor * ((8 * 4 + 1) / 9) ** 0.5, rel=0.02)
    assert model[3].weight.grad.std() == pytest.approx(floor, rel=0.02)
    numbers = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert (numbers == 0).double().mean() < 0.001  # those that the grid rounds to 0, of which there are 1 in 2,500
    assert int(selected.sum()) == 32


def test_float32_does_not_take_noise_away(public):
    """The amounts that the kernels get are no smaller than the target asks for."""
    least = calibration.noise_multiplier_for(EPSILON, DELTA, rounds=ROUNDS)
    for max_grad_norm in (0.1, 0.7, 1.0, 1.37, 3.0):
        model = net()
        protection = protect(model, sgd(model), **TARGET, public=public, max_grad_norm=max_grad_norm)
        amount = torch.tensor(protection.noise_multiplier * max_grad_norm, dtype=torch.float32).double()
        assert amount.item() >= least * max_grad_norm
        assert protection.noise_multiplier == pytest.approx(least, rel=1e-5)


def test_the_clipping_norm_is_that_of_the_public_gradients(public):
    model = net(nn.Dropout(0.0))
    expected = norm_of(model, public)
    protection = protect(model, sgd(model), **TARGET, public=public)
    assert protection.max_grad_norm == pytest.approx(expected, rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_measuring_disturbs_nothing(public):
    model = net(nn.BatchNorm2d(6), nn.Dropout(0.5))
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    protect(model, sgd(model), **TARGET, public=public, buffers="withhold")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random_state, torch.get_rng_state())


# Restarts


def test_a_restart_with_a_file_has_no_extra_rounds(tmp_path, public):
    sent = 0
    for steps in (2, 2, 9):
        model = net()
        optimizer = sgd(model)
        protection = protect(model, optimizer, **TARGET, public=public, path=tmp_path / "budget.json")
        for _ in range(steps):
            try:
                train(model, optimizer)
            except BudgetExceeded:
                break
            sent += 1
        protection.remove()
    assert sent == protection.budget.messages == ROUNDS


def test_a_restart_with_a_saved_state_has_no_extra_rounds(public):
    saved = io.BytesIO()
    model = net()
    optimizer = sgd(model)
    protection = protect(model, optimizer, **TARGET, public=public, std_over_floor=2.0)
    train(model, optimizer, 3)
    selected = protection.defense.selected()
    torch.save([model.state_dict(), optimizer.state_dict(), protection.state_dict()], saved)

    torch.manual_seed(1)  # other weights at first, and with them other scores
    other = net()
    its_optimizer = sgd(other)
    options = {"public": public, "std_over_floor": 2.0, "max_grad_norm": protection.max_grad_norm}
    resumed = protect(other, its_optimizer, **TARGET, **options)
    weights, momenta, state = torch.load(io.BytesIO(saved.getvalue()))
    other.load_state_dict(weights)
    its_optimizer.load_state_dict(momenta)
    resumed.load_state_dict(state)
    assert resumed.budget.messages == resumed.defense.rng.step == 3
    train(other, its_optimizer, 2)
    assert all(map(torch.equal, selected.values(), resumed.defense.selected().values()))
    with pytest.raises(BudgetExceeded):
        train(other, its_optimizer)
    resumed.load_state_dict(state)  # an older state gives nothing back
    with pytest.raises(BudgetExceeded):
        train(other, its_optimizer)


def test_states_that_are_refused(public):
    def protection(**options) -> Protection:
        model = net()
        return protect(model, sgd(model), **{**TARGET, "max_grad_norm": 1.0, **options}, public=public)

    state = protection().state_dict()
    with pytest.raises(ValueError, match=r"expected a state with max_grad_norm 2.0 .*, got 1.0: protect\(\.\.\., max"):
        protection(max_grad_norm=2.0).load_state_dict(state)
    with pytest.raises(ValueError, match="epsilon"):
        protection(epsilon=9.0).load_state_dict(state)
    with pytest.raises(ValueError, match="got one without 'defense'"):
        protection().load_state_dict({"rng": {}})


# What is refused


WRONG = {
    "epsilon": ({"epsilon": 0.0}, ValueError, "epsilon"),
    "delta": ({"delta": 1.0}, ValueError, "delta"),
    "rounds": ({"rounds": 0}, ValueError, "rounds"),
    "relation": ({"relation": "sideways"}, ValueError, "relation"),
    "norm": ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm"),
    "norm of no number": ({"max_grad_norm": "1"}, TypeError, "max_grad_norm"),
    "less than the floor": ({"std_over_floor": 0.5}, ValueError, "std_over_floor to be finite and at least 1, got 0.5"),
    "std of no number": ({"std_over_floor": None}, TypeError, "std_over_floor"),
    "buffers": ({"buffers": "keep"}, ValueError, "buffers"),
    "no labels": ({"public": torch.rand(8, 1, 8, 8)}, TypeError, r"public to be \(images, labels\), two tensors"),
    "no tensors": ({"public": (None, None)}, TypeError, r"public to be \(images, labels\), two tensors"),
    "labels of another shape": (
        {"public": (torch.rand(8, 1, 8, 8), torch.zeros(7, dtype=torch.long))},
        ValueError,
        r"labels to be class numbers of shape \(8,\)",
    ),
    "images that are not finite": (
        {"public": (torch.full((8, 1, 8, 8), torch.nan), torch.zeros(8, dtype=torch.long))},
        ValueError,
        "expected a gradient on the public images to take max_grad_norm from, got one of norm nan",
    ),
    "ratio": ({"ratio": 1.5}, ValueError, "ratio"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_attach_nothing(what, public, tmp_path):
    change, error, message = WRONG[what]
    model = net()
    optimizer = sgd(model)
    path = tmp_path / "budget.json"
    with pytest.raises(error, match=message):
        protect(model, optimizer, **{**TARGET, "public": public, "path": path, **change})
    assert_free(model, optimizer)
    assert not path.exists() or tip.PrivacyBudget(EPSILON, DELTA, path=path).messages == 0


def assert_free(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    assert not any(module._forward_hooks for module in model.modules())
    with tip.TIP(model, std=0.1, max_grad_norm=1.0) as other, other.attach(optimizer):
        pass


def test_a_layer_without_an_optimizer_is_refused(public):
    model = net()
    with pytest.raises(ValueError, match=r"got one without '4.weight', whose gradient would get no noise"):
        protect(
            model, torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.1), **TARGET, public=public
        )
    frozen = net()
    frozen[4].requires_grad_(False)
    optimizer = torch.optim.SGD([*frozen[0].parameters(), *frozen[2].parameters()], lr=0.1)
    protection = protect(frozen, optimizer, **TARGET, public=public)
    assert "of the 280 trained numbers" in protection.report()


def test_parameters_of_another_model_are_refused(public):
    model = net()
    optimizer = torch.optim.SGD([*model.parameters(), *net().parameters()], lr=0.1)
    with pytest.raises(ValueError, match="expected an optimizer of the model's parameters"):
        protect(model, optimizer, **TARGET, public=public)


def test_running_statistics_must_be_withheld(public):
    model = net(nn.BatchNorm2d(6))
    optimizer = sgd(model)
    with pytest.raises(ValueError, match=r"buffers='withhold' for a model with running statistics.*\(1.running_mean\)"):
        protect(model, optimizer, **TARGET, public=public)
    protection = protect(model, optimizer, **TARGET, public=public, buffers="withhold")
    assert protection.report().endswith("never to be sent: 1.running_mean, 1.running_var")
    without = net(nn.BatchNorm2d(6, track_running_stats=False))
    assert "never" not in protect(without, sgd(without), **TARGET, public=public).report()


def test_a_protected_optimizer_is_not_protected_twice(public):
    model = net()
    optimizer = sgd(model)
    first = protect(model, optimizer, **TARGET, public=public)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    twice = "no TIP is attached to, got one whose gradients would get noise twice"
    with pytest.raises(RuntimeError, match=twice) as _kept:  # and with it the frames of what failed
        protect(model, optimizer, **TARGET, public=public)
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    train(model, optimizer)
    assert first.budget.messages == 1


def test_a_budget_of_another_target_is_refused(tmp_path, public):
    path = tmp_path / "budget.json"
    tip.PrivacyBudget(1.0, DELTA, path=path).spend(20.0)
    model = net()
    optimizer = sgd(model)
    with pytest.raises(ValueError, match=r"to have epsilon 8.0 as this budget does, got 1.0"):
        protect(model, optimizer, **TARGET, public=public, path=path)
    assert_free(model, optimizer)


# What it says


def test_the_report_has_true_numbers(public):
    model = net()
    optimizer = sgd(model)
    protection = protect(model, optimizer, **TARGET, public=public, max_grad_norm=2.0)
    train(model, optimizer, 2)
    least = calibration.noise_multiplier_for(EPSILON, DELTA, rounds=ROUNDS)
    spent = calibration.accounted_epsilon(protection.defense, rounds=2, delta=DELTA)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert protection.report().splitlines() == [
        f"epsilon {spent:.4g} of 8 at delta 0.0001 spent by 2 messages, steps of SGD; 3 more fit",
        f"noise {least:.4g} times max_grad_norm 2 or more on 100 % of the {numbers} trained numbers",
    ]
    assert repr(protection) == (
        "Protection(Sequential, SGD, PrivacyBudget(epsilon=8, delta=0.0001, path=None), "
        f"noise_multiplier={least:.4g}, max_grad_norm=2)"
    )


def test_a_delta_that_ideal_noise_misses_is_warned_of_where_protect_is_called(public):
    model = net()
    with pytest.warns(RuntimeWarning, match="expected delta of at least 3.3e-08, got 1e-09") as warned:
        protect(model, sgd(model), **{**TARGET, "delta": 1e-9}, public=public)
    assert [warning.filename for warning in warned] == [__file__]


@pytest.mark.parametrize("how", ["remove", "with"])
def test_the_end(how, public):
    model = net()
    optimizer = sgd(model)
    protection = protect(model, optimizer, **TARGET, public=public)
    if how == "with":
        with protection as same:
            assert same is protection
            train(model, optimizer)
    else:
        train(model, optimizer)
        protection.remove()
    train(model, optimizer)
    assert protection.budget.messages == 1
    assert_free(model, optimizer)


def test_it_lasts_though_nobody_keeps_it(public):
    model = net()
    optimizer = sgd(model)
    budget = protect(model, optimizer, **TARGET, public=public).budget
    train(model, optimizer, ROUNDS)
    assert budget.messages == ROUNDS
    with pytest.raises(BudgetExceeded):
        train(model, optimizer)


def test_a_scaler_is_passed_on(public):
    """It has unscaled the gradients of a step that it does not make itself."""
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    protection = protect(model, optimizer, **TARGET, public=public, scaler=scaler)
    scaler.scale(nn.functional.cross_entropy(model(public[0]), public[1])).backward()
    optimizer.step()
    assert scaler._per_optimizer_states[id(optimizer)]["stage"].name == "UNSCALED"
    assert protection.budget.messages == 1
