"""The example of FedAvg by hand: rounds with their epsilon, then a refusal; and files that a second run finds."""

import pathlib
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("dp_accounting")

from examples import fedavg
from tip_kernels import PrivacyBudget

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = pathlib.Path(__file__).parent.parent


def test_the_command_trains_within_its_budget(tmp_path):
    command = [sys.executable, "-m", "examples.fedavg", "--clients", "3", "--rounds", "2", "--epsilon", "500"]
    run = subprocess.run([*command, "--budgets", str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    rounds = re.findall(r"^round (\d): epsilon (\S+) of 500, accuracy \S+%$", run.stdout, re.MULTILINE)
    assert [number for number, _ in rounds] == ["1", "2"]
    assert 0 < float(rounds[0][1]) < float(rounds[1][1]) <= 500
    assert "round 3: no updates, since a client refuses: expected a message within epsilon 500" in run.stdout
    paths = [tmp_path / f"client_{number}.json" for number in range(3)]
    assert [PrivacyBudget(500, fedavg.DELTA, path=path).messages for path in paths] == [2, 2, 2]


def test_a_second_run_has_nothing_left(tmp_path, capsys):
    for path in (tmp_path / f"client_{number}.json" for number in range(3)):
        budget = PrivacyBudget(8.0, fedavg.DELTA, path=path)
        for _ in range(budget.messages_left(10.0)):
            budget.spend(10.0)
    fedavg.federate(clients=3, rounds=1, epsilon=8.0, data="digits", budgets=tmp_path)
    assert "round 1: no updates, since a client refuses" in capsys.readouterr().out


def test_what_a_client_sends_is_noise_and_a_clipped_update():
    torch.manual_seed(0)
    client = fedavg.Client(0, 4, 0.05, PrivacyBudget(500.0, fedavg.DELTA), "digits")
    weights = {name: tensor.clone() for name, tensor in client.model.state_dict().items()}
    update = client.update(weights)
    numbers = torch.cat([tensor.flatten() for tensor in update.values()])
    # 10,106 numbers with noise of std 0.05, whose squared norm is within 5 % of its mean, and an update of norm 1.
    assert numbers.square().sum().item() == pytest.approx(0.05**2 * len(numbers) + 1, rel=0.1)
    assert client.defense.budget.messages == 1
