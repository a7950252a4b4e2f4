"""The Flower app in examples/: its client by itself, and all of it by its command."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("flwr")

from flower_client import request, sent_by
from flwr.app import ArrayRecord, Context, RecordDict

from tip_kernels.integrations.flower import to_record

pytest_plugins = "flower_client"
pytestmark = pytest.mark.usefixtures("seeded")

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("protects", [True, False])
def test_the_client_of_the_example(monkeypatch, protects):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(ROOT / "examples/flower"))
    example, task = (importlib.import_module(f"tip_digits.{name}") for name in ("client_app", "task"))
    own = []
    monkeypatch.setattr(example, "ArrayRecord", lambda state: own.append(state) or ArrayRecord(state))
    received = task.Net(1).state_dict()
    config = {"data": "digits", "tip": protects, "local-epochs": 1, "lr": 0.05}
    node = {"partition-id": 1, "num-partitions": 2}
    reply = example.app(request(to_record(received)), Context(1, 2, node, RecordDict(), config))
    assert reply.content["metrics"]["num-examples"] == 648
    (own,) = own
    assert own["7.weight"].shape == (10, 512)
    assert [not torch.equal(sent_by(reply)[name], own[name]) for name in own] == [protects] * len(own)


@pytest.mark.federation
def test_its_command():
    pytest.importorskip("sklearn")
    command = [sys.executable, "-m", "examples.flower.federate", "num-server-rounds=2"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600.0)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("Received 2 results and 0 failures") == 2, run.stdout
    accuracies = [float(found) for found in re.findall(r"'accuracy': (0\.\d+)\}", run.stdout)]
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.5
