"""Grad-CAM capture against gradients taken by hand."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tip_kernels import TIP, saliency
from tip_kernels._tip.layout import Layout
from tip_kernels.saliency import GradCAM

EPS = 2.0**-24  # float32 unit roundoff


@pytest.fixture(autouse=True)
def on_device(backend):
    with backend.device:
        yield


def watch(model, backend):
    cam = GradCAM(backend)
    for module, kernels in Layout(model).layers:
        cam.watch(module, kernels)
    return cam


def by_hand(grad, axes):
    """(score, largest rounding error) of an output gradient [N, C, *spatial], in float64.

    Summing S values and then N in float32, in any order, is off by at most (S + N) roundoffs of the sum of magnitudes.
    """
    grad = grad.double() if grad.dim() == axes + 2 else grad.double().unsqueeze(0)
    flat = grad.flatten(2)
    error = (flat.shape[2] + len(flat)) * EPS * flat.abs().mean(2).sum(0)
    return flat.mean(2).abs().sum(0), error


def output_grad(model, index, x, loss):
    """Gradient of the loss by the output of layer ``index`` of a Sequential, by cutting it there."""
    cut = model[: index + 1](x).detach().requires_grad_()
    return torch.autograd.grad(loss(model[index + 1 :](cut.clone())), cut)[0]


def assert_score(score, grad, axes=2):
    want, error = by_hand(grad, axes)
    assert score.dtype == torch.float32
    assert (want > 0).any()
    assert ((score - want).abs() <= error).all()


def squares(logits):
    return logits.square().mean()


class Causal(nn.Conv1d):
    """A conv that returns a view."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (2, 2)))[..., :-2]


STACKS = {
    "plain": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)), (2, 3, 6, 6)),
    "relu in place": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5)),
        (2, 3, 6, 6),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)),
        (6, 3, 6, 6),
    ),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), nn.Flatten(), nn.Linear(54, 5)),
        (2, 3, 6, 6),
    ),
    "1-D": (lambda: nn.Sequential(nn.Conv1d(2, 4, 5), nn.Flatten(), nn.Linear(16, 5)), (3, 2, 8)),
    "3-D": (lambda: nn.Sequential(nn.Conv3d(1, 3, 3), nn.Flatten(), nn.Linear(24, 5)), (2, 1, 4, 4, 4)),
    "no batch": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(0)), (3, 6, 6)),
    "a view, written to": (lambda: nn.Sequential(Causal(2, 4, 3), nn.ReLU(inplace=True), nn.Flatten()), (3, 2, 8)),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(256, 5)),
        (2, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_hooks_match_gradients_by_hand(name, backend):
    torch.manual_seed(0)
    make, shape = STACKS[name]
    model, x = make(), torch.randn(shape)
    cam = watch(model, backend.name)
    grad = output_grad(model, 0, x, squares)
    squares(model(x)).backward()
    assert list(cam.scores) == [0]
    assert_score(cam.scores[0], grad, axes=len(model[0].kernel_size))


def test_scores_behind_batch_norm_are_not_rounding_noise(backend):
    torch.manual_seed(0)
    make, shape = STACKS["batch norm"]
    model, x = make(), torch.randn(shape)
    cam = watch(model, backend.name)
    grad = output_grad(model, 0, x, squares)
    squares(model(x)).backward()
    batch_sum = grad.double().sum(dim=(0, 2, 3)).abs()
    assert (batch_sum < 1e-3 * cam.scores[0]).all()  # zero but for rounding, and the scores are far above


def test_passes_and_micro_batches_add_up(backend):
    torch.manual_seed(0)
    make, shape = STACKS["plain"]
    model = make()
    cam = watch(model, backend.name)
    xs = [torch.randn(shape) for _ in range(3)]
    grads = [output_grad(model, 0, x, squares) for x in xs]
    squares(model(xs[0])).backward()
    (squares(model(xs[1])) + squares(model(xs[2]))).backward()
    assert_score(cam.scores[0], torch.cat(grads))


def test_a_layer_used_twice_adds_up(backend):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.tanh(self.conv(x)))

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 3, 5, 5)
    cam = watch(model, backend.name)
    first = model.conv(x)
    second = model.conv(torch.tanh(first))
    squares(second).backward(retain_graph=True)
    assert_score(cam.scores[0], torch.cat(torch.autograd.grad(squares(second), (first, second))))


def test_tied_weights_share_a_score(backend):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3))
    model[2].weight = model[0].weight
    x = torch.randn(2, 3, 6, 6)
    grads = [output_grad(model, i, x, squares).flatten(2) for i in (0, 2)]
    cam = watch(model, backend.name)
    squares(model(x)).backward()
    assert list(cam.scores) == [0]
    want = sum(by_hand(grad, 1)[0] for grad in grads)
    error = sum(by_hand(grad, 1)[1] for grad in grads) + EPS * want
    assert ((cam.scores[0] - want).abs() <= error).all()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_count_once(reentrant, backend):
    torch.manual_seed(0)
    make, shape = STACKS["relu in place"]
    model, x = make(), torch.randn(shape, requires_grad=True)
    cam = watch(model, backend.name)
    grad = output_grad(model, 0, x, squares)
    squares(checkpoint(model, x, use_reentrant=reentrant)).backward()
    assert_score(cam.scores[0], grad)


def test_autocast_gradients_are_accepted(backend):
    torch.manual_seed(0)
    make, shape = STACKS["plain"]
    model, x = make(), torch.randn(shape)
    cam = watch(model, backend.name)
    seen = []
    model[0].register_forward_hook(lambda _module, _args, output: output.register_hook(seen.append) and None)
    with torch.autocast(backend.device.type, dtype=torch.bfloat16):
        loss = squares(model(x))
    loss.backward()
    assert seen[0].dtype == torch.bfloat16
    assert_score(cam.scores[0], seen[0])


@pytest.fixture
def compiled():
    torch.compiler.reset()
    yield lambda model: torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.compiler.reset()


@pytest.mark.skipif(not saliency._HOOKS_IN_GRAPHS, reason="hooks are left out of the graphs of this torch")
def test_compiled_models_are_scored(compiled, backend):
    torch.manual_seed(0)
    make, shape = STACKS["batch norm"]
    model, x = make(), torch.randn(shape)
    grad = output_grad(model, 0, x, squares)
    cam = watch(model, backend.name)
    compiled_model = compiled(model)
    with torch.no_grad():
        compiled_model(x)
    cam.collect()
    assert cam.scores == {}
    for _ in range(2):
        waiting = squares(compiled_model(x))
        cam.drop([0])  # emptying the buffers leaves a graph between forward and backward intact
        assert cam.scores == {}
        waiting.backward()
        squares(compiled_model(x)).backward()
        cam.collect()
        assert_score(cam.scores[0], torch.cat([grad, grad]))
        cam.drop([0])
    squares(model(x)).backward()
    squares(compiled_model(x)).backward()
    cam.collect()
    assert_score(cam.scores[0], torch.cat([grad, grad]))


def test_compiled_models_are_measured(compiled, batch, backend):
    model = Classifier()
    cam, compiled_cam = watch(model, backend.name), GradCAM(backend.name)
    compiled_model = compiled(model)
    for module, kernels in Layout(model).layers:
        compiled_cam.watch(module, kernels)
    squares(compiled_model(batch[0])).backward()
    cam.measure(model, *batch)
    compiled_cam.measure(compiled_model, *batch)
    compiled_cam.collect()
    assert cam.scores.keys() == compiled_cam.scores.keys()
    assert all(torch.equal(cam.scores[place], compiled_cam.scores[place]) for place in cam.scores)


def test_function_transforms_leave_nothing_behind(backend):
    """Their gradients are wrapped, and would be of no use after the transform."""
    make, shape = STACKS["plain"]
    model, x = make(), torch.randn(shape)
    cam = watch(model, backend.name)

    def of_one(parameters, image):
        return squares(torch.func.functional_call(model, parameters, (image.unsqueeze(0),)))

    torch.func.vmap(torch.func.grad(of_one), (None, 0))(dict(model.named_parameters()), x)
    assert cam.scores == {}


def test_passes_without_gradients_add_nothing(backend):
    make, shape = STACKS["plain"]
    model = make()
    cam = watch(model, backend.name)
    with torch.no_grad():
        model(torch.randn(shape))
    with torch.inference_mode():
        model(torch.randn(shape))
    model(torch.randn(shape))  # no backward
    model[0].weight.requires_grad_(False)
    squares(model(torch.randn(shape))).backward()  # frozen
    assert cam.scores == {}


def test_nothing_is_kept_alive(backend):
    make, shape = STACKS["relu in place"]
    model = make()
    outputs = []
    cam = watch(model, backend.name)
    model[0].register_forward_hook(lambda _module, _args, output: outputs.append(weakref.ref(output)))
    gc.disable()
    try:
        loss = squares(model(torch.randn(shape)))
        del loss  # without backward
        squares(model(torch.randn(shape))).backward()
        cam.measure(model, torch.randn(shape), torch.tensor([0, 1]))
        assert len(outputs) == 3
        assert [output() for output in outputs] == [None] * 3
        references = [weakref.ref(model), weakref.ref(model[0]), weakref.ref(cam)]
        del model, cam
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_the_model_leave_its_scores_alone(clone, backend):
    torch.manual_seed(0)
    make, shape = STACKS["plain"]
    model = make()
    cam = watch(model, backend.name)
    other = clone(model)
    squares(other(torch.randn(shape))).backward()
    assert cam.scores == {}
    assert other[0](torch.randn(shape))._backward_hooks is None  # nor has the copy hooks that work for nobody
    squares(model(torch.randn(shape))).backward()
    assert list(cam.scores) == [0]


class Classifier(nn.Module):
    """All that ``measure`` could disturb: batch norm, dropout, an activation in place, a branch it cannot reach."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3)
        self.unused = nn.Conv2d(3, 4, 3)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(20, 6)

    def forward(self, x):
        x = torch.relu_(self.norm(self.conv1(x)))
        x = torch.relu_(self.conv2(x))
        return self.head(self.dropout(x.flatten(1)))


@pytest.fixture
def batch(on_device):
    torch.manual_seed(1)
    return torch.randn(3, 3, 6, 6), torch.tensor([0, 5, 2])


def logit_scores(model, images, labels):
    """By hand: gradients of the class logits by the outputs of conv1 and conv2, in evaluation mode."""
    model = copy.deepcopy(model).eval()
    first = model.conv1(images).detach().requires_grad_()
    second = model.conv2(torch.relu(model.norm(first)))
    logits = model.head(torch.relu(second).flatten(1))
    return torch.autograd.grad(logits[range(len(labels)), labels].sum(), (first, second))


@pytest.mark.parametrize("frozen", [False, True])
def test_measure_matches_logit_gradients_by_hand(frozen, batch, backend):
    torch.manual_seed(0)
    model = Classifier().requires_grad_(not frozen)
    cam = watch(model, backend.name)
    cam.measure(model, *batch)
    first, second = logit_scores(model.requires_grad_(True), *batch)
    places = [Layout(model).names.index(name) for name in ("conv1.weight", "conv2.weight")]
    assert sorted(cam.scores) == places  # and not the unused layer
    # The forward and backward here and by hand run the same kernels on the same values.
    assert_score(cam.scores[places[0]], first)
    assert_score(cam.scores[places[1]], second)


def test_measure_leaves_no_trace(batch, backend):
    torch.manual_seed(0)
    model = Classifier()
    model.norm.eval()  # a mixture of modes must survive
    model.conv1.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    cam = watch(model, backend.name)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = [module.training for module in model.modules()]
    model.head.register_forward_pre_hook(lambda _module, _args: torch.rand(1) and None)  # draws in any mode
    random_state = torch.get_rng_state()
    cam.measure(model, *batch)
    with torch.no_grad():
        cam.measure(model, *batch)
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.weight"]
    assert (model.head.weight.grad == 1).all()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
    assert not any(score.requires_grad for score in cam.scores.values())


class Counting(nn.Module):
    """Updates its buffers in every mode: in place, by assignment, and by adding one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.full((2,), float("nan")))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().flatten()[:2].clone()
        self.register_buffer("late", torch.ones(1))
        self.nothing = torch.ones(1)
        return x


def test_measure_puts_buffers_back_that_a_layer_updates_in_evaluation_mode(batch, backend):
    model = nn.Sequential(Classifier(), Counting())
    cam = watch(model[0], backend.name)
    buffers = dict(model[1]._buffers)
    cam.measure(model, *batch)
    assert model[1]._buffers.keys() == buffers.keys()
    assert all(model[1]._buffers[name] is buffer for name, buffer in buffers.items())
    assert model[1].calls == 0
    assert model[1].last.isnan().all()


class Merging(nn.Conv2d):
    """As low-rank adapters do, it changes its weight in evaluation mode, and changes it back."""

    def train(self, mode=True):
        with torch.no_grad():
            self.weight += 0 if mode == self.training else -1 if mode else 1
        return super().train(mode)


def test_measure_goes_back_to_training_by_train(batch, backend):
    model = nn.Sequential(Classifier(), nn.Identity())
    model[0].extra = Merging(1, 1, 1)
    before = model[0].extra.weight.detach().clone()
    watch(model[0], backend.name).measure(model, *batch)
    assert torch.allclose(model[0].extra.weight, before)
    assert all(module.training for module in model.modules())


def test_measured_scores_go_first(batch, backend):
    torch.manual_seed(0)
    model = Classifier().eval()
    cam = watch(model, backend.name)
    squares(model(batch[0])).backward()
    waiting = squares(model(batch[0]))
    cam.measure(model, *batch)
    measured = dict(cam.scores)
    waiting.backward()
    assert all(torch.equal(cam.scores[place], measured[place]) for place in measured)
    cam.measure(model, *batch)  # a second batch adds up; doubling is exact
    assert all(torch.equal(cam.scores[place], 2 * measured[place]) for place in measured)
    cam.drop(measured)
    assert cam.scores == {}
    squares(model(batch[0])).backward()
    assert cam.scores.keys() == measured.keys()
    assert not any(torch.equal(cam.scores[place], measured[place]) for place in measured)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"labels to be class numbers of shape \(3,\), got torch.int64 \(2,\)"),
        (torch.tensor([0.0, 1.0, 2.0]), "labels to be class numbers .* got torch.float32"),
        ([0, 1, 2], "labels to be class numbers .* got list"),
    ],
)
def test_measure_refuses_bad_labels(labels, message, batch, backend):
    model = Classifier()
    cam = watch(model, backend.name)
    with pytest.raises(ValueError, match=message):
        cam.measure(model, batch[0], labels)
    assert model.training
    assert cam.scores == {}
    squares(model(batch[0])).backward()
    assert len(cam.scores) == 2  # the hooks are back at work


def test_measure_refuses_what_is_no_classifier(batch, backend):
    model = nn.Conv2d(3, 4, 3)
    cam = watch(model, backend.name)
    with pytest.raises(ValueError, match=r"class logits of shape \[N, classes\], got \(3, 4, 4, 4\)"):
        cam.measure(model, *batch)
    with pytest.raises(RuntimeError, match="run a conv layer"):
        cam.measure(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), *batch)


def test_tip_removes_its_hooks(backend):
    model = Classifier()
    defense = TIP(model, backend=backend.name)
    assert len(model.conv1._forward_hooks) == 1
    defense.close()
    assert len(model.conv1._forward_hooks) == 0
    TIP(model, backend=backend.name)  # not kept: its hooks go with it
    assert len(model.conv1._forward_hooks) == 0
