"""DDP and FSDP2 by gloo: shards draw the noise of the whole, ranks stay equal, and what would diverge raises."""

import warnings

import pytest
import torch
import torch.distributed as dist
from ranks import assert_equal_everywhere, backward, ddp, gathered, net, raised, ranks_on_loopback
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tip_kernels import TIP, Amplitudes, NoiseRNG, perturb_
from tip_kernels._op.call import Options, prepare
from tip_kernels.audit import audit
from tip_kernels.integrations import distributed

SIZE = 4


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with ranks_on_loopback(SIZE, tmp_path_factory) as found:
        yield found


# --- perturb_ on DTensors

SHAPES = [(5, 3, 3, 3), (5,), (3, 7), (9, 2, 1, 1), (3, 6, 5), ()]
PLACEMENTS = {
    "channels": ((4,), (Shard(0),)),
    "kernels": ((4,), (Shard(1),)),
    "copies": ((4,), (Replicate(),)),
    "copies of channels": ((2, 2), (Replicate(), Shard(0))),
    "channels and kernels": ((2, 2), (Shard(0), Shard(1))),
    "channels twice": ((2, 2), (Shard(0), Shard(0))),
}
KEY = bytes(range(32))


def grads_and_scores() -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return grads, [torch.rand(g.shape[0], generator=generator) if g.dim() > 2 else None for g in grads]


def fitting(placements, tensor):
    """The placements that this tensor can have: copies where it has no such dimension."""
    return [Replicate() if p.is_shard() and p.dim >= tensor.dim() else p for p in placements]


def compare_with_whole(shape, placements, settings):
    mesh = init_device_mesh("cpu", shape)
    whole, scores = grads_and_scores()
    parts = [distribute_tensor(grad.clone(), mesh, fitting(placements, grad)) for grad in whole]
    own_rng, rng = NoiseRNG(KEY, step=5), NoiseRNG(KEY, step=5)
    for _ in range(2):
        perturb_(whole, scores, ratio=0.5, std=0.5, rng=rng, **settings)
        perturb_(parts, scores, ratio=0.5, std=0.5, rng=own_rng, **settings)
    assert own_rng.step == rng.step == 7
    for grad, part in zip(whole, parts, strict=True):
        assert torch.equal(grad, part.full_tensor())


OF_9, OF_5 = [tuple(1.5 - j / taps for j in range(taps)) for taps in (9, 5)]
SHAPED = [Amplitudes(OF_9, OF_9[::-1]), None, None, None, Amplitudes(OF_5, OF_5[::-1]), None]
SETTINGS = {
    "high bands": {},
    "shaped": {"floor_std": 0.1, "keep": 0.5, "amplitudes": SHAPED},
    "all": {"floor_std": 0.1, "max_grad_norm": 1.5, "keep": 0.5, "grad_scale": 2.0},
    "clipped": {"max_grad_norm": 1.5},
    "clipped by weights": {"max_grad_norm": 1.5, "norm_weights": [OF_9, 0.5, None, 2.0, OF_5, None]},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("placed", PLACEMENTS)
def test_shards_have_the_noise_of_the_whole(ranks, placed, settings):
    ranks.run(compare_with_whole, *PLACEMENTS[placed], SETTINGS[settings])


def take_the_mean_of_scores():
    mesh = init_device_mesh("cpu", (SIZE,))
    whole, scores = grads_and_scores()
    parts = [distribute_tensor(grad.clone(), mesh, [Shard(0)]) if grad.dim() else None for grad in whole]
    own = [None if s is None else s + (dist.get_rank() - 1.5) * s.flip(0) for s in scores]
    perturb_(parts, own, ratio=0.5, std=0.5, rng=NoiseRNG(KEY))
    mean = [None if s is None else torch.stack(gathered(s)).double().mean(0).float() for s in own]
    perturb_(whole, mean, ratio=0.5, std=0.5, rng=NoiseRNG(KEY))
    assert all(torch.equal(a, b.full_tensor()) for a, b in zip(whole, parts, strict=True) if b is not None)


def test_scores_of_ranks_are_averaged(ranks):
    ranks.run(take_the_mean_of_scores)


def refuse_other_keys():
    mesh = init_device_mesh("cpu", (SIZE,))
    part = distribute_tensor(torch.ones(5, 3, 3, 3), mesh, [Shard(0)])
    rng = NoiseRNG()
    assert "expected one key on all ranks" in raised(call, part, rng)
    rng = NoiseRNG(KEY, step=dist.get_rank() // 3)
    assert "expected one step on all ranks that hold one message, got 0 to 1" in raised(call, part, rng)
    assert part.full_tensor().eq(1).all()


def refuse_other_norm_weights():
    part = distribute_tensor(torch.ones(5, 3, 3, 3), init_device_mesh("cpu", (SIZE,)), [Shard(0)])
    rng, weight = NoiseRNG(KEY), 1.0 + dist.get_rank() // 2
    assert "expected one call on all ranks" in raised(lambda: call(part, rng, max_grad_norm=1.0, norm_weights=[weight]))


def test_other_norm_weights_raise_on_every_rank(ranks):
    ranks.run(refuse_other_norm_weights)


def find_forms():
    part = distribute_tensor(torch.ones(SIZE, 3, 3, 3), init_device_mesh("cpu", (SIZE,)), [Shard(0)])
    options = Options(ratio=0.5, std=0.5, rng=NoiseRNG(KEY), max_grad_norm=1.0, norm_weights=[2.0])
    clip = prepare([part], [torch.ones(SIZE)], options).clip
    assert clip is not None
    assert len(clip.forms) == 1


def test_a_call_on_shards_keeps_what_clips_it(ranks):
    """Its forms lie in a cache that may forget them while another stream still reads them."""
    ranks.run(find_forms)


def refuse_other_amplitudes():
    part = distribute_tensor(torch.ones(5, 3, 3, 3), init_device_mesh("cpu", (SIZE,)), [Shard(0)])
    rng = NoiseRNG(KEY)
    own = Amplitudes(OF_9, OF_9 if dist.get_rank() else OF_9[::-1])
    assert "expected one call on all ranks" in raised(lambda: call(part, rng, amplitudes=[own]))
    assert part.full_tensor().eq(1).all()
    assert rng.step == 0


def test_other_amplitudes_raise_on_every_rank(ranks):
    ranks.run(refuse_other_amplitudes)


def call(part, rng, **settings):
    perturb_([part], [torch.arange(float(part.shape[0]))], ratio=0.5, std=0.5, rng=rng, **settings)


def test_other_keys_and_steps_raise_on_every_rank(ranks):
    ranks.run(refuse_other_keys)


def audit_split_models():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    images, labels = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1])

    def ceiling(given):
        return audit(given, nn.functional.cross_entropy, images, labels, 0.1, max_grad_norm=1.0).psnr

    assert torch.equal(ceiling(DistributedDataParallel(model)), ceiling(model))
    normed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    wrapped = DistributedDataParallel(normed)
    if dist.get_rank() == 0:  # alone: it waits for nobody, although a forward pass would send buffers around
        assert torch.equal(ceiling(wrapped), ceiling(normed))
    fully_shard(model)
    assert "lies whole on this rank, got a DTensor (0.weight)" in raised(lambda: ceiling(model))


def test_audits_take_no_split_model(ranks):
    ranks.run(audit_split_models)


def refuse_placements():
    mesh, other = init_device_mesh("cpu", (SIZE,)), init_device_mesh("cpu", (2, 2))
    rng = NoiseRNG(KEY)
    scores = torch.ones(8)
    whole = torch.ones(8, 4, 4, 4)
    taps = distribute_tensor(whole, mesh, [Shard(2)])
    message = "ValueError: expected grads[0] to be split into channels or kernels"
    assert message in raised(call, taps, rng)
    assert message in raised(call, DTensor.from_local(whole, mesh, [Partial()]), rng)
    part = distribute_tensor(whole, mesh, [Shard(0)])
    elsewhere = distribute_tensor(whole, other, [Replicate(), Shard(0)])
    for mixed in (torch.ones(3), elsewhere):
        text = raised(lambda grads: perturb_(grads, [scores, None], ratio=1, std=0.1, rng=rng), [part, mixed])
        assert "expected all gradients to be DTensors on one mesh" in text
        assert "grads[1]" in text
    for wrong, kind in ((scores[:7], ValueError), (scores.double(), TypeError), (part, TypeError)):
        text = raised(lambda s: perturb_([part], [s], ratio=1, std=0.1, rng=rng), wrong)
        assert text.startswith(f"{kind.__name__}: expected scores[0]")
    cut = DTensor.from_local(torch.ones(5, 4), mesh, [Shard(0)], shape=torch.Size([10, 4]), stride=(4, 1))
    assert "to be cut by placements" in raised(
        lambda: perturb_([cut], [None], ratio=1, std=0.1, floor_std=0.1, rng=rng)
    )
    assert rng.step == 0
    assert part.full_tensor().eq(1).all()


def test_placements_that_cannot_be_addressed_are_refused(ranks):
    ranks.run(refuse_placements)


# --- FSDP2


def sharded_net(defense_first: bool) -> tuple[nn.Module, TIP]:
    model = net()
    settings = {"ratio": 0.5, "std": 0.3, "floor_std": 0.1, "max_grad_norm": 1.0, "buffers": "withhold"}
    defense = TIP(model, **settings) if defense_first else None
    for layer in (model[0], model[3]):
        fully_shard(layer)
    fully_shard(model)
    return model, TIP(model, **settings) if defense is None else defense


def compare_fsdp_with_whole(defense_first):
    model, defense = sharded_net(defense_first)
    distributed.share_key(defense)
    whole_rng = NoiseRNG(defense.rng._secret.tensor[:4].numpy().tobytes())
    for step in range(3):
        if step == 2:
            defense.measure(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
        backward(model)
        assert all(isinstance(p.grad, DTensor) for p in model.parameters())
        whole = [p.grad.full_tensor() for p in model.parameters()]
        own = defense.scores()
        scores = [None] * len(whole)
        for i, (name, _) in enumerate(model.named_parameters()):
            if name in own:
                scores[i] = torch.stack(gathered(own[name])).double().mean(0).float()
        assert sum(score is not None for score in scores) == 3
        names = dict(model.named_parameters())
        turned = [g.transpose(0, 1) if name == "3.weight" else g for g, name in zip(whole, names, strict=True)]
        perturb_(turned, scores, ratio=0.5, std=0.3, floor_std=0.1, max_grad_norm=1.0, rng=whole_rng)
        defense.perturb_gradients()
        assert "perturbed already" in raised(defense.perturb_gradients)
        for grad, p in zip(whole, model.parameters(), strict=True):
            assert torch.equal(grad, p.grad.full_tensor())
        model.zero_grad(set_to_none=step == 0)


@pytest.mark.parametrize("defense_first", [False, True])
def test_fsdp_has_the_noise_of_the_whole(ranks, defense_first):
    ranks.run(compare_fsdp_with_whole, defense_first)


def train_fsdp():
    model, defense = sharded_net(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    defense.attach(optimizer)
    backward(model)
    before = [p.full_tensor() for p in model.parameters()]
    assert "expected one key for all ranks" in raised(optimizer.step)
    assert all(torch.equal(a, p.full_tensor()) for a, p in zip(before, model.parameters(), strict=True))
    optimizer.zero_grad()
    distributed.share_key(defense)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            backward(model)
            optimizer.step()
            optimizer.zero_grad()
    assert defense.rng.step == 3
    assert_equal_everywhere([p.full_tensor() for p in model.parameters()])


def test_an_attached_optimizer_steps_with_fsdp(ranks):
    ranks.run(train_fsdp)


def perturb_sharded_update():
    model, defense = sharded_net(False)
    update = {name: (p * 0.5).detach() for name, p in model.named_parameters()}
    assert "expected one key for all ranks" in raised(defense.perturb_update, update)
    distributed.share_key(defense)
    defense.reset()
    whole = {name: u.full_tensor() for name, u in update.items()}
    plain = TIP(net(), ratio=0.5, std=0.3, floor_std=0.1, max_grad_norm=1.0,
                rng=NoiseRNG(defense.rng._secret.tensor[:4].numpy().tobytes()))  # fmt: skip
    with pytest.warns(RuntimeWarning, match="no Grad-CAM scores"):
        plain.perturb_update(whole)
    with pytest.warns(RuntimeWarning, match="no Grad-CAM scores"):
        defense.perturb_update(update)
    assert all(torch.equal(whole[name], u.full_tensor()) for name, u in update.items())
    weights = {name: p.detach() for name, p in model.named_parameters()}
    new = {name: w + 1 for name, w in weights.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        defense.perturb_weights(new, weights)
    assert_equal_everywhere([w.full_tensor() for w in new.values()])
    assert "expected an update, new weights minus received ones" in raised(defense.perturb_update, weights)


def test_an_update_of_shards(ranks):
    ranks.run(perturb_sharded_update)


# --- FSDP1


def refuse_flattened(defense_first, keeps_parameters):
    """Parts of flat parameters are no kernels; a rank may even have none of a layer."""
    model = net()
    defense = TIP(model, std=0.1, floor_std=0.1) if defense_first else None
    wrapper = FullyShardedDataParallel(model, use_orig_params=keeps_parameters, device_id=torch.device("cpu"))
    message = "ValueError: expected parameters in their own shapes, got those of FullyShardedDataParallel"
    if defense is None:
        assert message in raised(TIP, wrapper)
        return
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.1)
    assert message in raised(defense.attach, optimizer)
    backward(wrapper)
    if any(parameter.grad is not None for parameter in model.parameters()):
        assert message in raised(defense.perturb_gradients)


@pytest.mark.parametrize("keeps_parameters", [False, True])
@pytest.mark.parametrize("defense_first", [False, True])
def test_fsdp1_is_refused(ranks, defense_first, keeps_parameters):
    ranks.run(refuse_flattened, defense_first, keeps_parameters)


# --- DDP, one client


def train_shared(on_wrapper, view):
    model = net()
    wrapper = ddp(model, gradient_as_bucket_view=view)
    defense = TIP(wrapper if on_wrapper else model, ratio=0.4, std=0.1, floor_std=0.01, max_grad_norm=1.0)
    distributed.share_key(defense)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    for step in range(10):
        if step == 5:
            defense.measure(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        backward(wrapper)
        clean = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        assert all(not torch.equal(a, p.grad) for a, p in zip(clean, model.parameters(), strict=True))
    assert_equal_everywhere(model.parameters())
    assert_equal_everywhere(defense.selected().values())


@pytest.mark.parametrize(("on_wrapper", "view"), [(False, False), (True, True)])
def test_ranks_that_share_a_key_stay_equal(ranks, on_wrapper, view):
    ranks.run(train_shared, on_wrapper, view)


def diverge():
    model = net()
    wrapper = ddp(model)
    defense = TIP(model, std=0.1)
    distributed.share_key(defense)
    backward(wrapper)
    if dist.get_rank() == 1:
        defense.rng.load_state_dict({"generator": "chacha12", "step": 3})
    before = [p.grad.clone() for p in model.parameters()]
    assert "expected one step on all ranks that hold one message, got 0 to 3" in raised(defense.perturb_gradients)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))
    distributed.share_key(defense)
    defense.perturb_gradients()
    assert_equal_everywhere(p.grad for p in model.parameters())


def test_a_rank_at_another_step_stops_all(ranks):
    ranks.run(diverge)


def lack_scores():
    """One rank has no scores of a layer, whose forward pass the hooks did not see there."""
    model = net()
    wrapper = ddp(model)
    defense = TIP(model, std=0.1, ratio=0.4)
    distributed.share_key(defense)
    backward(wrapper)
    scores = defense.scores()
    if dist.get_rank() == 2:
        defense.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defense.perturb_gradients()
    assert_equal_everywhere(p.grad for p in model.parameters())
    found = [torch.stack([s["0.weight"] for i, s in enumerate(gathered(scores)) if i != 2]).double().mean(0)]
    assert defense.selected()["0.weight"][found[0].argmax()]


def test_scores_that_a_rank_lacks_come_from_the_others(ranks):
    ranks.run(lack_scores)


def compile_steps():
    """A compiled step leaves its graph for the perturb call, which then meets the other ranks as ever."""
    model = net()
    wrapper = ddp(model)
    defense = TIP(model, ratio=0.4, std=0.1, floor_std=0.01, max_grad_norm=1.0)
    distributed.share_key(defense)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        optimizer.zero_grad()
        backward(wrapper)
        step()
    assert defense.rng.step == 3
    assert_equal_everywhere(model.parameters())
    assert "perturbed already" in raised(defense.perturb_gradients)


def test_compiled_steps_meet_too(ranks):
    ranks.run(compile_steps)


# --- DDP, what would diverge


def refuse_plain(how):
    model = net()
    wrapper = ddp(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if how == "late":
        loss = wrapper(torch.randn(2, 3, 8, 8)).sum()
        defense = TIP(model, std=0.1)
        loss.backward()
    else:
        defense = TIP(wrapper if how == "wrapper" else model, std=0.1)
        backward(wrapper)
    defense.attach(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    message = "RuntimeError: expected the 4 ranks of DistributedDataParallel to share a key"
    assert message in raised(optimizer.step)
    assert message in raised(defense.perturb_gradients)
    assert all(torch.equal(a, p) for a, p in zip(before, model.parameters(), strict=True))
    assert defense.rng.step == 0


@pytest.mark.parametrize("how", ["wrapper", "inner", "late"])
def test_a_plain_tip_under_ddp_raises(ranks, how):
    ranks.run(refuse_plain, how)


def share_too_little():
    model = net()
    wrapper = ddp(model)
    defense = TIP(model, std=0.1)
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    distributed.share_key(defense, groups[dist.get_rank() // 2])
    backward(wrapper)
    assert "expected the 4 ranks of DistributedDataParallel to share a key" in raised(defense.perturb_gradients)


def test_a_key_for_some_of_the_ranks_is_not_enough(ranks):
    ranks.run(share_too_little)


def need_none():
    """Ranks that do not reduce their gradients are clients of their own."""
    model = net()
    defense = TIP(model, std=0.1)
    backward(model)
    defense.perturb_gradients()
    groups = [dist.new_group([rank]) for rank in range(SIZE)]
    alone = DistributedDataParallel(net(), process_group=groups[dist.get_rank()])
    defense = TIP(alone, std=0.1)
    backward(alone)
    defense.perturb_gradients()


def test_ranks_that_reduce_nothing_need_no_shared_key(ranks):
    ranks.run(need_none)


# --- DDP, local privacy


class Sent:
    """What a rank gives to all-reduces, besides the numbers by which ranks agree."""

    def __init__(self, monkeypatch) -> None:
        self.buffers: list[torch.Tensor] = []
        reduce = dist.all_reduce

        def record(tensor, *args, **kwargs):
            if tensor.is_floating_point():
                self.buffers.append(tensor.clone())
            return reduce(tensor, *args, **kwargs)

        monkeypatch.setattr(dist, "all_reduce", record)

    def take(self, buckets: int) -> torch.Tensor:
        """All that was sent since, and that it was in so many buckets at least."""
        found, self.buffers = self.buffers, []
        assert len(found) >= buckets
        return torch.cat(found) * SIZE


def local_net(**settings) -> tuple[nn.Module, DistributedDataParallel, TIP]:
    model = net()
    wrapper = ddp(model, broadcast_buffers=False)
    defense = TIP(model, **settings)
    wrapper.register_comm_hook(distributed.LocalPrivacy(defense), distributed.local_privacy_hook)
    return model, wrapper, defense


def clip_all_buckets():
    model, wrapper, _ = local_net(ratio=0.0, std=0.0, max_grad_norm=0.01)
    plain = net()
    with pytest.MonkeyPatch.context() as patch:
        sent = Sent(patch)
        for buckets in (1, 3, 3):  # DDP makes its buckets anew after the first pass
            plain.zero_grad()
            wrapper.zero_grad()
            torch.manual_seed(7 + dist.get_rank())
            backward(plain)
            torch.manual_seed(7 + dist.get_rank())
            backward(wrapper)
            own = torch.cat([p.grad.flatten() for p in plain.parameters()])
            assert own.norm() > 0.1
            message = sent.take(buckets)
            assert message.norm() == pytest.approx(0.01, rel=1e-4)
            mean = torch.stack([0.01 * g / g.norm() for g in gathered(own)]).mean(0)
            got = torch.cat([p.grad.flatten() for p in model.parameters()])
            torch.testing.assert_close(got, mean, rtol=1e-4, atol=1e-8)
            assert_equal_everywhere(p.grad for p in model.parameters())


def test_the_hook_clips_all_buckets_together(ranks):
    ranks.run(clip_all_buckets)


def draw_own_noise():
    model, wrapper, defense = local_net(ratio=1.0, std=1.0, floor_std=1.0, max_grad_norm=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        sent = Sent(patch)
        with wrapper.no_sync():
            backward(wrapper)
        assert not sent.buffers
        backward(wrapper)
        assert defense.rng.step == 1
        sent.take(1)
        backward(wrapper)
        messages = torch.stack(gathered(sent.take(3)))
    assert ((messages.std(1) - 1).abs() < 0.1).all()
    assert (torch.corrcoef(messages) - torch.eye(SIZE)).abs().max() < 0.2
    for alone in (defense.perturb_gradients, attached_step(defense, model)):
        assert "expected the communication hook alone to perturb" in raised(alone)


def attached_step(defense, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    return optimizer.step


def test_the_hook_draws_noise_of_each_ranks_own(ranks):
    ranks.run(draw_own_noise)


def fail_together(how):
    _, wrapper, defense = local_net(std=0.1)
    if how == "closed" and dist.get_rank() == 1:
        defense.close()
    if how == "one key":
        defense.rng.exchange(lambda state: dist.broadcast(state, src=0), torch.device("cpu"))
    if how == "buffers":
        wrapper.broadcast_buffers = True
    with pytest.MonkeyPatch.context() as patch:
        sent = Sent(patch)
        text = raised(backward, wrapper)
        assert not sent.buffers
    return text


FAILURES = {
    "closed": ["an error on rank 1", "expected an open TIP", "an error on rank 1", "an error on rank 1"],
    "one key": ["expected a key of each rank's own"] * SIZE,
    "buffers": ["broadcast_buffers=False"] * SIZE,
}


@pytest.mark.parametrize("how", FAILURES)
def test_what_fails_on_one_rank_stops_all_before_anything_is_sent(ranks, how):
    for text, expected in zip(ranks.run(fail_together, how), FAILURES[how], strict=True):
        assert expected in text


def refuse_settings():
    shared = TIP(net(), std=0.1)
    distributed.share_key(shared)
    assert "expected a TIP with a key of its own" in raised(distributed.LocalPrivacy, shared)
    local = TIP(net(), std=0.1)
    distributed.LocalPrivacy(local)
    assert "expected a TIP without local_privacy_hook" in raised(distributed.share_key, local)
    batch_norm = TIP(nn.SyncBatchNorm.convert_sync_batchnorm(net()), std=0.1)
    assert "SyncBatchNorm" in raised(distributed.LocalPrivacy, batch_norm)
    assert "to be a TIP, got Sequential" in raised(distributed.LocalPrivacy, net())


def test_what_does_not_go_together_is_refused(ranks):
    ranks.run(refuse_settings)


# --- one process


def test_share_key_needs_a_process_group():
    defense = TIP(nn.Sequential(nn.Conv2d(3, 4, 3)), std=0.1)
    with pytest.raises(RuntimeError, match="expected an initialized process group"):
        distributed.share_key(defense)
    with pytest.raises(TypeError, match="expected defense to be a TIP, got int"):
        distributed.share_key(3)


def test_the_key_of_an_exchange_is_in_no_traceback():
    rng = NoiseRNG(KEY)

    def broken(state):
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError) as caught:
        rng.exchange(broken, torch.device("cpu"))
    frame = caught.value.__traceback__
    while frame is not None:
        assert not any(isinstance(v, torch.Tensor) for v in frame.tb_frame.f_locals.values())
        frame = frame.tb_next
    assert NoiseRNG(KEY).fingerprint() == rng.fingerprint() != NoiseRNG(KEY, "chacha20").fingerprint()
    assert rng.fingerprint() != NoiseRNG().fingerprint()
