"""What goes wrong in the middle: a step is perturbed whole or not taken, and no (key, step) makes noise twice."""

import linecache
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

import tip_kernels as tip
from tip_kernels import saliency

PACKAGE = str(pathlib.Path(tip.__file__).parent)
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Interrupted(KeyboardInterrupt):
    """As if the user had pressed a key."""


class Interruption:
    """Raises before the n-th line of the package's own Python that runs; counts lines.

    But never where a ``with`` statement ends: Python itself lets no signal in between a body and its ``__exit__``.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.lines = 0

    def __enter__(self) -> "Interruption":
        self._before = sys.gettrace()  # of what measures coverage
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_exception: object) -> None:
        sys.settrace(self._before)

    def _on_call(self, frame, _event, _argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        entered: set[int] = set()

        def on_line(frame, event, _argument):
            if event != "line" or frame.f_lineno in entered:
                return on_line
            if linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
                entered.add(frame.f_lineno)
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise Interrupted
            return on_line

        return on_line


class Training:
    """A small model, an optimizer with TIP attached, and a batch."""

    def __init__(self, backend: str, **settings) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        rng = tip.NoiseRNG.from_seed(1)
        self.defense = tip.TIP(self.model, ratio=1.0, std=0.1, floor_std=0.01, rng=rng, backend=backend, **settings)
        self.defense.attach(self.optimizer)
        self.batch = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])

    def backward(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.batch[0]), self.batch[1]).backward()

    def grads(self) -> list[torch.Tensor]:
        return [p.grad.clone() for p in self.model.parameters()]

    def weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


def lines_of(work: Callable[[], object]) -> int:
    with Interruption() as counter:
        work()
    return counter.lines


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 1.0}], ids=["plain", "clipped"])
def test_an_interrupted_step_is_perturbed_whole_or_not_taken(settings, backend):
    """At each of thirty lines, in turn: then the gradients, the weights, and the noise of the next attempt."""
    if backend.interpreted:
        pytest.skip("no GPU's launch can be interrupted half way, as that of Triton's interpreter can")
    training = Training(backend.name, **settings)
    training.backward()
    training.optimizer.step()  # fills the caches
    training = Training(backend.name, **settings)
    training.backward()
    lines = lines_of(training.optimizer.step)
    for at in random.Random(0).sample(range(1, lines - 9), 30):  # some lines less run once more is cached
        training = Training(backend.name, **settings)
        training.backward()
        clean, weights = training.grads(), training.weights()
        with Interruption(at), pytest.raises(Interrupted):
            training.optimizer.step()
        assert all(map(torch.equal, weights, training.weights())), "an interrupted step was taken"
        after = training.grads()
        changed = [not torch.equal(a, b) for a, b in zip(after, clean, strict=True)]
        assert len(set(changed)) == 1, "some gradients are perturbed and some are not"
        assert training.defense.rng.step >= changed[0]
        used = training.defense.rng.step
        training.backward()
        training.optimizer.step()
        assert training.defense.rng.step == used + 1
        if changed[0]:
            first, second = after[0] - clean[0], training.grads()[0] - clean[0]
            assert not torch.isclose(first, second, rtol=1e-3, atol=0).any(), "noise was repeated"


def test_an_interrupted_backward_pass_leaves_layers_protected(backend):
    """Wherever our hooks are interrupted, what has a gradient is perturbed, on all channels if its scores are lost."""
    training = Training(backend.name)
    lines = lines_of(training.backward)
    for at in random.Random(1).sample(range(1, lines - 9), 20):
        training = Training(backend.name)
        with Interruption(at), pytest.raises(Interrupted):
            training.backward()
        clean = {name: p.grad.clone() for name, p in training.model.named_parameters() if p.grad is not None}
        training.optimizer.step()
        for name, before in clean.items():
            assert not torch.equal(before, training.model.get_parameter(name).grad)


def test_an_exception_in_our_hook_stops_the_backward_pass(monkeypatch):
    training = Training("reference")

    def fail(*_args, **_options):
        raise OSError("on purpose")

    monkeypatch.setattr(saliency.dispatch, "saliency_op", lambda *_arguments: fail)
    with pytest.raises(OSError, match="on purpose"):
        training.backward()


def test_an_exception_in_a_hook_of_the_user_stops_the_step():
    training = Training("reference")
    training.optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    training.backward()
    weights = training.weights()
    with pytest.raises(ZeroDivisionError):
        training.optimizer.step()
    assert all(map(torch.equal, weights, training.weights()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 1.0}], ids=["plain", "clipped"])
def test_what_is_not_finite_stays_so_and_takes_no_noise_from_the_rest(value, settings, backend):
    """A NaN is sent as a NaN, for all to see, and never hides that another coordinate got no noise."""
    training = Training(backend.name, **settings)
    training.backward()
    training.model[4].weight.grad[0, 0] = value
    clean = training.grads()
    training.optimizer.step()
    grads = training.grads()
    assert not grads[4][0, 0].isfinite()
    for before, after in zip(clean, grads, strict=True):
        assert not (before == after)[before.isfinite()].any()
    assert training.defense.rng.step == 1


CHILD = """
import json, os, sys
import torch
import tip_kernels as tip

state, sent = sys.argv[1:]
rng = tip.NoiseRNG(bytes(range(32)))
if os.path.exists(state):
    rng.load_state_dict(json.load(open(state)))
print("ready", flush=True)
for _ in range(100_000):
    values = torch.zeros(4)
    tip.perturb_([values], [None], ratio=0, std=0.0, floor_std=1.0, rng=rng)
    with open(state + ".new", "w") as file:  # first the state, then the message
        json.dump(rng.state_dict(), file)
    os.replace(state + ".new", state)
    with open(sent, "ab") as file:
        file.write(values.numpy().tobytes())
"""


def test_a_killed_process_that_saved_its_state_before_sending_repeats_nothing(tmp_path):
    """Four times killed at any moment and started again with the same key: all that was sent differs."""
    state, sent = tmp_path / "state.json", tmp_path / "sent"
    pause = random.Random(2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, state, sent], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.1 * pause.random())
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    data = sent.read_bytes()
    messages = [data[i : i + 16] for i in range(0, len(data) // 16 * 16, 16)]
    assert len(messages) > 4
    assert len(set(messages)) == len(messages)
