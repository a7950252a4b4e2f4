"""Clients that share a budget's file: killed while they count and send, and many at once. For tests/test_budget.py.

One process imports everything and forks the clients; what it prints is JSON. A client has sent a message when it has
written a byte into a pipe.
"""

import json
import os
import pathlib
import random
import signal
import sys
import traceback
import types
from collections.abc import Callable, Mapping

import torch
from torch import nn

import tip_kernels
from tip_kernels import TIP, BudgetExceeded, PrivacyBudget, budget, calibration, protect
from tip_kernels._budget import accountant, allowance

KILLS = 100
LIMIT = 200
NOISE = 20.0
TARGET = (3.0, 1e-5)
PACKAGE = os.path.dirname(tip_kernels.__file__)
WATCHED = {__file__} | {
    os.path.join(PACKAGE, f"{name}.py")
    for name in ("budget", "_budget_store", "_budget_state", "_allowance", "_spending", "defense", "_attachment")
}

Client = Callable[..., None]


def client(path: str, sent: int, most: int = sys.maxsize) -> None:
    """Sends until it is refused, or ``most`` messages."""
    # Four channels: the noise of a single number is rounded to 0 in one of 3,200 messages, that of four never.
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    settings = {"ratio": 1.0, "scores": "public", "max_grad_norm": 1.0, "std": NOISE, "floor_std": NOISE}
    defense = TIP(model, **settings, budget=PrivacyBudget(*TARGET, path=path))
    for _ in range(most):
        update = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
        try:
            defense.perturb_update(update)
        except BudgetExceeded:
            assert not any(tensor.any() for tensor in update.values())
            return
        assert all(tensor.any() for tensor in update.values())
        os.write(sent, b"1")


def trainer(path: str, sent: int, most: int = sys.maxsize, saves: bool = False) -> None:
    """Sends a step's gradients after each step; what it goes on from is the budget's file, or a state that it saves."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.ones(2, 1, 4, 4), torch.tensor([0, 1])
    target = {"epsilon": TARGET[0], "delta": TARGET[1], "rounds": LIMIT, "public": (images, labels)}
    protection = protect(model, optimizer, **target, max_grad_norm=1.0, path=None if saves else path)
    if saves and os.path.exists(path):
        protection.load_state_dict(torch.load(path))
    for _ in range(most):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        try:
            optimizer.step()
        except BudgetExceeded:
            return
        if saves:
            torch.save(protection.state_dict(), f"{path}.new")
            os.replace(f"{path}.new", path)
        os.write(sent, b"1")


def saver(path: str, sent: int, most: int = sys.maxsize) -> None:
    """A trainer without a budget's file."""
    trainer(path, sent, most, saves=True)


def counted_by(path: str, run: Client) -> int:
    """The messages that the next process of this client will find counted."""
    if run is not saver:
        return PrivacyBudget(*TARGET, path=path).messages
    saved = PrivacyBudget(*TARGET)
    saved.load_state_dict(torch.load(path)["defense"]["budget"])
    return saved.messages


def spender(path: str, sent: int) -> None:
    """Counts and sends without a TIP, as fast as it can."""
    counted = PrivacyBudget(*TARGET, path=path)
    while True:
        try:
            counted.spend(NOISE)
        except BudgetExceeded:
            return
        os.write(sent, b"1")


def killed_at(line: int, run: Callable[[], None]) -> int:
    """Kills this process before it has run so many lines of the watched files; else returns how many it ran."""
    seen = 0

    def count(_frame: types.FrameType, event: str, _argument: object) -> object:
        nonlocal seen
        if event == "line":
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        return count

    sys.settrace(lambda frame, *_: count if frame.f_code.co_filename in WATCHED else None)
    try:
        run()
    finally:
        sys.settrace(None)
    return seen


def forked(run: Callable[[], None]) -> int:
    """The process id of a child that runs this and nothing else."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(child: int) -> int:
    """0, or the signal that killed it, or an error."""
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def bytes_in(pipe: int) -> int:
    """Of a pipe that nobody writes to any longer."""
    return len(os.read(pipe, 1 << 16))


def kill_many(folder: pathlib.Path, run: Client) -> dict[str, int]:
    """Kills a client at each of many lines, then has one send the rest."""
    receive, send = os.pipe()
    lines = killed_at(-1, lambda: run(str(folder / f"rehearsal_{run.__name__}"), send, most=3))
    first = bytes_in(receive)
    assert first == 3
    path, kills, sent, lost = str(folder / f"killed_{run.__name__}"), 0, 0, 0
    for line in random.Random(0).sample(range(lines), KILLS):
        kills += wait_for(forked(lambda line=line: killed_at(line, lambda: run(path, send)))) == signal.SIGKILL
        os.write(send, b"0")  # so that there is something to read
        sent += bytes_in(receive) - 1
        if not os.path.exists(path):
            assert sent == 0
            continue
        counted = counted_by(path, run)
        assert counted - sent in (lost, lost + 1), (line, counted, sent, lost)
        lost = counted - sent
    before = sent
    wait_for(forked(lambda: run(path, send)))
    sent += bytes_in(receive)
    return {"kills": kills, "lost": lost, "before": before, "sent": sent, "counted": counted_by(path, run)}


def many_at_once(folder: pathlib.Path) -> dict[str, int]:
    """Four processes that send all they can."""
    receive, send = os.pipe()
    path = str(folder / "shared.json")
    children = [forked(lambda: spender(path, send)) for _ in range(4)]
    assert [wait_for(child) for child in children] == [0] * 4
    return {"sent": bytes_in(receive), "counted": PrivacyBudget(*TARGET, path=path).messages}


def in_memory_after_a_fork() -> str:
    """What a child says that uses its parent's budget."""
    receive, send = os.pipe()
    in_memory = PrivacyBudget(*TARGET)

    def spend() -> None:
        try:
            in_memory.spend(NOISE)
        except RuntimeError as error:
            os.write(send, str(error).encode())

    wait_for(forked(spend))
    return os.read(receive, 1 << 16).decode()


def composed_epsilon(counts: Mapping[accountant.Kind, int], *_: object) -> float:
    """In place of the accountant, which takes longer than all the rest, and is the same in one process and in many."""
    return TARGET[0] * sum(count * (NOISE / kind.noise_multiplier) ** 2 for kind, count in counts.items()) / LIMIT


def main(folder: pathlib.Path) -> None:
    torch.set_num_threads(1)
    for module in (allowance, budget, calibration):
        module.composed_epsilon = composed_epsilon
    accountant.require()  # imports it before the forks
    killed = {run.__name__: kill_many(folder, run) for run in (client, trainer, saver)}
    results = {"limit": LIMIT, "killed": killed, "shared": many_at_once(folder)}
    print(json.dumps({**results, "forked": in_memory_after_a_fork()}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
