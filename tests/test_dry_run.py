"""Tensors without data: dry runs leave nothing behind, meta tensors and mixed devices are refused, keys survive."""

import io
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import tip_kernels as tip

KEY = bytes(range(32))
CPU = torch.device("cpu")


def call(grad: torch.Tensor, rng: tip.NoiseRNG, **options) -> None:
    scores = torch.arange(4.0)
    tip.perturb_([grad], [scores], **{"ratio": 0.5, "std": 0.123, "floor_std": 0.0456, "rng": rng, **options})


def grads(shape=(4, 3, 3, 3)) -> torch.Tensor:
    return torch.ones(shape)


def wanted(**options) -> torch.Tensor:
    """What a call does in a process that never had a dry run; by the reference, whose caches are others."""
    grad = grads()
    call(grad, tip.NoiseRNG(KEY), backend="reference", **options)
    return grad


MODES = {"fake": FakeTensorMode, "flops": lambda: FlopCounterMode(display=False)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_what_a_dry_run_makes_is_not_kept(mode, ratio, backend):
    """Amounts, bases and masks that were first used in a dry run: later calls make the noise that they should."""
    unique = {"std": 0.7001 + ratio, "floor_std": 0.0301 + ratio, "grad_scale": 0.9001, "cutoff": 0.6 + ratio / 10}
    rng = tip.NoiseRNG(KEY)
    with MODES[mode]():
        for options in ({}, {"masks": {(3, 3): torch.ones(3, 2, dtype=torch.bool)}} if mode != "fake" else {}):
            call(grads(), tip.NoiseRNG(KEY), backend=backend.name, ratio=ratio, **unique, **options)
    assert rng.step == 0
    with backend.device:
        grad = grads()
        call(grad, rng, backend=backend.name, ratio=ratio, **unique)
    assert rng.step == 1
    torch.testing.assert_close(grad.cpu(), wanted(ratio=ratio, **unique), rtol=0, atol=2e-3)
    assert not torch.equal(grad.cpu(), grads())


def test_a_dry_run_uses_no_step_and_shows_no_key():
    rng = tip.NoiseRNG(KEY)
    with FakeTensorMode():
        grad = grads()
        call(grad, rng)
        assert rng.state(CPU).shape == (6,)
        assert type(rng.state(CPU)) is type(grad)
    assert rng.step == 0
    assert rng.state(CPU)[:4].numpy().tobytes() == KEY


def test_a_key_made_in_a_dry_run_is_a_key():
    with FakeTensorMode():
        rng = tip.NoiseRNG(KEY)
    assert rng.state(CPU)[:4].numpy().tobytes() == KEY


def test_fake_gradients_outside_of_their_mode_change_nothing():
    with FakeTensorMode():
        grad = grads()
    rng = tip.NoiseRNG(KEY)
    with pytest.warns(UserWarning, match="data pointer of FakeTensor"), pytest.raises(Exception, match=r"(?i)fake"):
        call(grad, rng)
    assert rng.step == 0
    assert rng.state(CPU)[:4].numpy().tobytes() == KEY


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def test_tip_in_a_dry_run_keeps_its_scores_and_tables():
    torch.manual_seed(0)
    model = net()
    names = [name for name, _ in model.named_parameters()]
    amounts = {"std": {"0.weight": 0.1}, "floor_std": dict.fromkeys(names, 0.01), "max_grad_norm": 1.0}
    defense = tip.TIP(model, rng=tip.NoiseRNG(KEY), **amounts)
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 4, 2, 2])
    nn.functional.cross_entropy(model(images), labels).backward()
    scores = {place: score.clone() for place, score in defense._cam.scores.items()}
    with FakeTensorMode(allow_non_fake_inputs=True):
        update = {name: torch.zeros(p.shape) for name, p in model.named_parameters()}
        defense.perturb_update(update)
    assert defense.rng.step == 0
    assert defense._cam.scores.keys() == scores.keys()
    assert all(torch.equal(score, scores[place]) for place, score in defense._cam.scores.items())
    defense.perturb_gradients()  # would warn without scores
    assert defense.rng.step == 1
    assert int(defense.selected()["0.weight"].sum()) == 2


def test_real_gradients_in_a_dry_run_are_refused():
    rng = tip.NoiseRNG(KEY)
    grad = grads()
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(RuntimeError, match="got real ones, which get no noise"),
    ):
        tip.perturb_([grad], [None], ratio=0, std=0.0, floor_std=1.0, rng=rng)
    assert torch.equal(grad, grads())
    assert rng.step == 0


# --- devices


def test_a_meta_tensor_that_nobody_looks_at_does_not_choose_the_device():
    """It came first, took the key to meta and left the other gradients as they were."""
    rng = tip.NoiseRNG(KEY)
    grad = grads()
    others = [torch.ones(7, device="meta"), torch.ones(4, 3, 1, 1, device="meta")]
    scores = [None, torch.ones(4, device="meta")]
    tip.perturb_([*others, grad], [*scores, torch.arange(4.0)], ratio=0.5, std=0.1, rng=rng)
    assert not torch.equal(grad, grads())
    assert rng.step == 1
    assert rng.device.type == "cpu"


def test_a_call_for_meta_tensors_only_takes_its_step_where_the_state_is():
    rng = tip.NoiseRNG(KEY)
    tip.perturb_([torch.ones(7, device="meta")], [None], ratio=0.5, std=0.1, rng=rng)
    assert rng.step == 1
    assert rng.device.type == "cpu"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_gradients_on_meta_are_refused(first, both, backend):
    rng = tip.NoiseRNG(KEY)
    meta, other = torch.ones(4, 3, 3, 3, device="meta"), None if both else backend.gradient(4, 3, 3, 3)
    tensors = [meta, other] if first else [other, meta]
    before = None if both else other.clone()
    scores = [None if tensor is None else torch.ones(4, device=tensor.device) for tensor in tensors]
    with pytest.raises(ValueError, match=r"(hold data|every gradient on).*meta"):
        backend.perturb_(tensors, scores, ratio=0.5, std=0.1, rng=rng)
    assert both or torch.equal(other, before)
    assert rng.step == 0
    assert rng.state(CPU)[:4].numpy().tobytes() == KEY


def test_the_key_does_not_go_where_it_would_be_lost():
    rng = tip.NoiseRNG(KEY)
    with pytest.raises(ValueError, match="expected a device that holds data, got meta"):
        rng.state(torch.device("meta"))
    assert rng.state(CPU)[:4].numpy().tobytes() == KEY


def test_tip_on_a_model_on_meta_says_so():
    with torch.device("meta"):
        model = net()
    with pytest.raises(ValueError, match=r"model that holds data, got one on meta: to_empty\(\) it first \(0.weight\)"):
        tip.TIP(model)


def test_an_update_on_two_devices_is_refused():
    model = net()
    defense = tip.TIP(model, ratio=1.0, floor_std=0.1, rng=tip.NoiseRNG(KEY))
    update = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    update["0.bias"] = update["0.bias"].to("meta")
    with pytest.raises(ValueError, match=r"every gradient on cpu, got grads\[1\] \(0.bias\) on meta"):
        defense.perturb_update(update)
    assert not update["0.weight"].any()
    assert defense.rng.step == 0


# --- recorders


def _export(function, grad):
    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    return torch.export.export(Module(), (grad,))


RECORDERS = {
    "make_fx": lambda function, grad: make_fx(function)(grad),
    "make_fx of fake tensors": lambda function, grad: make_fx(function, tracing_mode="fake")(grad),
    "torch.jit.trace": lambda function, grad: torch.jit.trace(function, (grad,)),
    "torch.export": _export,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("recorder", RECORDERS)
def test_no_graph_takes_the_key(recorder):
    """A graph that was recorded outside of torch.compile holds the state as a constant, and is saved with it."""
    rng = tip.NoiseRNG(KEY)

    def function(x):
        y = x * 2
        call(y, rng)
        return y

    with pytest.raises(Exception, match="the graph that it makes would hold the key"):
        RECORDERS[recorder](function, grads())
    assert rng.step == 0


def test_no_pickle_of_anything_of_ours_takes_the_key():
    model = net()
    defense = tip.TIP(model, rng=tip.NoiseRNG(KEY))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    file = io.BytesIO()
    torch.save([defense, optimizer, model, defense.rng], file)
    for data in (file.getvalue(), pickle.dumps([defense, optimizer, model, defense.rng])):
        assert KEY not in data
