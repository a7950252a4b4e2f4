"""An attached optimizer never steps with conv gradients that were not perturbed, and perturbs them once."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from tip_kernels import TIP, NoiseRNG


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 8, 8), torch.tensor([0, 4, 2, 2])


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(128, 5))


def backward(model, batch):
    model.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()


def clean_and_used(model, optimizer, batch) -> tuple[dict, dict]:
    """The gradients before a step, and those that the step used."""
    backward(model, batch)
    clean = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    return clean, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# --- other parameters than before


def test_a_swap_of_as_many_parameters_is_seen(batch):
    """The head leaves the optimizer, a convolution comes in: as many parameters as before."""
    model = net()
    defense = TIP(model, ratio=1.0, std=0.1)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=0.1)
    defense.attach(optimizer)
    clean_and_used(model, optimizer, batch)
    optimizer.param_groups[0]["params"] = [*model[0].parameters(), *model[2].parameters()]
    clean, used = clean_and_used(model, optimizer, batch)
    assert not torch.equal(clean["2.weight"], used["2.weight"])


def test_a_swapped_order_is_harmless(batch):
    model = net()
    defense = TIP(model, ratio=1.0, std=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    optimizer.param_groups[0]["params"].reverse()
    clean, used = clean_and_used(model, optimizer, batch)
    assert [name for name in clean if not torch.equal(clean[name], used[name])] == ["0.weight", "2.weight"]


CHANGES = {
    "replaced": lambda model: model.__setitem__(2, nn.Conv2d(6, 8, 3)),
    "added": lambda model: model.insert(2, nn.Conv2d(6, 6, 3, padding=1)),
    "nested": lambda model: model.__setitem__(1, nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1))),
    "new parameter": lambda model: setattr(model[2], "weight", nn.Parameter(torch.randn(9, 6, 3, 3))),
    "linear": lambda model: model.__setitem__(4, nn.Linear(128, 5)),
}
UNKNOWN = r"expected the parameters that the model had when TIP was built, got a new or replaced layer: build a new TIP"


@pytest.mark.parametrize("how", ["attached", "by hand"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_came_later_stops_the_step(change, how, batch):
    model = net()
    defense = TIP(model, std=0.1, floor_std=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    CHANGES[change](model)
    if change == "new parameter":
        model[2].bias = nn.Parameter(torch.zeros(9))
        model[4] = nn.Linear(144, 5)
    weights = copy.deepcopy(model.state_dict())
    backward(model, batch)
    clean = {name: p.grad.clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match=UNKNOWN):
        optimizer.step() if how == "attached" else defense.perturb_gradients()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(clean[name], p.grad) for name, p in model.named_parameters())
    assert defense.rng.step == 0


def test_a_parameter_of_another_shape_is_another_parameter():
    """Also if nothing else has changed."""
    model = net()
    defense = TIP(model, std=0.1)
    model[2].weight = nn.Parameter(torch.randn(8, 6, 1, 1))
    model[2].weight.grad = torch.ones(8, 6, 1, 1)
    with pytest.raises(RuntimeError, match=UNKNOWN + r".*\(2.weight\)"):
        defense.perturb_gradients()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_is_new_though_it_lies_where_an_old_one_was(compiled, batch):
    """Python reuses the memory of what is gone, and with it the address; a compiled graph guards other things."""
    torch.compiler.reset()
    for _ in range(3 if compiled else 20):
        model = net()
        defense = TIP(model, std=0.1, floor_std=0.1)
        perturb = torch.compile(defense.perturb_gradients, backend="eager") if compiled else defense.perturb_gradients
        backward(model, batch)
        perturb()
        model[4] = None
        model[4] = nn.Linear(128, 5)
        backward(model, batch)
        with pytest.raises(RuntimeError, match=UNKNOWN):
            perturb()


@pytest.mark.parametrize("change", ["pruned", "frozen and pruned", "no bias"])
def test_parameters_that_are_gone_ask_for_a_new_tip(change, batch):
    model = net()
    defense = TIP(model, std=0.1)
    if change == "no bias":
        model[0].bias = None
    else:
        prune.l1_unstructured(model[4], "weight", 0.5)
        model[4].weight_orig.requires_grad_(change == "pruned")
    backward(model, batch)
    with pytest.raises(RuntimeError, match=UNKNOWN):
        defense.perturb_gradients()


def test_a_group_with_a_layer_that_came_later_stops_the_step(batch):
    model = net()
    defense = TIP(model, std=0.1)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    defense.attach(optimizer)
    model[2] = nn.Conv2d(6, 8, 3)
    optimizer.add_param_group({"params": [*model[2].parameters()]})
    backward(model, batch)
    with pytest.raises(RuntimeError, match=UNKNOWN):
        optimizer.step()


def test_an_update_with_a_layer_that_came_later_is_refused():
    model = net()
    defense = TIP(model, std=0.1, ratio=1.0)
    model[4] = nn.Conv2d(8, 5, 4)  # a convolution under the name of a linear layer
    update = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match=UNKNOWN + r".*\(4.weight\)"):
        defense.perturb_update(update)
    del update["4.weight"], update["4.bias"]
    defense.perturb_update(update)
    assert defense.rng.step == 1


def test_layers_without_parameters_and_frozen_ones_may_come_later(batch):
    model = net()
    defense = TIP(model, std=0.1, ratio=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    model.insert(1, nn.Identity())
    model.insert(2, nn.Conv2d(6, 6, 1).requires_grad_(False))
    clean, used = clean_and_used(model, optimizer, batch)
    changed = [name for name in clean if not torch.equal(clean[name], used[name])]
    assert len(changed) == 2
    model[2].requires_grad_(True)
    with pytest.raises(RuntimeError, match=UNKNOWN):
        clean_and_used(model, optimizer, batch)


def test_parameters_that_loading_replaced_leave_the_optimizer_behind(batch):
    """After ``assign=True`` the optimizer steps parameters that are no longer the model's: it must be built anew."""
    model = net()
    defense = TIP(model, std=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    backward(model, batch)
    with pytest.raises(ValueError, match="expected an optimizer of the model's parameters"):
        optimizer.step()


# --- once


def test_attaching_twice_is_refused():
    model = net()
    defense, other = TIP(model, std=0.1), TIP(model, std=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = defense.attach(optimizer)
    for again in (defense, other):
        with pytest.raises(RuntimeError, match="no TIP is attached to, got one whose gradients would get noise twice"):
            again.attach(optimizer)
    handle.remove()
    with other.attach(optimizer):
        pass
    defense.attach(optimizer)


class Careful(torch.optim.SGD):
    """Its step does something of its own around that of its base class."""

    def step(self, closure=None):
        return super().step(closure)


class Repeating(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        return super().step(closure)


@pytest.mark.parametrize("kind", [Careful, Repeating])
def test_a_step_within_a_step_perturbs_once(kind, batch):
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # has torch put its hooks around SGD.step too
    model = net()
    defense = TIP(model, std=0.1, ratio=0.3)
    optimizer = kind(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    for steps in (1, 2):
        clean, used = clean_and_used(model, optimizer, batch)
        assert defense.rng.step == steps
        changed = (clean["0.weight"] != used["0.weight"]).flatten(1).any(1)
        assert torch.equal(changed, defense.selected()["0.weight"])
        assert int(changed.sum()) == 2


def test_a_closure_within_a_step_within_a_step_perturbs_once(batch):
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    model = net()
    defense = TIP(model, std=0.1, ratio=0.3)
    optimizer = Careful(model.parameters(), lr=0.1)
    defense.attach(optimizer)

    def closure():
        backward(model, batch)
        return 1.0

    optimizer.step(closure)
    assert defense.rng.step == 1


class Deaf(torch.optim.SGD):
    """Takes a closure and does not use it."""

    def step(self, closure=None):
        return super().step()


class Odd(torch.optim.SGD):
    """Its argument is no closure."""

    def step(self, zero=False):
        super().step()
        return zero


def test_a_step_that_drops_its_closure_is_perturbed(batch):
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    model = net()
    defense = TIP(model, std=0.1, ratio=1.0)
    optimizer = Deaf(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    backward(model, batch)
    clean = model[0].weight.grad.clone()
    optimizer.step(lambda: None)
    assert defense.rng.step == 1
    assert not torch.equal(model[0].weight.grad, clean)


def test_an_argument_that_is_no_closure_is_left_alone(batch):
    model = net()
    defense = TIP(model, std=0.1, ratio=1.0)
    optimizer = Odd(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    backward(model, batch)
    assert optimizer.step(True) is True
    assert defense.rng.step == 1


class Bare(torch.optim.Optimizer):
    """Steps without a base class, and without its closure."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self, closure=None):
        pass


def test_a_step_that_used_raw_gradients_says_so(batch):
    model = net()
    optimizer = Bare(model.parameters())
    TIP(model, std=0.1, ratio=1.0).attach(optimizer)
    backward(model, batch)
    optimizer.step()
    with pytest.raises(RuntimeError, match="evaluates its closure, got one that did not"):
        optimizer.step(lambda: None)


class Failing(torch.optim.SGD):
    fails = True

    def step(self, closure=None):
        if self.fails:
            raise OSError("on purpose")
        return super().step(closure)


def test_after_a_step_that_failed_the_next_one_perturbs(batch):
    model = net()
    defense = TIP(model, std=0.1, ratio=1.0)
    optimizer = Failing(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    with pytest.raises(OSError, match="on purpose"):
        clean_and_used(model, optimizer, batch)
    optimizer.fails = False
    clean, used = clean_and_used(model, optimizer, batch)
    assert not torch.equal(clean["0.weight"], used["0.weight"])
    assert defense.rng.step == 2


# --- copies


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle{p}": lambda o, p=p: pickle.loads(pickle.dumps(o, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copied_optimizer_refuses_to_step_until_it_is_attached(duplicate, batch):
    model = net()
    defense = TIP(model, std=0.1, ratio=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    other_model, other = duplicate((model, optimizer)) if duplicate is not copy.copy else (model, copy.copy(optimizer))
    backward(other_model, batch)
    with pytest.raises(RuntimeError, match="got a copy of one, which is not attached itself"):
        other.step()
    its_defense = defense if other_model is model else TIP(other_model, std=0.1, ratio=1.0)
    its_defense.attach(other)
    clean, used = clean_and_used(other_model, other, batch)
    assert not torch.equal(clean["0.weight"], used["0.weight"])
    clean_and_used(model, optimizer, batch)  # the original is as it was


def test_no_hook_of_a_copy_takes_the_place_of_its_refusal(batch, monkeypatch):
    """A new process, which a copy may be unpickled in, counts its hooks from 0."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    TIP(model, std=0.1, ratio=1.0).attach(optimizer)
    other_model, other = copy.deepcopy((model, optimizer))
    monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "next_id", 0)
    seen = []
    for i in range(3):
        other.register_step_pre_hook(lambda *_, i=i: seen.append(i))
    backward(other_model, batch)
    with pytest.raises(RuntimeError, match="got a copy of one, which is not attached itself"):
        other.step()
    TIP(other_model, std=0.1, ratio=1.0).attach(other)
    other.step()
    assert seen == [0, 1, 2]  # attaching ends the refusal and nothing else


def test_a_copy_made_after_the_end_is_free(batch):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TIP(model, std=0.1, ratio=1.0).attach(optimizer):
        pass
    other = copy.copy(optimizer)
    clean, used = clean_and_used(model, other, batch)
    assert torch.equal(clean["0.weight"], used["0.weight"])


def test_loading_a_state_needs_no_attaching(batch):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    TIP(model, std=0.1, ratio=1.0).attach(optimizer)
    clean_and_used(model, optimizer, batch)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    clean, used = clean_and_used(model, other, batch)
    assert torch.equal(clean["0.weight"], used["0.weight"])


# --- faults


def test_an_error_in_the_perturbation_stops_the_step(batch):
    model = net()
    defense = TIP(model, std=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    backward(model, batch)
    model[0].weight.grad = model[0].weight.grad.to_sparse()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match=r"expected grads\[0\] \(0.weight\) to be strided"):
        optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert defense.rng.step == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_equals_an_eager_one(backend, batch):
    """Dynamo breaks its graph at the hook; what is computed is the same."""
    torch.compiler.reset()
    weights = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = net()
        defense = TIP(model, std=0.1, ratio=0.5, floor_std=0.01, max_grad_norm=1.0, rng=NoiseRNG.from_seed(1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        defense.attach(optimizer)
        step = torch.compile(optimizer.step, backend=backend) if compiled else optimizer.step
        for _ in range(3):
            backward(model, batch)
            step()
        assert defense.rng.step == 3
        weights.append([p.detach() for p in model.parameters()])
    # The compiled SGD of torch 2.10 rounds otherwise, without us too; the noise of a step is a thousand times that.
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)
