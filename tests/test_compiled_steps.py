"""Training steps under ``torch.compile``: as good as eager ones, in few graphs that serve every later step."""

import pytest
import torch
from torch import nn

import tip_kernels as tip

KEY = bytes(32)
STEPS = 10

pytestmark = [
    pytest.mark.skipif(
        tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="scores in compiled graphs need torch 2.13"
    ),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),  # these two are torch's own
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 4 * 4, 10))


def batches():
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        yield torch.rand(4, 3, 8, 8, generator=draw), torch.randint(10, (4,), generator=draw)


class Training:
    """A model, its optimizer and its defense; ``backward`` and ``step`` are what is compiled."""

    def __init__(self, attached: bool = False) -> None:
        self.model = network()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.defense = tip.TIP(self.model, std=0.01, floor_std=0.001, max_grad_norm=1.0, rng=tip.NoiseRNG(KEY))
        self.attached = attached
        if attached:
            self.defense.attach(self.optimizer)

    def backward(self, images, labels):
        nn.functional.cross_entropy(self.model(images), labels).backward()
        if not self.attached:
            self.defense.perturb_gradients()

    def step(self, images, labels):
        self.optimizer.zero_grad()
        self.backward(images, labels)
        self.optimizer.step()

    def parameters(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


def trained(training: Training, step) -> torch.Tensor:
    """The parameters after some steps; nothing is compiled after the second."""
    for number, (images, labels) in enumerate(batches()):
        step(images, labels)
        if number == 1:
            graphs = compiled_graphs()
    assert compiled_graphs() == graphs
    assert training.defense.rng.step == STEPS
    return training.parameters()


def compiled_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def graph_breaks() -> int:
    """How many different ones: Dynamo counts the same one again where it starts a trace anew."""
    return len(torch._dynamo.utils.counters["graph_break"])


def eager() -> torch.Tensor:
    training = Training()
    return trained(training, training.step)


# Inductor computes the model's own numbers otherwise; the noise of a step is a thousand times this.
@pytest.mark.parametrize(("backend", "tolerance"), [("aot_eager", 0.0), ("inductor", 1e-6)])
@pytest.mark.parametrize("attached", [False, True], ids=["by hand", "attached"])
def test_whole_steps(attached, backend, tolerance):
    training = Training(attached)
    got = trained(training, torch.compile(training.step, backend=backend))
    assert graph_breaks() <= 3  # Dynamo's own: zero_grad(), backward(), and the optimizer's step
    torch.testing.assert_close(got, eager(), rtol=0, atol=tolerance)


def test_optimizer_steps():
    """An attached optimizer's step compiles as a whole."""
    training = Training(attached=True)
    training.optimizer.step = torch.compile(training.optimizer.step, backend="aot_eager")
    got = trained(training, training.step)
    assert graph_breaks() == 1  # torch's own, in front of the optimizer's arithmetic
    assert torch.equal(got, eager())


@pytest.mark.filterwarnings("ignore:Profiler function:UserWarning")  # torch's own
def test_optimizer_steps_with_a_budget():
    """Counting is not compiled: two breaks more, at each step, and none of the graphs anew."""
    pytest.importorskip("dp_accounting")
    public = next(batches())
    weights = []
    for compiled in (False, True):
        training = Training()
        target = {"epsilon": 8.0, "delta": 1e-4, "rounds": STEPS, "public": public, "buffers": "withhold"}
        protection = tip.protect(training.model, training.optimizer, **target, rng=tip.NoiseRNG(KEY))
        training.defense, training.attached = protection.defense, True
        if compiled:
            training.optimizer.step = torch.compile(training.optimizer.step, backend="aot_eager")
        weights.append(trained(training, training.step))
        assert protection.budget.messages == STEPS
        with pytest.raises(tip.BudgetExceeded):
            training.step(*public)
        assert torch.equal(training.parameters(), weights[-1])
    assert torch.equal(*weights)
    assert graph_breaks() == 3


@pytest.mark.parametrize(("backend", "tolerance"), [("aot_eager", 0.0), ("inductor", 1e-6)])
def test_forward_backward_and_noise_in_one_graph(backend, tolerance):
    training = Training()
    backward = torch.compile(training.backward, backend=backend, fullgraph=True)

    def step(images, labels):
        training.optimizer.zero_grad()
        backward(images, labels)
        training.optimizer.step()

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        got = trained(training, step)
    assert compiled_graphs() == 1
    torch.testing.assert_close(got, eager(), rtol=0, atol=tolerance)


def test_compiled_autograd():
    """The backward pass is traced with the model's hooks in it."""
    training = Training()
    training.model.forward = torch.compile(training.model.forward, backend="aot_eager")

    def step(images, labels):
        training.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(training.model(images), labels)
        torch.compile(lambda: loss.backward(), backend="aot_eager")()
        training.defense.perturb_gradients()
        training.optimizer.step()

    with torch._dynamo.config.patch(compiled_autograd=True):
        got = trained(training, step)
    assert torch.equal(got, eager())
