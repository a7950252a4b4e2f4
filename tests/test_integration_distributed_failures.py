"""What fails on one rank fails on all of them, before anything changes; one message of all ranks is counted once."""

import contextlib
import copy
import errno
import fcntl
import os

import pytest
import torch
import torch.distributed as dist
from ranks import assert_equal_everywhere, backward, ddp, gathered, net, raised, ranks_on_loopback
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from tip_kernels import TIP, NoiseRNG, PrivacyBudget, perturb_
from tip_kernels._budget import store
from tip_kernels.integrations import distributed

SIZE = 3
SETTINGS = {"ratio": 1.0, "std": 0.3, "floor_std": 0.3, "max_grad_norm": 0.1, "scores": "public"}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with ranks_on_loopback(SIZE, tmp_path_factory) as found:
        yield found


def shared(**settings) -> tuple[nn.Module, nn.Module, TIP]:
    """A model, its wrapper with gradients, and a TIP with a shared key."""
    model = net()
    wrapper = ddp(model)
    defense = TIP(model, **{**SETTINGS, **settings})
    distributed.share_key(defense)
    backward(wrapper)
    return model, wrapper, defense


def grads_of(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in model.parameters()]


def assert_all_raise(own_error: str, others_error: str, call, *args, at: int = 1) -> None:
    """Rank ``at`` raises its own error, the others name it."""
    text = raised(call, *args)
    assert text.startswith(own_error if dist.get_rank() == at else others_error), text
    if dist.get_rank() != at:
        assert f"an error on rank {at}" in text


# --- one rank fails


def close(defense, model):
    defense.close()


def perturb_alone(defense, model):
    """With a TIP of its own, which leaves its mark."""
    alone = TIP(net(), ratio=1.0, std=0.1, floor_std=0.1)
    for own, parameter in zip(alone.model.parameters(), model.parameters(), strict=True):
        own.grad = parameter.grad
    alone.perturb_gradients()


def have_no_gradients(defense, model):
    model.zero_grad()


def add_a_layer(defense, model):
    model.append(nn.Linear(4, 4))
    model[-1].weight.grad = torch.ones(4, 4)


def overlap(defense, model):
    model[0].bias.grad = model[0].weight.grad.view(-1)[:5]


def be_sparse(defense, model):
    model[0].bias.grad = model[0].bias.grad.to_sparse()


FAILURES = {
    close: "RuntimeError: expected an open TIP",
    perturb_alone: "RuntimeError: expected new gradients or a new update",
    have_no_gradients: "RuntimeError: expected gradients, got none",
    add_a_layer: "RuntimeError: expected the parameters that the model had",
    overlap: "ValueError: expected gradients without shared memory",
    be_sparse: "TypeError: expected grads",
}


def fail_alone(fail):
    model, _, defense = shared()
    if dist.get_rank() == 1:
        fail(defense, model)
    before = [None if grad is None else copy.deepcopy(grad) for grad in grads_of(model)]
    assert_all_raise(FAILURES[fail], "RuntimeError: expected all ranks to go on", defense.perturb_gradients)
    assert defense.rng.step == 0
    for old, grad in zip(before, grads_of(model), strict=True):
        assert (old is None and grad is None) or torch.equal(old.to_dense(), grad.to_dense())


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
def test_a_rank_that_cannot_perturb_stops_all(ranks, fail):
    ranks.run(fail_alone, fail)


def step_without_gradients():
    """An optimizer's step that finds no gradient uses none, which is no error on one rank alone."""
    model, wrapper, defense = shared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    if dist.get_rank() == 1:
        optimizer.zero_grad()
    assert "expected one call on all ranks" in raised(optimizer.step)
    optimizer.zero_grad()
    optimizer.step()
    assert defense.rng.step == 0
    backward(wrapper)
    optimizer.step()
    assert defense.rng.step == 1
    assert_equal_everywhere(model.parameters())


def test_a_rank_that_has_nothing_to_perturb_stops_the_others(ranks):
    ranks.run(step_without_gradients)


def perturb_other_tensors():
    _, _, defense = shared()
    update = {name: torch.ones_like(p) for name, p in defense.model.named_parameters()}
    if dist.get_rank() == 2:
        del update["0.bias"]
    assert "expected one call on all ranks" in raised(defense.perturb_update, update)
    assert all(tensor.eq(1).all() for tensor in update.values())


def test_other_tensors_on_a_rank_stop_all(ranks):
    ranks.run(perturb_other_tensors)


def sharded() -> tuple[nn.Module, TIP]:
    model = net()
    for layer in (model[0], model[3]):
        fully_shard(layer)
    fully_shard(model)
    defense = TIP(model, **{**SETTINGS, "buffers": "withhold"})
    distributed.share_key(defense)
    return model, defense


def give_what_a_part_cannot_be(kind):
    model, defense = sharded()
    received = {name: p.detach().clone() for name, p in model.named_parameters()}
    new = {name: p + 1 for name, p in received.items()}
    if dist.get_rank() == 1:
        if kind == "NaN":
            new["0.weight"].to_local().view(-1)[:1] = torch.nan
        else:
            new["0.wait"] = new.pop("0.weight")
    before = {name: p.to_local().clone() for name, p in new.items()}
    assert_all_raise("ValueError: expected ", "RuntimeError: expected all", defense.perturb_weights, new, received)
    assert all(torch.equal(p.to_local(), before[name]) for name, p in new.items() if kind != "NaN")
    assert defense.rng.step == 0
    good = {name: p + 1 for name, p in received.items()}
    defense.perturb_weights(good, received=received)
    assert_equal_everywhere([p.full_tensor() for p in good.values()])


@pytest.mark.parametrize("kind", ["NaN", "another name"])
def test_a_part_that_cannot_be_perturbed_stops_all(ranks, kind):
    ranks.run(give_what_a_part_cannot_be, kind)


def overflow_by_noise():
    """float16 parts of which one cannot hold the sum: no rank has its weights changed."""
    model, defense = sharded()
    received = {name: p.detach().half() for name, p in model.named_parameters()}
    new = {name: p.clone() for name, p in received.items()}
    for tensors in (new, received):
        if dist.get_rank() == 1:
            tensors["0.weight"].to_local().fill_(65504.0)
    defense = TIP(model, **{**SETTINGS, "std": 5e3, "floor_std": 5e3, "buffers": "withhold"})
    distributed.share_key(defense)
    before = {name: p.to_local().clone() for name, p in new.items()}
    own = "ValueError: expected weights with noise['0.weight'] to be finite"
    assert_all_raise(own, "RuntimeError: expected all ranks", defense.perturb_weights, new, received)
    assert all(torch.equal(p.to_local(), before[name]) for name, p in new.items())


def test_noise_that_a_part_cannot_hold_stops_all(ranks):
    ranks.run(overflow_by_noise)


def call_otherwise(how):
    mesh = init_device_mesh("cpu", (SIZE,))
    part = distribute_tensor(torch.ones(5, 3, 3, 3), mesh, [Shard(0)])
    scores, ratio, message = torch.rand(5), 0.5, "RuntimeError: expected one call on all ranks"
    if dist.get_rank() == 1:
        if how == "wrong scores":
            scores = scores[:4]
        elif how == "no scores":
            scores = None
        else:
            ratio = 0.7
    rng = NoiseRNG(bytes(32))

    def perturb():
        perturb_([part], [scores], ratio=ratio, std=0.1, floor_std=0.1, rng=rng)

    if how == "wrong scores":
        assert_all_raise("ValueError: expected scores[0] of shape (5,)", "RuntimeError: expected all", perturb)
    else:
        assert raised(perturb).startswith(message)
    assert rng.step == 0
    assert part.full_tensor().eq(1).all()


@pytest.mark.parametrize("how", ["wrong scores", "no scores", "another ratio"])
def test_another_call_of_perturb_on_a_rank_stops_all(ranks, how):
    ranks.run(call_otherwise, how)


# --- a privacy budget, one client


def budget_for(messages: int, **settings) -> PrivacyBudget:
    """Holds this many messages of ``SETTINGS``."""
    probe = PrivacyBudget(1000.0, 1e-5)
    for _ in range(messages):
        probe.spend(3.0)
    return PrivacyBudget(probe.spent() * 1.001, 1e-5, **settings)


def path_on_first(folder: str, name: str):
    return os.path.join(folder, name) if dist.get_rank() == 0 else None


def count_once(folder, has_file):
    budget = budget_for(2, path=path_on_first(folder, "once.json") if has_file else None)
    model, wrapper, defense = shared(budget=budget)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    defense.attach(optimizer)
    for done in (1, 2):
        optimizer.step()
        assert gathered(budget.messages) == [done] * SIZE
        optimizer.zero_grad()
        backward(wrapper)
    assert len({repr(state) for state in gathered(defense.state_dict())}) == 1
    before = copy.deepcopy(grads_of(model))
    text = raised(optimizer.step)
    assert text.startswith("BudgetExceeded: expected a message within" if dist.get_rank() == 0 else "BudgetExceeded:")
    assert gathered(budget.messages) == [2] * SIZE
    assert defense.rng.step == 2
    assert all(map(torch.equal, before, grads_of(model)))
    assert_equal_everywhere(model.parameters())


@pytest.mark.parametrize("has_file", [False, True])
def test_a_message_of_all_ranks_is_counted_once_and_refused_on_all(ranks, tmp_path, has_file):
    ranks.run(count_once, str(tmp_path), has_file)


@contextlib.contextmanager
def locked(path):
    """Another process counts, so to say, for longer than this one waits."""
    with open(path + ".lock", "w") as file, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(file, fcntl.LOCK_EX)
        patch.setattr(store, "PATIENCE", 0.1)
        yield


@contextlib.contextmanager
def full_disk(path):
    def fail(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        yield


def fail_to_count(folder, obstacle):
    budget = budget_for(5, path=path_on_first(folder, "fails.json"))
    model, _, defense = shared(budget=budget)
    before = copy.deepcopy(grads_of(model))
    with obstacle(budget.path) if dist.get_rank() == 0 else contextlib.nullcontext():
        own = "TimeoutError" if obstacle is locked else "OSError: [Errno 28]"
        assert_all_raise(own, "RuntimeError: expected all ranks", defense.perturb_gradients, at=0)
    assert all(map(torch.equal, before, grads_of(model)))
    assert defense.rng.step == 0
    assert gathered(budget.messages) == [0] * SIZE
    defense.perturb_gradients()
    assert gathered(budget.messages) == [1] * SIZE
    assert_equal_everywhere(grads_of(model))


@pytest.mark.parametrize("obstacle", [locked, full_disk])
def test_a_message_that_cannot_be_counted_stops_all(ranks, tmp_path, obstacle):
    ranks.run(fail_to_count, str(tmp_path), obstacle)


def count_nothing_for_a_rank_that_fails(folder):
    budget = budget_for(5, path=path_on_first(folder, "nothing.json"))
    _, _, defense = shared(budget=budget)
    if dist.get_rank() == 2:
        defense.close()
    assert_all_raise("RuntimeError: expected an open TIP", "RuntimeError:", defense.perturb_gradients, at=2)
    assert gathered(budget.messages) == [0] * SIZE


def test_nothing_is_counted_where_a_rank_cannot_begin(ranks, tmp_path):
    ranks.run(count_nothing_for_a_rank_that_fails, str(tmp_path))


def count_shards(folder):
    model, _ = sharded()
    defense = TIP(model, **SETTINGS, budget=budget_for(1, path=path_on_first(folder, "shards.json")))
    distributed.share_key(defense)
    backward(model)
    defense.perturb_gradients()
    backward(model)
    before = [p.grad.to_local().clone() for p in model.parameters()]
    assert raised(defense.perturb_gradients).startswith("BudgetExceeded")
    assert all(torch.equal(a, p.grad.to_local()) for a, p in zip(before, model.parameters(), strict=True))
    assert gathered(defense.budget.messages) == [1] * SIZE


def test_shards_are_counted_once(ranks, tmp_path):
    ranks.run(count_shards, str(tmp_path))


# --- share_key


def share_what_differs(folder, how):
    settings = {"budget": budget_for(2)}
    if how == "path":
        settings["budget"] = budget_for(2, path=os.path.join(folder, "all.json"))
    elif dist.get_rank() == 1:
        settings.update({"std": {"std": 0.2}, "budget": {"budget": budget_for(3)}, "none": {"budget": None}}[how])
    defense = TIP(net(), **{**SETTINGS, **settings})
    text = raised(distributed.share_key, defense)
    if how != "path":
        name = "std" if how == "std" else "budget"
        assert text.startswith(f"ValueError: expected a TIP with the same {name} on all ranks")
    elif dist.get_rank() == 0:
        assert "an error on rank 2" in text
    else:
        assert text.startswith("ValueError: expected a budget with a path on rank 0 only")
    wrapper = ddp(defense.model)
    backward(wrapper)
    assert "to share a key" in raised(defense.perturb_gradients)


@pytest.mark.parametrize("how", ["path", "std", "budget", "none"])
def test_ranks_that_differ_cannot_share_a_key(ranks, tmp_path, how):
    ranks.run(share_what_differs, str(tmp_path), how)


def resume(folder, who):
    """A process group's second life: new keys, the old step and count."""
    _, _, defense = shared(budget=budget_for(4, path=path_on_first(folder, "resume.json")))
    defense.perturb_gradients()
    saved, old = defense.state_dict(), defense.rng.fingerprint()
    budget = budget_for(4, path=path_on_first(folder, "moved.json"))
    model = net()
    wrapper = ddp(model)
    again = TIP(model, **SETTINGS, budget=budget)
    if who == "before":  # on one rank, before the key is shared
        if dist.get_rank() == 0:
            again.load_state_dict(saved)
        distributed.share_key(again)
    else:
        distributed.share_key(again)
        if who == "after" or dist.get_rank() == 2:
            again.load_state_dict(saved)
    backward(wrapper)
    if who == "one":
        assert "expected one step on all ranks" in raised(again.perturb_gradients)
        assert gathered(budget.messages) == [0, 0, 1]
        again.load_state_dict(saved)
    again.perturb_gradients()
    assert again.rng.step == 2
    assert gathered(budget.messages) == [2] * SIZE
    assert old != again.rng.fingerprint()
    assert len(set(gathered(again.rng.fingerprint()))) == 1
    assert_equal_everywhere(grads_of(model))


@pytest.mark.parametrize("who", ["before", "after", "one"])
def test_ranks_resume_with_another_key_at_the_saved_step_and_count(ranks, tmp_path, who):
    ranks.run(resume, str(tmp_path), who)


# --- a client on each rank


def local(budget) -> tuple[nn.Module, TIP]:
    model = net()
    wrapper = ddp(model, broadcast_buffers=False)
    defense = TIP(model, **SETTINGS, budget=budget)
    wrapper.register_comm_hook(distributed.LocalPrivacy(defense), distributed.local_privacy_hook)
    return wrapper, defense


def count_each(folder):
    own = 1 + dist.get_rank()
    budget = budget_for(own, path=os.path.join(folder, f"{own}.json"))
    wrapper, _ = local(budget)
    backward(wrapper)
    assert gathered(budget.messages) == [1] * SIZE
    text = raised(backward, wrapper)
    assert text.startswith("BudgetExceeded: expected a message within" if own == 1 else "BudgetExceeded: expected all")


def test_each_client_counts_its_own_and_one_that_is_spent_stops_all(ranks, tmp_path):
    ranks.run(count_each, str(tmp_path))


def count_all_in_one(folder):
    budget = budget_for(9, path=os.path.join(folder, "one.json"))
    wrapper, _ = local(budget)
    assert "expected a budget's file of each rank's own" in raised(backward, wrapper)
    assert budget.messages == 0


def test_clients_do_not_share_a_budget(ranks, tmp_path):
    ranks.run(count_all_in_one, str(tmp_path))
