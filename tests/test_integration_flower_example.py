"""The Flower app in examples/: its client by itself, and all of it by its command."""

import importlib
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
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


def test_the_example_on_cifar10(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "examples/flower"))
    task = importlib.import_module("tip_digits.task")
    for number in (1, 2):
        batch = {b"data": np.full((300, 3072), 255, np.uint8), b"labels": [number] * 300}
        (tmp_path / f"data_batch_{number}").write_bytes(pickle.dumps(batch))
    parts = [*(task.of_client(str(tmp_path), part, 3) for part in range(3)), task.public(str(tmp_path))]
    assert [tuple(images.shape) for images, _ in parts] == [(count, 3, 32, 32) for count in (34, 33, 33, 100)]
    assert set(torch.cat([labels for _, labels in parts]).tolist()) == {1, 2}
    assert task.Net(task.channels(str(tmp_path)))(parts[0][0]).shape == (34, 10)
    with pytest.raises(FileNotFoundError, match="or the folder cifar-10-batches-py"):
        task.public(str(tmp_path / "none"))


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
