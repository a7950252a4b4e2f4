"""TIP, the drop-in class, against perturb_ called by hand."""

import copy
import gc
import pickle
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tip_kernels import TIP, NoiseRNG

EPS = 2.0**-24  # float32 unit roundoff
KERNELS = ["conv1.weight", "conv2.weight", "conv3.weight"]


@pytest.fixture(autouse=True)
def on_device(backend):
    torch.manual_seed(0)
    with backend.device:
        yield


@pytest.fixture
def batch(on_device):
    return torch.randn(4, 3, 8, 8), torch.tensor([0, 4, 2, 2])


def net() -> nn.Sequential:
    """3x3, grouped 3x3 and 1x1 convs, a batch norm, activations in place, a linear layer."""
    layers = [
        ("conv1", nn.Conv2d(3, 6, 3)),
        ("norm", nn.BatchNorm2d(6)),
        ("relu1", nn.ReLU(inplace=True)),
        ("conv2", nn.Conv2d(6, 8, 3, groups=2)),
        ("relu2", nn.ReLU(inplace=True)),
        ("conv3", nn.Conv2d(8, 4, 1)),
        ("flatten", nn.Flatten()),
        ("head", nn.Linear(64, 5)),
    ]
    return nn.Sequential(OrderedDict(layers))


def twin(model):
    """A copy with the same weights, gradients and no hooks of ours that work."""
    return copy.deepcopy(model)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def backward_with_scores(model, batch, backend, passes=1):
    """Runs the backward pass and returns the scores by parameter name, from hooks of the test's own."""
    seen = {name: [] for name, module in model.named_modules() if hasattr(module, "kernel_size")}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, grads=grads: output.register_hook(grads.append) and None
        )
        for name, grads in seen.items()
    ]
    for _ in range(passes):
        loss(model, batch).backward()
    for handle in handles:
        handle.remove()
    return {f"{name}.weight": sum(backend.channel_saliency(grad) for grad in grads) for name, grads in seen.items()}


def perturb_by_hand(model, scores, backend, **options):
    names, parameters = zip(*model.named_parameters(), strict=True)
    scores = [scores.get(name) for name in names]
    backend.perturb_([parameter.grad for parameter in parameters], scores, names=names, **options)


def grads(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def renew_gradients(model):
    """As another backward pass would, but for the scores."""
    for parameter in model.parameters():
        parameter.grad = parameter.grad.clone()


def same(a, b):
    """Bit for bit, None included."""
    assert a.keys() == b.keys()
    return all((a[k] is None and b[k] is None) or torch.equal(a[k], b[k]) for k in a)


CORNERS = torch.tensor([[False, False], [False, True], [False, True]], device="cpu")
OPTIONS = {
    "paper": {"ratio": 0.5, "std": 0.1},
    "everything": {"ratio": 0.3, "std": 0.2, "cutoff": 0.75, "keep": 0.0, "floor_std": 0.01},
    "custom mask": {"ratio": 1.0, "std": 0.1, "masks": {(3, 3): CORNERS}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_as_by_hand(name, batch, backend):
    model = net()
    other = twin(model)
    defense = TIP(model, rng=NoiseRNG.from_seed(1), backend=backend.name, **OPTIONS[name])
    rng = NoiseRNG.from_seed(1)
    for passes in (1, 2):  # the second step accumulates two backward passes, of other images
        model.zero_grad()
        other.zero_grad()
        images = batch[0] * torch.randn_like(batch[0])
        for _ in range(passes):
            loss(model, (images, batch[1])).backward()
        scores = backward_with_scores(other, (images, batch[1]), backend, passes)
        clean = grads(other)
        defense.perturb_gradients()
        perturb_by_hand(other, scores, backend, rng=rng, **OPTIONS[name])
        assert same(grads(model), grads(other))
        assert not torch.equal(model.conv1.weight.grad, clean["conv1.weight"])


def test_amounts_by_name(batch, backend):
    model = net()
    other = twin(model)
    names = [name for name, _ in model.named_parameters()]
    std = dict.fromkeys(KERNELS, 0.1) | {"conv2.weight": 0.5}
    floor_std = {name: 0.01 * i for i, name in enumerate(names)}
    defense = TIP(model, std=std, floor_std=floor_std, rng=NoiseRNG.from_seed(1), backend=backend.name)
    loss(model, batch).backward()
    scores = backward_with_scores(other, batch, backend)
    defense.perturb_gradients()
    perturb_by_hand(
        other, scores, backend, rng=NoiseRNG.from_seed(1), ratio=0.3,
        std=torch.tensor([std.get(name, 0.0) for name in names]),
        floor_std=torch.tensor([floor_std[name] for name in names]),
    )  # fmt: skip
    assert same(grads(model), grads(other))


def test_selected_is_what_changed(batch, backend):
    model = net()
    defense = TIP(model, ratio=0.4, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    before = grads(model)
    defense.perturb_gradients()
    after = grads(model)
    selected = defense.selected()
    assert list(selected) == KERNELS
    for name, mask in selected.items():
        assert torch.equal(mask, (after[name] != before[name]).flatten(1).any(1))
    assert [int(selected[name].sum()) for name in KERNELS] == [3, 4, 0]  # ceil(0.4 C); a 1x1 has no high band
    assert all(torch.equal(after[name], before[name]) for name in after if name not in KERNELS)


def test_transposed_convs(batch, backend):
    model = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 6, 3, groups=2),  # an ordinary tensor
        nn.Flatten(),
        nn.Linear(6 * 144, 5),
    )
    defense = TIP(model, ratio=0.5, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    before = grads(model)
    defense.perturb_gradients()
    changed = {name: (grad != before[name]) for name, grad in grads(model).items()}
    assert [name for name, change in changed.items() if change.any()] == ["0.weight"]
    selected = defense.selected()["0.weight"]
    assert torch.equal(changed["0.weight"].flatten(2).any(2).all(0), selected)  # dimension 1 is C_out
    assert selected.sum() == 2


def top_half(scores):
    return scores >= scores.sort(descending=True).values[len(scores) // 2 - 1]


@pytest.mark.parametrize("second", [nn.Conv2d, nn.ConvTranspose2d])
def test_tied_kernels_have_the_scores_of_all_layers_of_the_first_kind(second, batch, backend):
    """A transposed conv has its output channels where a conv has its input channels."""
    layers = [("conv1", nn.Conv2d(3, 8, 3)), ("conv2", nn.Conv2d(8, 8, 3)), ("again", second(8, 8, 3, padding=1))]
    model = nn.Sequential(OrderedDict([*layers, ("flatten", nn.Flatten()), ("head", nn.Linear(128, 5))]))
    model.again.weight = model.conv2.weight
    with torch.no_grad():  # the second use alone would have the first half selected
        model.head.weight.view(5, 8, -1)[:, :4] *= 100
    other = twin(model)
    defense = TIP(model, ratio=0.5, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    scores = backward_with_scores(other, batch, backend)
    defense.perturb_gradients()
    both, first = scores["conv2.weight"] + scores["again.weight"], scores["conv2.weight"]
    assert not torch.equal(top_half(both), top_half(first))
    assert torch.equal(defense.selected()["conv2.weight"], top_half(both if second is nn.Conv2d else first))


def test_reparametrised_kernels(batch, backend):
    model = net()
    weight_norm(model.conv2)
    defense = TIP(model, ratio=0.5, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    before = grads(model)
    defense.perturb_gradients()
    direction = "conv2.parametrizations.weight.original1"
    after = grads(model)
    assert defense.selected()[direction].sum() == 4
    assert not torch.equal(after[direction], before[direction])


def test_noise_of_a_layer_does_not_depend_on_the_others(batch, backend):
    """Frozen and unreached layers keep their places."""
    released = []
    for frozen in (False, True):
        torch.manual_seed(0)
        model = net()
        model.add_module("unreached", nn.Conv2d(3, 3, 3))
        model.forward = lambda x, model=model: nn.Sequential(*list(model)[:-1])(x)
        model.conv1.requires_grad_(not frozen)
        defense = TIP(model, std=0.1, floor_std=0.1, rng=NoiseRNG.from_seed(1), backend=backend.name)
        loss(model, batch).backward()
        defense.perturb_gradients()
        assert (model.conv1.weight.grad is None) == frozen
        assert model.unreached.weight.grad is None
        assert list(defense.selected()) == KERNELS[frozen:]
        released.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.equal(released[0][name], grad) for name, grad in released[1].items())


def test_replaced_parameters_are_found(batch, backend):
    model = net()
    defense = TIP(model, ratio=1.0, std=0.1, backend=backend.name)
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    loss(model, batch).backward()
    before = grads(model)
    defense.perturb_gradients()
    assert not same(before, grads(model))


def test_kernels_without_scores_are_protected_whole(batch, backend):
    model = net()
    defense = TIP(model, ratio=0.2, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    defense.perturb_gradients()
    assert not defense.selected()["conv1.weight"].all()
    renew_gradients(model)
    before = grads(model)
    with pytest.warns(RuntimeWarning, match=r"no Grad-CAM scores .* conv1.weight, conv2.weight, conv3.weight"):
        defense.perturb_gradients()  # scores are used once
    assert defense.selected()["conv1.weight"].all()
    assert (grads(model)["conv2.weight"] != before["conv2.weight"]).flatten(1).any(1).all()
    renew_gradients(model)
    defense.perturb_gradients()  # the warning comes once


@pytest.mark.parametrize(("layers", "named"), [(3, "0.weight, 1.weight, 2.weight:"), (5, "2.weight and 2 more:")])
def test_the_warning_names_three_kernels(layers, named, backend):
    model = nn.Sequential(*[nn.Conv2d(1, 2, 3) for _ in range(layers)])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.warns(RuntimeWarning, match=named):
        TIP(model, backend=backend.name).perturb_gradients()


def test_public_scores_do_not_depend_on_the_training_data(batch, backend):
    """The selection is that of the probe batch, in every call and whatever was trained on."""
    probe = torch.randn(4, 3, 8, 8), torch.tensor([1, 3, 0, 2])
    model = net()
    reference = TIP(twin(model), ratio=0.3, backend=backend.name)
    reference.measure(*probe)
    reference.perturb_update(difference(model, 3))
    defense = TIP(model, ratio=0.3, scores="public", backend=backend.name)
    defense.measure(*probe)
    for images in (batch[0], 100 * batch[0].flip(1)):
        loss(model, (images, batch[1])).backward()
        defense.perturb_gradients()
        selected = defense.selected()
        assert all(torch.equal(mask, selected[name]) for name, mask in reference.selected().items())


def test_public_scores_are_replaced_by_the_next_measurement(batch, backend):
    """Batches without a call between them add up, the first after a call starts anew."""
    model = net().eval()
    one, two = [(part, batch[1][:2]) for part in batch[0].split(2)]
    defense = TIP(model, scores="public", backend=backend.name)
    defense.measure(*one)
    first = dict(defense._cam.scores)
    defense.measure(*two)
    both = dict(defense._cam.scores)
    defense.perturb_update(difference(model, 3))
    assert same(defense._cam.scores, both)
    defense.measure(*two)
    second = defense._cam.scores
    # The same float32 sums, in another order: one rounding of a sum of positive numbers.
    assert all(((both[place] - first[place] - second[place]).abs() <= 4 * EPS * both[place]).all() for place in both)


def test_public_scores_must_be_measured_first(batch, backend):
    model = net()
    defense = TIP(model, scores="public", max_grad_norm=0.1, floor_std=0.1, backend=backend.name)
    loss(model, batch).backward()
    before = grads(model)
    with pytest.raises(RuntimeError, match="public images before the first perturb call"):
        defense.perturb_gradients()
    assert same(grads(model), before)
    assert defense.rng.step == 0
    defense.measure(*batch)
    defense.perturb_gradients()
    defense.reset()
    renew_gradients(model)
    with pytest.raises(RuntimeError, match="got no scores"):
        defense.perturb_gradients()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_all_or_none_needs_no_scores(ratio, batch, backend):
    model = net()
    defense = TIP(model, ratio=ratio, scores="public", backend=backend.name)
    defense.perturb_update(difference(model, 3))
    assert defense.selected()["conv1.weight"].float().mean() == ratio


def test_reset_forgets_scores(batch, backend):
    model = net()
    defense = TIP(model, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    defense.reset()
    with pytest.warns(RuntimeWarning, match="no Grad-CAM scores"):
        defense.perturb_gradients()


def test_ratio_zero_selects_nothing(batch, backend):
    model = net()
    defense = TIP(model, ratio=0.0, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    before = grads(model)
    defense.perturb_gradients()
    renew_gradients(model)
    defense.perturb_gradients()
    assert same(before, grads(model))
    assert not any(mask.any() for mask in defense.selected().values())


def test_the_norm_is_not_underestimated_for_many_elements(backend):
    """In float32 the squares of a few million equal numbers add up to too little, and of a slice to half."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(2048, 1024))
    settings = {"ratio": 0, "std": 1e-9, "floor_std": 1e-9, "max_grad_norm": 1.0, "backend": backend.name}
    defense = TIP(model, **settings, scores="public")
    for update in (torch.full((1024, 2048), 1e-3), torch.ones(1024, 2064)[:, :2048], torch.randn(1024, 2048)):
        defense.perturb_update({"1.weight": update})
        assert update.double().norm() <= 1 + 1e-5


def test_settings_are_copies(batch, backend):
    model = net()
    names = [name for name, _ in model.named_parameters()]
    std, floor_std, masks = dict.fromkeys(KERNELS, 0.5), dict.fromkeys(names, 0.1), {(3, 3): CORNERS.clone()}
    options = {"ratio": 1.0, "scores": "public", "max_grad_norm": torch.tensor(1.0), "backend": backend.name}
    defense = TIP(model, std=std, floor_std=floor_std, masks=masks, **options)
    before = defense.noise_multiplier(), repr(defense)
    floor_std[names[0]] = std[KERNELS[0]] = 5.0
    masks[3, 3].zero_()
    options["max_grad_norm"].fill_(100.0)
    assert (defense.noise_multiplier(), repr(defense)) == before
    with pytest.raises(AttributeError):
        defense.rng = NoiseRNG()


def test_a_skipped_overflow_does_not_spoil_the_next_selection(batch, backend):
    model = net()
    other = twin(model)
    defense = TIP(model, ratio=0.3, std=0.1, backend=backend.name)
    alone = TIP(other, ratio=0.3, std=0.1, backend=backend.name)
    (loss(model, batch) * 3e38 * 10).backward()  # infinite: a GradScaler skips the step that follows
    model.zero_grad()
    for one, its_defense in ((model, defense), (other, alone)):
        one.train()
        loss(one, batch).backward()
        its_defense.perturb_gradients()
    for name in KERNELS[:2]:
        assert torch.equal(defense.selected()[name], alone.selected()[name])


def test_buffers_go_by_the_dtype_of_the_model(batch, backend):
    model = net()
    defense = TIP(model, ratio=1.0, std=0.1, floor_std=0.1, backend=backend.name)
    update = difference(model, 3)
    for bad in (torch.arange(6), torch.full((6,), 1 + 2j)):
        before = {name: tensor.clone() for name, tensor in update.items()}
        with pytest.raises(TypeError, match=r"update\['norm.running_var'\] of a floating dtype as in the model, got"):
            defense.perturb_update(update | {"norm.running_var": bad})
        assert same(update, before)
    counter = torch.tensor(24.0)  # some servers send every average as a float
    defense.perturb_update(update | {"norm.num_batches_tracked": counter})
    assert counter == 24


# --- optimizers


def step(model, optimizer, batch):
    optimizer.zero_grad()
    loss(model, batch).backward()
    optimizer.step()


def test_attach_and_detach(batch, backend):
    model = net()
    other = twin(model)
    defense = TIP(model, std=0.1, rng=NoiseRNG.from_seed(1), backend=backend.name)
    by_hand = TIP(other, std=0.1, rng=NoiseRNG.from_seed(1), backend=backend.name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = defense.attach(optimizer)
    step(model, optimizer, batch)
    loss(other, batch).backward()
    by_hand.perturb_gradients()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert same(model.state_dict(), other.state_dict())
    handle.remove()
    step(model, optimizer, batch)
    assert defense.rng.step == 1


def test_each_optimizer_its_own_parameters(batch, backend):
    model = net()
    defense = TIP(model, std=0.1, floor_std=0.1, backend=backend.name)
    first = torch.optim.SGD([*model.conv1.parameters()], lr=0.0)
    second = torch.optim.SGD([*model.conv2.parameters(), *model.conv3.parameters()], lr=0.0)
    defense.attach(first)
    defense.attach(second)
    loss(model, batch).backward()
    before = grads(model)
    first.step()
    between = grads(model)
    assert [n for n in before if not torch.equal(before[n], between[n])] == ["conv1.weight", "conv1.bias"]
    assert list(defense.selected()) == ["conv1.weight"]
    second.step()  # still has its scores: no warning
    after = grads(model)
    assert [n for n in before if not torch.equal(between[n], after[n])] == [
        "conv2.weight", "conv2.bias", "conv3.weight", "conv3.bias",
    ]  # fmt: skip
    assert list(defense.selected()) == ["conv2.weight", "conv3.weight"]
    first.add_param_group({"params": [*model.head.parameters()]})
    loss(model, batch).backward()
    before = grads(model)
    first.step()
    assert not torch.equal(before["head.weight"], model.head.weight.grad)


def test_attach_refuses_foreign_parameters(backend):
    defense = TIP(net(), backend=backend.name)
    with pytest.raises(ValueError, match=r"optimizer of the model's parameters, got one of shape \(2, 3\)"):
        defense.attach(torch.optim.SGD([nn.Parameter(torch.zeros(2, 3))], lr=0.1))


@pytest.mark.parametrize("keyword", [False, True])
def test_closures(keyword, batch, backend):
    model = net()
    defense = TIP(model, std=1e-4, backend=backend.name)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=3)
    defense.attach(optimizer)
    evaluations = []

    def closure():
        optimizer.zero_grad()
        evaluations.append(loss(model, batch))
        evaluations[-1].backward()
        return evaluations[-1]

    returned = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert returned is evaluations[0]
    assert len(evaluations) > 1
    assert defense.rng.step == len(evaluations)


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(fused, batch, backend):
    model = net()
    other = twin(model)
    defense = TIP(model, std=0.1, rng=NoiseRNG.from_seed(1), backend=backend.name)
    unscaled = TIP(other, std=0.1, rng=NoiseRNG.from_seed(1), backend=backend.name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    defense.attach(optimizer)
    scaler = torch.amp.GradScaler(backend.device.type, init_scale=1024.0)
    scaler.scale(loss(model, batch)).backward()
    if fused:
        with pytest.raises(RuntimeError, match=r"call scaler.unscale_\(optimizer\) before"):
            scaler.step(optimizer)
        assert defense.rng.step == 0
        return
    scaler.step(optimizer)
    loss(other, batch).backward()
    unscaled.perturb_gradients()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    # A scale of 2^10 changes exponents only: nothing here overflows or underflows.
    assert same(model.state_dict(), other.state_dict())


def test_grad_scaler_with_a_fused_optimizer_unscaled_first(batch, backend):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    defense = TIP(model, std=0.1, backend=backend.name)
    defense.attach(optimizer)
    scaler = torch.amp.GradScaler(backend.device.type)
    scaler.scale(loss(model, batch)).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert defense.rng.step == 1


# --- clipping


def norm(tensors):
    return torch.cat([tensor.double().flatten() for tensor in tensors]).norm()


@pytest.mark.parametrize("max_norm", [0.05, 1e6])
def test_clipping_as_clip_grad_norm(max_norm, batch, backend):
    model = net()
    other = twin(model)
    options = {"ratio": 0.5, "std": 0.01, "floor_std": 0.001, "backend": backend.name}
    clipped = TIP(model, max_grad_norm=max_norm, rng=NoiseRNG.from_seed(1), **options)
    plain = TIP(other, rng=NoiseRNG.from_seed(1), **options)
    loss(model, batch).backward()
    loss(other, batch).backward()
    total = nn.utils.clip_grad_norm_(other.parameters(), max_norm)
    assert (total > max_norm) == (max_norm == 0.05)
    scaled = grads(other)
    clipped.perturb_gradients()
    plain.perturb_gradients()
    count = sum(p.numel() for p in model.parameters())
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        # The two norms sum `count` squares in float32, each with a relative error below count * EPS; then the noise
        # is the same, and a kernel of 9 taps takes fewer than 32 roundings of values below the largest.
        error = 2 * count * EPS * scaled[name].abs() + 32 * EPS * b.grad.abs().max()
        assert ((a.grad - b.grad).abs() <= error).all()


def test_the_norm_of_half_gradients_is_taken_in_float32(backend):
    model = nn.Conv2d(8, 8, 3).bfloat16()
    defense = TIP(model, ratio=0.0, max_grad_norm=1.0, backend=backend.name)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    defense.perturb_gradients()
    # Each of the values is rounded to 8 bits, to nearest: their norm is off by at most 2^-9 of itself.
    assert abs(norm(p.grad for p in model.parameters()) - 1) < 2**-9 + 1e-5


@pytest.mark.parametrize("wide", [["weight", "bias"], ["bias"]])
def test_the_norm_is_taken_in_float64_if_any_gradient_is(wide, backend):
    """Squares of 1e30 are too large for float32."""
    model = nn.Conv2d(8, 8, 3)
    for name in wide:
        setattr(model, name, nn.Parameter(getattr(model, name).double()))
    defense = TIP(model, ratio=0.0, max_grad_norm=1e30, backend=backend.name)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    defense.perturb_gradients()
    assert norm(p.grad for p in model.parameters()).item() == pytest.approx(1e30, rel=8 * EPS)  # of factor and products


# --- updates


def difference(model, seed):
    """What a client would send: floats for every entry of the state, integers for counters."""
    generator = torch.Generator(backend_device(model)).manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.full_like(value, 7)
        for name, value in model.state_dict().items()
    }


def backend_device(model):
    return next(model.parameters()).device


def test_update_as_by_hand(batch, backend):
    model = net()
    other = twin(model)
    defense = TIP(model, std=0.1, floor_std=0.01, rng=NoiseRNG.from_seed(1), backend=backend.name)
    defense.measure(*batch)
    other.eval()
    seen = {}
    for name in ("conv1", "conv2", "conv3"):
        other.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: output.register_hook(lambda g: seen.update({name: g})) and None
        )
    other(batch[0]).gather(1, batch[1].unsqueeze(1)).sum().backward()
    update, want = difference(model, 3), difference(model, 3)
    defense.perturb_update(update)
    names = [name for name, _ in model.named_parameters()] + [name for name, _ in model.named_buffers()]
    tensors = [want[name] if want[name].is_floating_point() else None for name in names]
    scores = [
        backend.channel_saliency(seen[name.removesuffix(".weight")]) if name in KERNELS else None for name in names
    ]
    backend.perturb_(tensors, scores, ratio=0.3, std=0.1, floor_std=0.01, rng=NoiseRNG.from_seed(1))
    assert same(update, want)
    assert update["norm.num_batches_tracked"] == 7
    assert not torch.equal(update["norm.running_mean"], difference(model, 3)["norm.running_mean"])


def test_an_integer_buffer_may_be_the_first(backend):
    model = nn.Conv2d(3, 4, 3)
    model.register_buffer("rounds", torch.tensor(3))
    defense = TIP(model, ratio=0.0, floor_std=0.1, backend=backend.name)
    update = difference(model, 3)
    defense.perturb_update(update)
    assert update["rounds"] == 7
    assert not torch.equal(update["weight"], difference(model, 3)["weight"])


def test_update_in_parts(batch, backend):
    """A part of an update gets the noise it gets within the whole."""
    model = net()
    whole, part = difference(model, 3), difference(model, 3)
    part = {name: part[name] for name in ("head.bias", "conv2.weight")}
    for update in (whole, part):
        defense = TIP(model, std=0.1, floor_std=0.01, rng=NoiseRNG.from_seed(1), backend=backend.name)
        defense.measure(*batch)
        defense.perturb_update(update)
    assert all(torch.equal(whole[name], part[name]) for name in part)


def test_update_is_clipped_as_a_whole(batch, backend):
    model = net()
    defense = TIP(model, ratio=0.0, max_grad_norm=0.5, backend=backend.name)
    update = difference(model, 3)
    defense.perturb_update(update)
    floats = [tensor for tensor in update.values() if tensor.is_floating_point()]
    count = sum(tensor.numel() for tensor in floats)
    assert norm(floats).item() == pytest.approx(0.5, rel=count * EPS)  # a float32 sum of `count` squares


def test_update_on_another_device_than_the_scores(batch, backend):
    model = net()
    defense = TIP(model, std=0.1, backend="reference")
    defense.measure(*batch)
    update = {name: value.cpu() for name, value in difference(model, 3).items()}
    defense.perturb_update(update)
    assert defense.selected()["conv1.weight"].device.type == "cpu"


def test_tied_tensors_get_one_noise(batch, backend):
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(), nn.Linear(192, 5))
    model[1].weight = model[0].weight
    defense = TIP(model, ratio=1.0, std=0.1, backend=backend.name)
    defense.measure(*batch)
    update = difference(model, 3)
    update["1.weight"] = update["0.weight"].clone()
    before = update["0.weight"].clone()
    defense.perturb_update(update)
    assert torch.equal(update["0.weight"], update["1.weight"])
    assert not torch.equal(update["0.weight"], before)


def tied_model():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(), nn.Linear(192, 5))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda t: torch.zeros_like(t, dtype=torch.int64),
            TypeError,
            r"update\['1.weight'\] of a floating dtype as in the model, got torch.int64",
        ),
        (lambda t: t.to_sparse(), TypeError, r"grads\[0\] \(1.weight\) to be strided"),
        (lambda t: torch.zeros(1).expand_as(t), ValueError, r"grads\[0\] \(1.weight\) without overlapping memory"),
        (lambda t: t.to("meta"), ValueError, r"grads\[0\] \(1.weight\) to hold data, got a tensor on meta"),
    ],
)
def test_a_bad_tensor_under_a_tied_name_changes_nothing(spoil, error, message, batch, backend):
    """The first tensor was perturbed, and the step used, before the second was looked at."""
    model = tied_model()
    defense = TIP(model, ratio=1.0, std=0.1, backend=backend.name)
    update = difference(model, 3)
    update["1.weight"] = spoil(update["0.weight"])
    before = update["0.weight"].clone()
    with pytest.raises(error, match=message):
        defense.perturb_update(update)
    assert torch.equal(update["0.weight"], before)
    assert defense.rng.step == 0


def test_a_tied_name_in_the_memory_of_another_changes_nothing(batch, backend):
    model = tied_model()
    defense = TIP(model, ratio=1.0, std=0.1, backend=backend.name)
    update = difference(model, 3)
    update["1.weight"] = update["3.weight"].view(-1)[:81].view(3, 3, 3, 3)
    before = {name: tensor.clone() for name, tensor in update.items()}
    with pytest.raises(ValueError, match=r"an overlap of grads\[0\] \(1.weight\) and grads\[3\] \(3.weight\)"):
        defense.perturb_update(update)
    assert same(update, before)
    assert defense.rng.step == 0


@pytest.mark.parametrize("mode", [False, True])
def test_tied_names_of_one_tensor_and_of_inference_tensors(mode, backend):
    model = tied_model()
    defense = TIP(model, ratio=1.0, std=0.1, backend=backend.name)
    with torch.inference_mode(mode):
        update = difference(model, 3)
        update["1.weight"] = update["0.weight"].clone()
    before = update["0.weight"].clone()
    defense.perturb_update(update)
    assert torch.equal(update["0.weight"], update["1.weight"])
    assert not torch.equal(update["0.weight"], before)
    with torch.inference_mode(mode):
        update = {name: tensor.clone() for name, tensor in update.items()}
    update["1.weight"] = update["0.weight"]
    between = update["0.weight"].clone()
    defense.perturb_update(update)
    assert not torch.equal(update["0.weight"], between)


def test_a_floor_by_name_must_name_the_buffers_that_are_sent(batch, backend):
    model = net()
    floor_std = {name: 0.1 for name, _ in model.named_parameters()}
    defense = TIP(model, floor_std=floor_std, backend=backend.name)
    defense.measure(*batch)
    update = difference(model, 3)
    with pytest.raises(ValueError, match=r"floor_std to have an entry for 'norm.running_mean', got none"):
        defense.perturb_update(update)
    assert same(update, difference(model, 3))
    defense.perturb_update({name: tensor for name, tensor in update.items() if name in floor_std})
    assert defense.rng.step == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"conv9.weight": torch.zeros(1)}, ValueError, "parameters and buffers, got 'conv9.weight'"),
        ({"conv1.weight": torch.zeros(6, 3, 5, 5)}, ValueError, r"update\['conv1.weight'\] of shape \(6, 3, 3, 3\)"),
        ({"conv1.weight": torch.zeros(6, 3, 1, 1)}, ValueError, r"update\['conv1.weight'\] of shape \(6, 3, 3, 3\)"),
        ({"conv1.weight": [1.0]}, TypeError, r"update\['conv1.weight'\] to be a tensor, got list"),
        ({"conv1.weight": torch.zeros(6, 3, 3, 3, dtype=torch.int32)}, TypeError, r"conv1\.weight.*int32"),
        ({"head.bias": torch.zeros(5, dtype=torch.complex64)}, TypeError, r"head\.bias.*complex64"),
        ({"head.bias": torch.zeros(1).expand(5)}, ValueError, r"head\.bias.*overlapping"),
    ],
)
def test_bad_updates_change_nothing(change, error, message, batch, backend):
    model = net()
    defense = TIP(model, ratio=0.5, std=0.1, max_grad_norm=0.1, backend=backend.name)
    defense.measure(*batch)
    update = difference(model, 3)
    moved = {k: v.to(backend.device) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    with pytest.raises(error, match=message):
        defense.perturb_update(update | moved)
    assert same(update, difference(model, 3))
    assert defense.rng.step == 0
    defense.perturb_update(update)  # the scores are still there: no warning
    assert defense.rng.step == 1


def test_bad_gradients_change_nothing(batch, backend):
    model = net()
    defense = TIP(model, ratio=1.0, std=0.1, max_grad_norm=0.1, backend=backend.name)
    loss(model, batch).backward()
    good = model.head.weight.grad
    model.head.weight.grad = good[:, :1].expand(5, 64)
    before = grads(model)
    with pytest.raises(ValueError, match=r"head\.weight.*overlapping"):
        defense.perturb_gradients()
    assert same(before, grads(model))
    assert defense.rng.step == 0
    model.head.weight.grad = good
    defense.perturb_gradients()  # the scores are still there: no warning


# --- construction and life


BAD_SETTINGS = [
    ({"scores": "probe"}, ValueError, "scores to be 'private' or 'public', got 'probe'"),
    ({"ratio": 1.5}, ValueError, r"ratio in \[0, 1\], got 1.5"),
    ({"cutoff": 1.0}, ValueError, r"cutoff in \[0, 1\), got 1.0"),
    ({"keep": -0.1}, ValueError, r"keep in \[0, 1\], got -0.1"),
    ({"std": -1.0}, ValueError, "std to be finite and at least 0, got -1.0"),
    ({"floor_std": float("inf")}, ValueError, "floor_std to be finite and at least 0, got inf"),
    ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm to be None or positive and finite, got 0.0"),
    ({"std": {"conv1.weight": 0.1}}, ValueError, "std to have an entry for 'conv2.weight'"),
    ({"std": {**dict.fromkeys(KERNELS, 0.1), "conv9": 1.0}}, ValueError, "model's parameters, got 'conv9'"),
    ({"std": {**dict.fromkeys(KERNELS, 0.1), "conv2.weight": -1.0}}, ValueError, r"std\['conv2.weight'\] .* got -1.0"),
    ({"floor_std": dict.fromkeys(KERNELS, 0.1)}, ValueError, "floor_std to have an entry for 'conv1.bias'"),
    ({"std": torch.tensor(0.1)}, TypeError, "std to be a float or a mapping by parameter name, got a tensor"),
    ({"masks": {(3, 3): torch.ones(3, 3, dtype=torch.bool)}}, ValueError, r"mask of shape \(3, 2\)"),
    ({"rng": 7}, TypeError, "rng to be a NoiseRNG, got int"),
    ({"backend": "abacus"}, ValueError, "backend to be None or one of .*, got 'abacus'"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD_SETTINGS)
def test_bad_settings_are_refused_at_construction(settings, error, message, backend):
    model = net()
    with pytest.raises(error, match=message):
        TIP(model, **{"backend": backend.name, **settings})
    assert len(model.conv1._forward_hooks) == 0


def test_repr_shows_the_settings(backend):
    assert repr(TIP(net())) == (
        "TIP(Sequential, ratio=0.3, std=0.01, floor_std=0.0, scores='private', buffers='send', cutoff=0.5, "
        "keep=1.0, rng=NoiseRNG(generator='chacha12', key=<hidden>))"
    )
    defense = TIP(net(), std=0.2, scores="public", max_grad_norm=1.0, backend=backend.name)
    settings = "std=0.2, floor_std=0.0, scores='public', buffers='send', max_grad_norm=1.0, cutoff=0.5, keep=1.0, rng="
    assert settings in repr(defense)


def test_a_ratio_by_layer_is_refused(backend):
    with pytest.raises(TypeError, match="expected ratio to be a number, got list"):
        TIP(net(), ratio=[0.1] * 8, backend=backend.name)


def test_models_without_conv_kernels_are_refused(backend):
    with pytest.raises(ValueError, match="model with conv layers, got Linear without"):
        TIP(nn.Linear(3, 3), backend=backend.name)
    with pytest.raises(ValueError, match=r"lazy one: run a forward pass first \(0\)"):
        TIP(nn.Sequential(nn.LazyConv2d(3, 3)), backend=backend.name)


def test_lazy_layers_work_once_materialized(batch, backend):
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5))
    model(batch[0])
    defense = TIP(model, std=0.1, backend=backend.name)
    loss(model, batch).backward()
    defense.perturb_gradients()
    assert defense.selected()["0.weight"].sum() == 2


def test_the_key_is_nowhere(batch, backend):
    key = bytes(range(1, 33))
    model = net()
    defense = TIP(model, rng=NoiseRNG(key), backend=backend.name)
    loss(model, batch).backward()
    defense.perturb_gradients()
    assert defense.state_dict() == {"rng": {"generator": "chacha12", "step": 1}}
    assert key not in pickle.dumps(defense)
    assert key not in pickle.dumps(model)
    assert key.hex()[:8] not in repr(defense)


def test_resuming_continues_the_noise(batch, backend):
    key = bytes(32)
    released = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        model = net()
        defense = TIP(model, std=0.1, rng=NoiseRNG(key), backend=backend.name)
        for _ in range(2):
            model.zero_grad()
            loss(model, batch).backward()
            defense.perturb_gradients()
            if interrupted:
                state = pickle.loads(pickle.dumps(defense.state_dict()))
                defense.close()
                defense = TIP(model, std=0.1, rng=NoiseRNG(key), backend=backend.name)
                defense.load_state_dict(state)
        released.append(grads(model))
    assert same(*released)


def test_everything_is_freed(batch, backend):
    model = net()
    defense = TIP(model, floor_std=0.1, max_grad_norm=1.0, backend=backend.name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    step(model, optimizer, batch)
    defense.measure(*batch)
    gc.disable()
    try:
        references = [weakref.ref(thing) for thing in (model, defense, model.conv1.weight)]
        del model, defense, optimizer
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


def test_closing_removes_every_hook(batch, backend):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TIP(model, backend=backend.name) as defense:
        handle = defense.attach(optimizer)
    before = model.conv1.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"open TIP, got a closed one: .* remove\(\) the handle"):
        step(model, optimizer, batch)  # the handle is still there: nothing may go unprotected by mistake
    assert torch.equal(model.conv1.weight, before)
    handle.remove()
    step(model, optimizer, batch)
    assert defense.rng.step == 0
    assert not any(module._forward_hooks for module in model.modules())
    for call in (defense.perturb_gradients, lambda: defense.perturb_update({}), lambda: defense.measure(*batch)):
        with pytest.raises(RuntimeError, match="open TIP, got a closed one"):
            call()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_protects_its_own_model(clone, batch, backend):
    model = net()
    defense = TIP(model, ratio=0.5, std=0.1, rng=NoiseRNG.from_seed(1), backend=backend.name)
    other_model, other = clone((model, defense))
    assert other.model is other_model
    released = []
    for one, its_defense in ((model, defense), (other_model, other)):
        loss(one, batch).backward()
        its_defense.perturb_gradients()
        released.append(one.conv1.weight.grad)
    assert torch.equal(defense.selected()["conv1.weight"], other.selected()["conv1.weight"])
    assert not torch.equal(*released)  # the same gradient, another key


def test_training_goes_on(backend):
    """A small problem is learnt through the noise."""
    x = torch.randn(32, 3, 8, 8)
    labels = (x.mean((1, 2, 3)) > 0).long()
    model = net()
    defense = TIP(model, ratio=0.3, std=0.01, floor_std=0.001, max_grad_norm=1.0, backend=backend.name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    defense.attach(optimizer)
    first = loss(model, (x, labels)).item()
    for _ in range(15):
        step(model, optimizer, (x, labels))
    assert loss(model, (x, labels)).item() < 0.5 * first


def test_masks_by_what_is_no_kernel_size():
    mask = torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"expected masks to have kernel sizes such as \(3, 3\) for keys, got 3"):
        TIP(nn.Sequential(nn.Conv2d(1, 2, 3)), masks={3: mask})
