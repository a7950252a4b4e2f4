"""What a user can do wrong around a TIP without an error of torch's own: TIP says so, and what to do."""

import copy
import gc
import io
import logging
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tip_kernels import TIP, NoiseRNG

KEY = bytes(range(32))
FLOOR = {"ratio": 0.5, "std": 0.1, "floor_std": 0.01}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(layers or (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))))


def backward(model, scale=1.0) -> None:
    (model(torch.randn(2, 3, 8, 8)).square().sum() * scale).backward()


def gradients(model) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def unchanged(model, before) -> bool:
    return all(map(torch.equal, gradients(model), before))


# Before, after, twice


@pytest.mark.parametrize("freeze", [False, True])
def test_perturbing_before_the_backward_pass(freeze):
    model = net().requires_grad_(not freeze)
    defense = TIP(model, **FLOOR)
    with pytest.raises(RuntimeError, match=r"expected gradients, got none: call .* after loss.backward\(\)"):
        defense.perturb_gradients()
    assert defense.rng.step == 0


def test_a_step_without_gradients_uses_no_noise():
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    defense = TIP(model, **FLOOR)
    defense.attach(optimizer)
    optimizer.step()
    assert defense.rng.step == 0


def test_perturbing_after_the_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense = TIP(model, **FLOOR)
    backward(model)
    optimizer.step()
    with pytest.warns(RuntimeWarning, match=r"weights have changed between the forward pass .*\(0.weight\)"):
        defense.perturb_gradients()


def test_steps_in_order_say_nothing():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense = TIP(model, **FLOOR)
    for _ in range(3):
        for _ in range(2):  # gradients accumulate
            backward(model)
        defense.perturb_gradients()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert defense.rng.step == 3


@pytest.mark.parametrize("first", ["by hand", "attached"])
def test_perturbing_by_hand_and_attached(first):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense = TIP(model, **FLOOR)
    defense.attach(optimizer)
    backward(model)
    perturb, again = defense.perturb_gradients, optimizer.step
    if first == "attached":
        perturb, again = again, perturb
    perturb()
    before = gradients(model)
    with pytest.raises(
        RuntimeError, match=r"perturbed already \[0\] \(0.weight\): call perturb_gradients\(\) or attach"
    ):
        again()
    assert unchanged(model, before)
    assert defense.rng.step == 1


def test_two_defenses_of_one_model():
    model = net()
    first, second = TIP(model, **FLOOR), TIP(model, **FLOOR)
    backward(model)
    first.perturb_gradients()
    with pytest.raises(RuntimeError, match="a TIP has perturbed already"):
        second.perturb_gradients()


def test_an_update_twice():
    model = net()
    defense = TIP(model, **FLOOR | {"ratio": 1.0})
    update = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    defense.perturb_update(update)
    with pytest.raises(RuntimeError, match="a TIP has perturbed already"):
        defense.perturb_update(update)


# Nothing, or little, gets noise


def test_nothing_gets_noise():
    model = net(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 5))
    defense = TIP(model, std=0.1)
    backward(model)
    before = gradients(model)
    with pytest.raises(RuntimeError, match=r"larger than 1x1 to put noise into, got none .* set floor_std"):
        defense.perturb_gradients()
    assert unchanged(model, before)


def test_nothing_gets_noise_again():
    """A loop that goes on after an error, as a filter of results does, is told again."""
    model = net(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 5))
    defense = TIP(model, std=0.1)
    backward(model)
    before = gradients(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="all of it would be sent exactly"):
            defense.perturb_gradients()
    assert unchanged(model, before)
    assert defense.rng.step == 0


def test_layers_frozen_later_are_reported(caplog):
    model = net()
    defense = TIP(model, ratio=1.0, std=0.1)
    for frozen in (False, True):
        model.zero_grad()
        model[0].requires_grad_(not frozen)
        backward(model)
        with caplog.at_level(logging.INFO, logger="tip_kernels"):
            defense.perturb_gradients()
    last = caplog.records[-1]
    assert last.levelno == logging.WARNING
    assert last.getMessage().startswith("noise in 0.0 % of the 733 numbers of a message")


def test_nothing_that_is_trained_gets_noise():
    model = net()
    model[0].requires_grad_(False)
    defense = TIP(model, std=0.1)
    backward(model)
    with pytest.raises(RuntimeError, match="or unfreeze the layers"):
        defense.perturb_gradients()


@pytest.mark.parametrize(("settings", "level"), [({}, logging.WARNING), ({"floor_std": 0.01}, logging.INFO)])
def test_the_share_with_noise_is_reported_once(settings, level, caplog):
    model = net()
    defense = TIP(model, ratio=0.5, std=0.1, **settings)
    with caplog.at_level(logging.INFO, logger="tip_kernels"):
        for _ in range(2):
            model.zero_grad()
            backward(model)
            defense.perturb_gradients()
    reports = [record for record in caplog.records if "of a message" in record.getMessage()]
    share = "100.0 %" if settings else f"{100 * 54 / 845:.1f} %"  # two of four channels of 3 kernels of 9, of 845
    assert [record.levelno for record in reports] == [level]
    assert reports[0].getMessage().startswith(f"noise in {share} of the 845 numbers of a message")


@pytest.mark.parametrize("settings", [{"ratio": 0.0, "std": 0.1}, {"ratio": 0.5, "std": 0.0}])
def test_a_call_without_noise_warns(settings, caplog):
    model = net()
    defense = TIP(model, **settings)
    backward(model)
    with caplog.at_level(logging.INFO, logger="tip_kernels"):
        defense.perturb_gradients()
    (report,) = [record for record in caplog.records if "of a message" in record.getMessage()]
    assert (report.levelno, report.getMessage()[:14]) == (logging.WARNING, "noise in 0.0 %")


def test_an_empty_update():
    defense = TIP(net(), **FLOOR)
    with pytest.raises(ValueError, match="expected an update with parameters of the model, got none"):
        defense.perturb_update({})
    assert defense.rng.step == 0


# Numbers that do not fit


def test_float16_overflow():
    model = net().to(torch.float16)
    update = {"0.weight": torch.full((4, 3, 3, 3), 65000.0, dtype=torch.float16)}
    defense = TIP(model, ratio=1.0, std=1000.0)
    with pytest.warns(RuntimeWarning, match=r"float16 numbers with noise are not finite \[0\] \(0.weight\)"):
        defense.perturb_update(update)


@pytest.mark.parametrize(("dtype", "std"), [(torch.float16, 1e-8), (torch.float16, 1e4), (torch.float32, 1e-46)])
def test_noise_that_the_dtype_cannot_hold(dtype, std):
    model = net().to(dtype)
    update = {"0.weight": torch.randn(4, 3, 3, 3, dtype=dtype)}
    before = update["0.weight"].clone()
    with pytest.raises(ValueError, match=r"noise that float\d\d can hold, from .* for tensor \[0\] \(0.weight\)"):
        TIP(model, ratio=1.0, std=std).perturb_update(update)
    assert torch.equal(update["0.weight"], before)


def test_noise_that_a_later_dtype_cannot_hold():
    defense = TIP(net(), ratio=1.0, std=1e-8)
    defense.perturb_update({"0.weight": torch.randn(4, 3, 3, 3)})
    with pytest.raises(ValueError, match="noise that float16 can hold"):
        defense.perturb_update({"0.weight": torch.randn(4, 3, 3, 3, dtype=torch.float16)})


def test_std_left_alone_without_clipping(recwarn):
    with pytest.warns(RuntimeWarning, match="std is left at 0.01 .* give max_grad_norm"):
        TIP(net())
    TIP(net(), std=0.01)
    TIP(net(), max_grad_norm=1.0)
    assert not recwarn


# Other things than gradients and updates


@pytest.mark.parametrize("copied", [False, True])
def test_weights_in_place_of_an_update(copied):
    model = net()
    weights = model.state_dict()
    weights = {name: value.clone() for name, value in weights.items()} if copied else weights
    before = {name: value.clone() for name, value in weights.items()}
    with pytest.raises(ValueError, match=r"got the model's weights: subtract those that were received, or use"):
        TIP(model, **FLOOR).perturb_update(weights)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_a_bias_from_zero_is_an_update():
    model = net()
    nn.init.zeros_(model[0].bias)
    with torch.no_grad():
        model[0].bias += 1
    TIP(model, **FLOOR | {"ratio": 1.0}).perturb_update({"0.bias": model[0].bias.detach().clone()})


def test_scaled_gradients():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    defense = TIP(model, **FLOOR)
    scaler.scale(model(torch.randn(2, 3, 8, 8)).sum()).backward()
    with pytest.warns(RuntimeWarning, match=r"a GradScaler is at work .* scaler.unscale_\(optimizer\)"):
        defense.perturb_gradients()
    defense = TIP(model, **FLOOR)
    model.zero_grad()
    scaler.scale(model(torch.randn(2, 3, 8, 8)).sum()).backward()
    scaler.unscale_(optimizer)
    defense.perturb_gradients()


def test_a_scaler_that_nobody_holds_any_more(recwarn):
    model = net()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(1))
    scaler.itself = scaler  # a cycle, as an exception's frames make them
    del scaler
    gc.disable()
    try:
        backward(model)
        TIP(model, **FLOOR).perturb_gradients()
    finally:
        gc.enable()
    assert not [w for w in recwarn if "GradScaler" in str(w.message)]


def test_a_closure_with_an_attached_scaler():
    """Its gradients come after the only moment at which the scaler could unscale them."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    defense = TIP(model, **FLOOR)
    defense.attach(optimizer, scaler=scaler)

    def closure():
        scaler.scale(model(torch.randn(2, 3, 8, 8)).sum()).backward()

    closure()
    before = gradients(model)
    with pytest.raises(RuntimeError, match="expected a step without a closure, since a GradScaler is attached"):
        optimizer.step(closure)
    assert unchanged(model, before)
    assert defense.rng.step == 0


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("steps_by_scaler", [False, True])
def test_an_attached_scaler_unscales_first(fused, steps_by_scaler):
    results = []
    for scaled in (False, True):
        torch.manual_seed(0)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        TIP(model, **FLOOR, rng=NoiseRNG(KEY)).attach(optimizer, scaler=scaler)
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(2, 3, 8, 8)).square().sum()).backward()
            if steps_by_scaler:
                scaler.step(optimizer)
            else:
                optimizer.step()
            scaler.update()
        results.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*results)  # the scale is a power of two


def test_two_clients_with_one_key():
    model = net()
    updates = [{"0.weight": torch.randn(4, 3, 3, 3)} for _ in range(3)]
    one, other, third = (TIP(model, ratio=1.0, std=0.1, rng=NoiseRNG(KEY)) for _ in range(3))
    one.perturb_update(updates[0])
    with pytest.warns(RuntimeWarning, match=r"another NoiseRNG .* has the same key: .* NoiseRNG\(\) of its own"):
        other.perturb_update(updates[1])
    del one, third


# Models that hold their TIP


class Guarded(nn.Module):
    """A module that builds its own defense."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)
        self.defense = TIP(self, ratio=0.5, std=0.1)

    def forward(self, images):
        return self.head(self.conv(images).flatten(1))


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_and_loaded])
def test_a_model_that_holds_its_defense(copied):
    model = copied(copied(Guarded()))
    assert model.defense.model is model
    backward(model)  # the first forward pass has its scores
    model.defense.perturb_gradients()
    assert model.defense.selected()["conv.weight"].sum() == 2


def test_a_copy_of_a_copy_that_was_never_used():
    model = copy.deepcopy(copy.deepcopy(Guarded()).defense).model
    backward(model)
    model.defense.perturb_gradients()
    assert "ratio=0.5" in repr(model.defense)
    assert not hasattr(model.defense, "nonsense")


# Buffers


def difference(model) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn_like(value) if value.is_floating_point() else torch.ones_like(value)
        for name, value in model.state_dict().items()
    }


def test_buffers_may_be_withheld():
    model = net()
    update = difference(model)
    clip = {"max_grad_norm": 1.0, "ratio": 1.0, "std": 0.1, "floor_std": 0.1, "rng": NoiseRNG(KEY)}
    same = {name: tensor.clone() for name, tensor in update.items() if name in dict(model.named_parameters())}
    update["1.running_mean"] *= 1e6  # counts in no norm
    defense = TIP(model, buffers="withhold", scores="public", **clip)
    defense.perturb_update(update)
    TIP(model, scores="public", **{**clip, "rng": NoiseRNG(KEY)}).perturb_update(same)
    assert all(torch.equal(update[name], same[name]) for name in same)
    assert all(not update[name].any() for name, _ in model.named_buffers())
    assert defense.elements == sum(parameter.numel() for parameter in model.parameters())
    assert defense.noise_multiplier() == pytest.approx(0.1)


def test_a_counter_that_arrives_as_floats_is_no_part_of_the_norm():
    model = net()
    update = {"0.bias": torch.full((4,), 0.5), "1.num_batches_tracked": torch.tensor(24.0)}
    TIP(model, ratio=0.0, std=0.1, max_grad_norm=1.0).perturb_update(update)
    torch.testing.assert_close(update["0.bias"], torch.full((4,), 0.5), rtol=1e-5, atol=0)
    assert update["1.num_batches_tracked"] == 24


@pytest.mark.parametrize("buffers", ["send", "withhold"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights(buffers, dtype):
    model = net().to(dtype)
    settings = {"ratio": 1.0, "std": 5.0, "floor_std": 5.0, "buffers": buffers}
    received = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value + 1 for name, value in received.items()}
    update = {name: weights[name].float() - received[name].float() for name in weights}
    TIP(model, **settings, rng=NoiseRNG(KEY)).perturb_weights(weights, received)
    TIP(model, **settings, rng=NoiseRNG(KEY)).perturb_update(update)
    for name, value in weights.items():
        if name == "1.num_batches_tracked" or (buffers == "withhold" and "running" in name):
            assert torch.equal(value, received[name])
        else:
            want = (received[name].float() + update[name]).to(dtype)
            assert torch.equal(value, want.clamp(min=0) if name == "1.running_var" else want)
    assert (weights["1.running_var"] >= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights, _received: weights.pop("0.bias"), "got '0.bias' in received and not in weights"),
        (lambda _weights, received: received.pop("0.bias"), "got '0.bias' in weights and not in received"),
        (lambda weights, _received: weights["0.bias"].fill_(torch.nan), r"weights\['0.bias'\] to be finite"),
        (lambda _weights, received: received["0.bias"].fill_(torch.inf), r"received\['0.bias'\] to be finite"),
    ],
)
def test_weights_that_are_refused(change, message):
    model = net()
    received = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value + 1 for name, value in received.items()}
    change(weights, received)
    before = {name: value.clone() for name, value in weights.items()}
    defense = TIP(model, ratio=1.0, std=0.1, floor_std=0.1)
    with pytest.raises(ValueError, match=message):
        defense.perturb_weights(weights, received)
    for name in before:
        torch.testing.assert_close(weights[name], before[name], rtol=0, atol=0, equal_nan=True)
    assert defense.rng.step == 0


def sent_and_received(model, dtype=torch.float32):
    received = {name: value.to(dtype, copy=True) for name, value in model.state_dict().items()}
    return {name: value + 1 for name, value in received.items()}, received


def test_weights_twice():
    model = net()
    weights, received = sent_and_received(model)
    defense = TIP(model, ratio=1.0, std=0.1, floor_std=0.1)
    defense.perturb_weights(weights, received)
    with pytest.raises(RuntimeError, match=r"a TIP has perturbed already \[0\] \(0.weight\)"):
        defense.perturb_weights(weights, received)
    assert defense.rng.step == 1


@pytest.mark.parametrize("copied", [False, True])
def test_received_weights_that_the_training_has_changed(copied):
    """The difference is nothing then, and the trained weights would be sent without being clipped."""
    model = net()
    received = model.state_dict()
    with torch.no_grad():
        model[0].weight += 1
    weights = {name: value.clone() for name, value in received.items()} if copied else model.state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    defense = TIP(model, ratio=1.0, std=0.1, floor_std=0.1)
    with pytest.raises(ValueError, match=r"received to be copies from before the training, got .*0.weight"):
        defense.perturb_weights(weights, received)
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert defense.rng.step == 0


def test_a_client_that_has_not_trained_sends_noise():
    model = net()
    received = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value.clone() for name, value in received.items()}
    TIP(model, ratio=1.0, std=0.1, floor_std=0.1).perturb_weights(weights, received)
    assert not torch.equal(weights["0.weight"], received["0.weight"])


def test_weights_that_overflow_with_noise():
    model = net()
    weights, received = sent_and_received(model, torch.float16)
    received["0.bias"].fill_(65504)
    weights["0.bias"].fill_(65504)
    before = {name: value.clone() for name, value in weights.items()}
    defense = TIP(model, ratio=1.0, std=5000.0, floor_std=5000.0, rng=NoiseRNG(KEY))  # of which one number is large
    with pytest.raises(ValueError, match=r"weights with noise\['0.bias'\] to be finite"):
        defense.perturb_weights(weights, received)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_weights_in_a_dry_run():
    model = net()
    defense = TIP(model, ratio=1.0, std=0.1, floor_std=0.1)
    both = sent_and_received(model)
    with FakeTensorMode() as mode:
        weights, received = ({name: mode.from_tensor(tensor) for name, tensor in each.items()} for each in both)
        defense.perturb_weights(weights, received)
    assert defense.rng.step == 0


# Scores from elsewhere


def test_scores_go_from_one_to_another():
    model = net()
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    one, other = (TIP(model, ratio=0.5, std=0.1, rng=NoiseRNG(KEY), scores="public") for _ in range(2))
    one.measure(images, labels)
    other.set_scores(one.scores())
    updates = [{"0.weight": torch.zeros(4, 3, 3, 3)} for _ in range(2)]
    one.perturb_update(updates[0])
    other.perturb_update(updates[1])
    assert torch.equal(updates[0]["0.weight"], updates[1]["0.weight"])
    assert torch.equal(other.selected()["0.weight"], one.selected()["0.weight"])


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({"0.bias": torch.zeros(4)}, ValueError, "the model's conv kernels, got '0.bias'"),
        ({"0.weight": torch.zeros(3)}, ValueError, r"scores\['0.weight'\] of shape \(4,\), got \(3,\)"),
        ({"0.weight": torch.zeros(4, dtype=torch.float64)}, TypeError, "float32 tensor, got torch.float64"),
        ({"0.weight": [0.0] * 4}, TypeError, "float32 tensor, got list"),
    ],
)
def test_scores_that_are_refused(scores, error, message):
    defense = TIP(net(), **FLOOR)
    with pytest.raises(error, match=message):
        defense.set_scores(scores)
    assert defense.scores() == {}
