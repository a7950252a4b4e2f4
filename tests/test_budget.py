"""PrivacyBudget counts messages before they are sent, refuses at the limit, and keeps its count whatever happens."""

import copy
import fcntl
import io
import json
import logging
import os
import pathlib
import pickle
import subprocess
import sys
import threading

import dp_accounting
import pytest
import torch
from dp_accounting import pld
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tip_kernels import TIP, BudgetExceeded, NoiseRNG, PrivacyBudget, calibration
from tip_kernels._budget import allowance, spending, store
from tip_kernels._op.call import PreparedCall

ROOT = pathlib.Path(__file__).parent.parent
EPSILON, DELTA, NOISE = 8.0, 1e-5, 3.0
LIMIT = 24
"""Messages with ``NOISE`` that fit; a test says so."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["memory", "file"])
def budget(request, tmp_path) -> PrivacyBudget:
    return PrivacyBudget(EPSILON, DELTA, path=None if request.param == "memory" else tmp_path / "budget.json")


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
    return tmp_path / "budget.json"


def on(path, **options) -> PrivacyBudget:
    return PrivacyBudget(EPSILON, DELTA, path=path, **options)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def guaranteed(budget: PrivacyBudget | None, noise: float = NOISE, **settings) -> TIP:
    model = settings.pop("model", None) or net()
    settings = {"ratio": 1.0, "max_grad_norm": 2.0, "scores": "public", **settings}
    return TIP(model, std=2 * noise, floor_std=2 * noise, budget=budget, **settings)


def update_of(defense: TIP) -> dict[str, torch.Tensor]:
    return {name: torch.ones_like(parameter) for name, parameter in defense.model.named_parameters()}


def backward(model: nn.Module) -> None:
    model(torch.randn(4, 1, 4, 4)).square().sum().backward()


def spend(budget: PrivacyBudget, messages: int, noise: float = NOISE) -> None:
    for _ in range(messages):
        budget.spend(noise)


def send_all(defense: TIP) -> None:
    while True:
        defense.perturb_update(update_of(defense))


# What is counted


def test_messages_are_what_the_accountant_says(budget):
    defense = guaranteed(budget)
    assert budget.messages == 0
    assert budget.spent() == 0
    for messages in range(1, 4):
        defense.perturb_update(update_of(defense))
        assert budget.messages == messages
        assert budget.spent() == calibration.accounted_epsilon(defense, rounds=messages, delta=DELTA)
        assert budget.remaining() == EPSILON - budget.spent()


def test_refusal_exactly_at_the_limit(budget):
    defense = guaranteed(budget, rng=NoiseRNG.from_seed(0))

    def epsilon(rounds):
        return calibration.accounted_epsilon(defense, rounds=rounds, delta=DELTA)

    assert epsilon(LIMIT) <= EPSILON < epsilon(LIMIT + 1)
    assert budget.messages_left(NOISE) == LIMIT
    for sent in range(LIMIT):
        if sent == LIMIT - 3:
            assert budget.messages_left(NOISE) == 3
        defense.perturb_update(update_of(defense))
    update = update_of(defense)
    message = (
        r"expected a message within epsilon 8 at delta 1e-05, got one that would make it 8\.\d+, after 24 messages "
        r"that make 7\.\d+: nothing has changed and nothing of it may be sent"
    )
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match=message):
            defense.perturb_update(update)
    assert all((tensor == 1).all() for tensor in update.values())
    assert (budget.messages, defense.rng.step) == (LIMIT, LIMIT)
    assert budget.messages_left(NOISE) == 0


def test_a_smaller_message_may_fit_after_a_refusal(budget):
    spend(budget, LIMIT)
    with pytest.raises(BudgetExceeded):
        budget.spend(NOISE)
    assert budget.spend(100.0) == LIMIT + 1
    with pytest.raises(BudgetExceeded):
        budget.spend(NOISE)


def test_each_perturb_call_is_one_message(budget):
    defense = guaranteed(budget)
    model = defense.model
    backward(model)
    defense.perturb_gradients()
    assert budget.messages == 1
    received = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    defense.perturb_weights({name: tensor.clone() for name, tensor in received.items()}, received)
    assert budget.messages == 2

    parameters = list(model.parameters())
    optimizers = [torch.optim.SGD(parameters[:2], lr=0.1), torch.optim.SGD(parameters[2:], lr=0.1)]
    for optimizer in optimizers:
        defense.attach(optimizer)
    for messages in (4, 6):
        model.zero_grad()
        backward(model)
        for optimizer in optimizers:
            optimizer.step()
        assert budget.messages == messages
    for optimizer in optimizers:
        optimizer.zero_grad()
        optimizer.step()  # uses no gradients and sends nothing
    assert budget.messages == 6 == defense.rng.step


def test_each_evaluation_of_a_closure_is_a_message(budget):
    defense = guaranteed(budget)
    optimizer = torch.optim.LBFGS(defense.model.parameters(), max_iter=3, tolerance_change=0, tolerance_grad=0)
    defense.attach(optimizer)

    def closure():
        optimizer.zero_grad()
        loss = defense.model(torch.ones(4, 1, 4, 4)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert budget.messages == defense.rng.step > 1


def test_a_refused_step_changes_no_weights(budget):
    defense = guaranteed(budget)
    optimizer = torch.optim.SGD(defense.model.parameters(), lr=0.1)
    defense.attach(optimizer)
    spend(budget, LIMIT)
    backward(defense.model)
    before = [parameter.detach().clone() for parameter in defense.model.parameters()]
    with pytest.raises(BudgetExceeded):
        optimizer.step()
    assert all(map(torch.equal, before, defense.model.parameters()))


def test_a_call_that_the_checks_refuse_is_not_counted(budget):
    defense = guaranteed(budget)
    with pytest.raises(ValueError, match="'unknown'"):
        defense.perturb_update({"unknown": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="expected gradients, got none"):
        defense.perturb_gradients()
    with pytest.raises(TypeError, match="float"):
        defense.perturb_update({"3.bias": torch.zeros(2, dtype=torch.complex64)})
    update = update_of(defense)
    defense.perturb_update(update)
    with pytest.raises(RuntimeError, match="a TIP has perturbed already"):
        defense.perturb_update(update)
    measured = guaranteed(budget, ratio=0.5)
    with pytest.raises(RuntimeError, match="measure"):
        measured.perturb_update(update_of(measured))
    assert budget.messages == 1


def test_a_call_that_fails_later_stays_counted(budget, monkeypatch):
    def fail(_call):
        raise MemoryError

    defense = guaranteed(budget)
    monkeypatch.setattr(PreparedCall, "run", fail)
    with pytest.raises(MemoryError):
        defense.perturb_update(update_of(defense))
    assert budget.messages == 1


def test_a_dry_run_counts_nothing(budget):
    defense = guaranteed(budget)
    with FakeTensorMode(allow_non_fake_inputs=True):
        update = {name: torch.zeros(parameter.shape) for name, parameter in defense.model.named_parameters()}
        defense.perturb_update(update)
    assert (budget.messages, defense.rng.step) == (0, 0)


def test_a_cuda_graph_cannot_be_counted(budget, monkeypatch):
    defense = guaranteed(budget)
    monkeypatch.setattr(spending, "is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="expected no capture of a CUDA graph around a TIP with a budget"):
        defense.perturb_update(update_of(defense))
    assert (budget.messages, defense.rng.step) == (0, 0)


@pytest.mark.filterwarnings("ignore")  # torch's own
def test_compiled_steps_are_counted():
    """Each of them, and the refused one changes nothing; as one graph they are an error."""
    torch.compiler.reset()
    budget = PrivacyBudget(EPSILON, DELTA)
    defense = guaranteed(budget)
    optimizer = torch.optim.SGD(defense.model.parameters(), lr=0.1)
    defense.attach(optimizer)

    def step():
        optimizer.zero_grad()
        backward(defense.model)
        optimizer.step()

    compiled = torch.compile(step, backend="eager")
    for messages in range(1, LIMIT + 1):
        compiled()
        assert budget.messages == defense.rng.step == messages
    before = [parameter.detach().clone() for parameter in defense.model.parameters()]
    with pytest.raises(BudgetExceeded):
        compiled()
    assert all(map(torch.equal, before, defense.model.parameters()))

    torch.compiler.reset()  # else Dynamo may take what it made of the same code above, breaks and all
    other = guaranteed(PrivacyBudget(EPSILON, DELTA))
    backward(other.model)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(other.perturb_gradients, backend="eager", fullgraph=True)()
    torch.compiler.reset()
    assert (other.budget.messages, other.rng.step) == (0, 0)
    torch.compiler.reset()


# How it composes


def composed(events, relation="ADD_OR_REMOVE_ONE") -> float:
    """By the accountant itself, with its own grid of 1e-4."""
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation[relation])
    for noise, probability, count in events:
        event = dp_accounting.GaussianDpEvent(noise)
        if probability < 1:
            event = dp_accounting.PoissonSampledDpEvent(probability, event)
        accountant.compose(event, count)
    return accountant.get_epsilon(DELTA)


def test_hardly_any_noise_is_worth_more_than_any_target(budget):
    with pytest.raises(BudgetExceeded, match="would make it inf, after 0 messages"):
        budget.spend(1e-9)
    assert budget.messages_left(1e-4) == 0


def test_two_mechanisms_compose(budget):
    """The grid of losses has steps of 1e-3 at most here, and of each mechanism's rounding up less than one remains."""
    spend(budget, 3, noise=3.0)
    spend(budget, 5, noise=7.0)
    assert budget.messages == 8
    assert budget.spent() == pytest.approx(composed([(3.0, 1, 3), (7.0, 1, 5)]), abs=1e-3)


def test_sampled_and_replaced_messages_compose(path):
    sampled = on(path, sampling_probability=0.1)
    spend(sampled, 4, noise=0.9)
    whole = on(path)
    spend(whole, 2, noise=5.0)
    assert whole.spent() == sampled.spent() == pytest.approx(composed([(0.9, 0.1, 4), (5.0, 1, 2)]), abs=2e-3)
    replaced = PrivacyBudget(EPSILON, DELTA, relation="replace")
    spend(replaced, 2)
    assert replaced.spent() == pytest.approx(composed([(NOISE, 1, 2)], "REPLACE_ONE"), abs=1e-3)


def test_changed_settings_share_a_file(path):
    """The limit of both together, whoever asks."""
    spend(on(path), 12)
    defense = guaranteed(on(path), noise=10.0)
    with pytest.raises(BudgetExceeded):
        send_all(defense)
    sent = on(path).messages - 12
    assert composed([(NOISE, 1, 12), (10.0, 1, sent - 1)]) < EPSILON < composed([(NOISE, 1, 12), (10.0, 1, sent + 2)])


def test_few_messages_ask_the_accountant(monkeypatch):
    asked = 0

    def count(*arguments):
        nonlocal asked
        asked += 1
        return real(*arguments)

    real = allowance.composed_epsilon
    monkeypatch.setattr(allowance, "composed_epsilon", count)
    budget = PrivacyBudget(EPSILON, DELTA)
    with pytest.raises(BudgetExceeded):
        spend(budget, 10_000, noise=20.0)
    messages = budget.messages
    assert real({allowance.Kind(20.0, 1.0): messages}, DELTA, "add_or_remove") <= EPSILON
    assert real({allowance.Kind(20.0, 1.0): messages + 1}, DELTA, "add_or_remove") > EPSILON
    assert messages > 1000
    assert asked <= 60


# The file


def test_a_restart_goes_on(path):
    spend(on(path), 3)
    assert on(path).messages == 3
    with pytest.raises(BudgetExceeded):
        spend(on(path), LIMIT)
    assert on(path).messages == LIMIT
    saved = json.loads(path.read_text())
    assert saved["sent"] == [{"noise_multiplier": NOISE, "sampling_probability": 1.0, "messages": LIMIT}]


def test_a_missing_file_starts_at_zero_in_a_folder_that_exists(tmp_path):
    assert on(tmp_path / "new.json").messages == 0
    assert on(tmp_path / "new.json").messages == 0
    with pytest.raises(FileNotFoundError, match=r"expected a folder for the budget's file, got none: .*no_folder"):
        on(tmp_path / "no_folder" / "budget.json")
    assert not (tmp_path / "no_folder").exists()


TARGETS = [
    ({"epsilon": 9.0}, "to have epsilon 9.0 as this budget does, got 8.0"),
    ({"delta": 1e-6}, "to have delta 1e-06 as this budget does, got 1e-05"),
    ({"relation": "replace"}, "to have relation 'replace' as this budget does, got 'add_or_remove'"),
]


@pytest.mark.parametrize(("change", "message"), TARGETS)
def test_another_target_is_refused(path, change, message):
    spend(on(path), 1)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        PrivacyBudget(**{"epsilon": EPSILON, "delta": DELTA, **change}, path=path)
    assert path.read_bytes() == before


def flipped(text: bytes) -> bytes:
    return text.replace(b'"messages": 2', b'"messages": 1')


DAMAGES = {
    "empty": lambda text: b"",
    "half": lambda text: text[: len(text) // 2],
    "without its end": lambda text: text[:-3],
    "zeros": lambda text: bytes(len(text)),
    "another number": flipped,
    "not JSON": lambda text: b"spent: 2",
    "a list": lambda text: b"[]",
    "nothing in it": lambda text: b"{}",
    "doubled": lambda text: text + text,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(path, damage):
    budget = on(path)
    spend(budget, 2)
    defense = guaranteed(budget)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    damaged = path.read_bytes()
    update = update_of(defense)
    uses = [lambda: on(path), budget.spent, budget.state_dict, lambda: defense.perturb_update(update)]
    for use in uses:
        with pytest.raises(ValueError, match=r"expected the budget's file .*budget.json to be whole, got a damaged"):
            use()
    assert path.read_bytes() == damaged
    assert all((tensor == 1).all() for tensor in update.values())
    assert defense.rng.step == 0


STATES = [
    ({"version": 2}, "to have version 1, got 2"),
    ({"sent": [{"noise_multiplier": 3.0}]}, "to be a budget's state, got something else or a part of one"),
    ({"sent": 3}, "to be a budget's state, got something else or a part of one"),
    ({"sent": [{"noise_multiplier": -3.0, "sampling_probability": 1.0, "messages": 1}]}, "possible kinds"),
    ({"sent": [{"noise_multiplier": 3.0, "sampling_probability": 1.5, "messages": 1}]}, "possible kinds"),
    ({"sent": [{"noise_multiplier": 3.0, "sampling_probability": 1.0, "messages": -1}]}, "possible kinds"),
    ({"sent": [{"noise_multiplier": 3.0, "sampling_probability": 1.0, "messages": 1}] * 2}, "each kind once"),
]


@pytest.mark.parametrize(("change", "message"), STATES)
def test_a_state_that_makes_no_sense_is_refused(change, message):
    """Of the file, too, if its checksum is right."""
    budget = PrivacyBudget(EPSILON, DELTA)
    spend(budget, 1)
    with pytest.raises(ValueError, match=message):
        budget.load_state_dict({**budget.state_dict(), **change})
    assert budget.messages == 1


def test_a_file_that_is_gone_or_older_is_refused(path):
    budget = on(path)
    spend(budget, 1)
    older = path.read_bytes()
    spend(budget, 1)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="to be there still, got none: its counts are lost"):
        budget.spend(NOISE)
    assert not path.exists()
    path.write_bytes(older)
    with pytest.raises(ValueError, match=r"expected .* to have all messages counted before, got an older state"):
        budget.spend(NOISE)
    assert path.read_bytes() == older


def test_what_a_killed_process_leaves_behind_is_no_obstacle(path):
    spend(on(path), 2)
    path.with_name("budget.json.new").write_text('{"version": 1, "eps')
    spend(on(path), 1)
    assert on(path).messages == 3


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_nothing_is_sent_where_the_disk_fails(path, broken, monkeypatch):
    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    defense = guaranteed(on(path))
    update = update_of(defense)
    with monkeypatch.context() as patch:
        patch.setattr(store.os, broken, fail)
        with pytest.raises(OSError, match="No space left"):
            defense.perturb_update(update)
    assert all((tensor == 1).all() for tensor in update.values())
    assert (on(path).messages, defense.rng.step) == (0, 0)
    defense.perturb_update(update)
    assert on(path).messages == 1


def test_count_and_name_are_on_the_disk_before_the_message(path, monkeypatch):
    done = []
    fsync, replace, run = os.fsync, os.replace, PreparedCall.run

    def recorded(name, function):
        return lambda *arguments: (done.append(name), function(*arguments))[1]

    defense = guaranteed(on(path))
    monkeypatch.setattr(os, "fsync", recorded("fsync", fsync))
    monkeypatch.setattr(os, "replace", recorded("replace", replace))
    monkeypatch.setattr(PreparedCall, "run", recorded("noise", run))
    defense.perturb_update(update_of(defense))
    assert done == ["fsync", "replace", "fsync", "noise"]


def test_a_process_waits_for_another_and_gives_up(path, monkeypatch):
    budget = on(path)
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    with open(f"{path}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for use in (lambda: budget.spend(NOISE), lambda: on(path)):
            with pytest.raises(TimeoutError, match=r"expected .*budget.json.lock to be unlocked within 0 s: another"):
                use()
    budget.spend(NOISE)
    assert budget.messages == 1


def test_a_lock_on_a_file_that_was_deleted_is_no_lock(path, monkeypatch):
    """Two processes would hold one each."""
    budget = on(path)
    lock = pathlib.Path(f"{path}.lock")
    flock, files = fcntl.flock, []

    def deleted_at_first(descriptor, operation):
        flock(descriptor, operation)
        if not files:
            lock.unlink()
        files.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(fcntl, "flock", deleted_at_first)
    budget.spend(NOISE)
    assert lock.stat().st_ino == files[-1]
    assert len(files) >= 3  # the lost lock, the new one, and its end


def test_two_names_of_one_file(path, tmp_path):
    spend(on(path), 1)
    (tmp_path / "link.json").symlink_to(path)
    spend(on(tmp_path / "link.json"), 1)
    assert on(path).messages == 2
    assert (tmp_path / "link.json").is_symlink()


def test_a_folder_that_is_left_does_not_move_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    budget = on("budget.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    budget.spend(NOISE)
    assert on(tmp_path / "budget.json").messages == 1


def test_paths_need_locks(path, monkeypatch):
    monkeypatch.setattr(store, "fcntl", None)
    with pytest.raises(RuntimeError, match="expected an operating system with fcntl"):
        on(path)
    assert not path.exists()


@pytest.fixture(scope="module")
def clients(tmp_path_factory) -> dict:
    """What tests/killed_clients.py has found, which asserts at each kill that all that was sent was counted."""
    command = [sys.executable, "-m", "tests.killed_clients", str(tmp_path_factory.mktemp("clients"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("client", ["client", "trainer", "saver"])
def test_a_process_killed_a_hundred_times_sends_no_more_and_loses_no_count(client, clients):
    killed = clients["killed"][client]
    assert killed["kills"] == 100
    assert killed["counted"] == clients["limit"] == killed["sent"] + killed["lost"]
    assert 30 < killed["before"] < clients["limit"]  # by those that were killed
    if client != "saver":  # whose lines between saving and sending are few
        assert 0 < killed["lost"] <= 100  # counted, and not sent in time


def test_many_processes_send_no_more_than_one(clients):
    assert clients["shared"] == {"sent": clients["limit"], "counted": clients["limit"]}


def test_a_budget_in_memory_does_not_serve_a_forked_process(clients):
    assert clients["forked"].startswith("expected a PrivacyBudget with a path in a forked process, got one in memory")


def test_threads_send_no_more_than_one(budget):
    sent = []

    def send():
        while True:
            try:
                budget.spend(NOISE)
            except BudgetExceeded:
                return
            sent.append(1)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == budget.messages == LIMIT


# States and copies


def test_a_state_never_goes_back(budget):
    spend(budget, 2)
    older = json.loads(json.dumps(budget.state_dict()))
    spend(budget, 1)
    spend(budget, 1, noise=7.0)
    budget.load_state_dict(older)
    assert budget.messages == 4
    newer = PrivacyBudget(EPSILON, DELTA)
    spend(newer, 5)
    budget.load_state_dict(newer.state_dict())
    assert budget.messages == 6  # of two kinds, the larger count of each
    with pytest.raises(ValueError, match=r"expected the state to have epsilon 8.0 as this budget does, got 9.0"):
        budget.load_state_dict(PrivacyBudget(9.0, DELTA).state_dict())
    for other in ({}, [], None, {"rng": {}}):
        with pytest.raises(ValueError, match="expected the state to be a budget's state, got something else"):
            budget.load_state_dict(other)


def test_a_checkpoint_of_the_defense_has_the_count(budget):
    defense = guaranteed(budget)
    defense.perturb_update(update_of(defense))
    file = io.BytesIO()
    torch.save(defense.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = guaranteed(PrivacyBudget(EPSILON, DELTA))
    resumed.load_state_dict(saved)
    assert (resumed.budget.messages, resumed.rng.step) == (1, 1)

    bare = guaranteed(None)
    assert bare.budget is None
    with pytest.raises(ValueError, match="expected the state of a TIP without a budget, got one with"):
        bare.load_state_dict(saved)
    fresh = guaranteed(PrivacyBudget(EPSILON, DELTA))
    bare.perturb_update(update_of(bare))
    with pytest.raises(ValueError, match="expected the state of a TIP with a budget, got one without"):
        fresh.load_state_dict(bare.state_dict())
    assert (bare.rng.step, fresh.rng.step) == (1, 0)


def test_copies_spend_one_budget(budget):
    defense = guaranteed(budget)
    defense.model.defense = defense
    others = [copy.deepcopy(defense), copy.copy(defense), copy.deepcopy(defense.model).defense]
    for messages, other in enumerate([defense, *others], start=1):
        assert other.budget is budget
        other.perturb_update(update_of(other))
        assert budget.messages == messages


def test_pickles_find_the_file(path, tmp_path):
    defense = guaranteed(on(path))
    defense.perturb_update(update_of(defense))
    saved = pickle.dumps(defense)
    loaded = pickle.loads(saved)
    loaded.perturb_update(update_of(loaded))
    assert defense.budget.messages == loaded.budget.messages == 2
    older = path.read_bytes()
    spend(on(path), 1)
    newer = pickle.dumps(defense.budget)
    path.write_bytes(older)
    with pytest.raises(ValueError, match="got an older state"):
        pickle.loads(newer)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="to be there still, got none"):
        pickle.loads(pickle.dumps(on(path)).replace(b"budget.json", b"absent.json"))
    assert not (tmp_path / "absent.json").exists()


def test_a_budget_in_memory_is_not_pickled():
    for thing in (PrivacyBudget(EPSILON, DELTA), guaranteed(PrivacyBudget(EPSILON, DELTA))):
        with pytest.raises(TypeError, match="expected a PrivacyBudget with a path to pickle, got one in memory"):
            pickle.dumps(thing)


# What it says


def test_the_log_has_epsilon_after_each_message_and_warns_once(budget, caplog):
    caplog.set_level(logging.INFO, "tip_kernels")
    spend(budget, LIMIT)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO"] * 20 + ["WARNING"] + ["INFO"] * 3
    assert "privacy budget: epsilon 7.207 of 8 (delta 1e-05) spent by 21 messages" in caplog.text


def test_a_budget_in_use_says_when_its_delta_is_beyond_the_noise():
    budget = PrivacyBudget(EPSILON, 5e-9)
    defense = guaranteed(budget)
    for _ in range(8):
        defense.perturb_update(update_of(defense))  # 46 normals, each missing a tail of 1.35e-11
    with pytest.warns(RuntimeWarning, match=r"expected delta of at least 5.6e-09, got 5e-09: ideal noise of 414"):
        defense.perturb_update(update_of(defense))
    defense.perturb_update(update_of(defense))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": "private"}, "expected scores='public', got 'private'"),
        ({"max_grad_norm": None}, "expected max_grad_norm to be a number, got None"),
        ({"noise": 0.0}, r"floor_std above 0 for all that is sent, got 0 \(0.weight\)"),
        ({"shares": 3}, "expected honest to say how many of the 3 shares"),
    ],
)
def test_no_budget_without_a_guarantee(budget, settings, message):
    with pytest.raises(ValueError, match=message):
        guaranteed(budget, **settings)


def test_only_a_budget_is_a_budget():
    with pytest.raises(TypeError, match="expected budget to be a PrivacyBudget, got float"):
        guaranteed(8.0)


BAD = [
    ({"epsilon": 0.0}, "epsilon to be positive and finite, got 0.0"),
    ({"epsilon": float("inf")}, "epsilon to be positive and finite, got inf"),
    ({"delta": 1.0}, r"delta in \(0, 1\), got 1.0"),
    ({"delta": float("nan")}, r"delta in \(0, 1\), got nan"),
    ({"sampling_probability": 0.0}, r"sampling_probability in \(0, 1\], got 0.0"),
    ({"relation": "swap"}, "relation to be one of add_or_remove, replace, got 'swap'"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_targets(path, change, message):
    with pytest.raises(ValueError, match=message):
        PrivacyBudget(**{"epsilon": EPSILON, "delta": DELTA, **change}, path=path)
    assert not path.exists()


def test_bad_numbers(budget):
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="noise_multiplier to be positive and finite"):
            budget.spend(bad)
    with pytest.raises(TypeError, match="expected epsilon to be a number, got str"):
        PrivacyBudget("8", DELTA)
    assert budget.messages == 0


def test_the_accountant_is_asked_for_at_once(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'tip_kernels\[accounting\]'"):
        on(path)
    assert not path.exists()


def test_repr_has_target_and_path(path):
    assert repr(on(path)) == f"PrivacyBudget(epsilon=8, delta=1e-05, path={str(path)!r})"
    assert "budget=PrivacyBudget(epsilon=8, delta=1e-05, path=None)" in repr(guaranteed(PrivacyBudget(8, 1e-5)))
