"""A SuperLink and two SuperNodes on 127.0.0.1: what a server receives has its noise, whole, or is an error."""

import contextlib
import json
import os
import pathlib
import signal
import time

import pytest
import torch

pytest.importorskip("flwr")

from flwr.common.constant import ErrorCode

from examples.flower.federate import federation
from tests.flower_app.recorded.client_app import SETTINGS, net, trained
from tip_kernels import TIP

ROOT = pathlib.Path(__file__).parent.parent
APP = ROOT / "tests/flower_app"
PATIENCE = 600.0
"""Seconds for a run on a busy machine."""


def differences(own, received, names):
    return {name: own[name].double() - received[name].double() for name in names}


def assert_noised(arrays, own, received) -> None:
    """Every floating tensor is the received one, the clipped update and noise of the given std; others as received."""
    names = [name for name, tensor in received.items() if tensor.is_floating_point() and "num_batches" not in name]
    update = differences(own, received, names)
    norm = torch.stack([tensor.norm() for tensor in update.values()]).norm().item()
    scale = min(1.0, SETTINGS["max_grad_norm"] / norm)
    for name in names:
        noise = arrays[name].double() - received[name].double() - scale * update[name]
        if name == "1.running_var":  # at least 0
            noise = noise[arrays[name] > 0]
        spread = noise.square().mean().sqrt().item() / SETTINGS["std"]
        assert abs(spread - 1) < 5 / (2 * noise.numel()) ** 0.5, f"noise of {spread:.3f} times the std in {name}"
    for name in received.keys() - set(names):
        assert torch.equal(arrays[name].double(), received[name].double().trunc())


def message(**settings):
    """(what is sent, what it would be without noise, what was received) of a client."""
    torch.manual_seed(0)
    received = net().state_dict()
    own = trained(received)
    sent = {name: tensor.clone() for name, tensor in own.items()}
    TIP(net(), **{**SETTINGS, **settings}).perturb_weights(sent, received)
    return sent, own, received


def test_noise_is_recognized():
    assert_noised(*message())


@pytest.mark.parametrize("missing", ["0.weight", "1.running_mean", "4.weight", "4.bias"])
def test_a_tensor_without_noise_is_noticed(missing):
    sent, own, received = message()
    with pytest.raises(AssertionError, match=f"noise of .* in {missing}"):
        assert_noised({**sent, missing: own[missing]}, own, received)


@pytest.mark.parametrize("settings", [{"std": 0.03}, {"floor_std": 0.1}, {"max_grad_norm": 3.0}])
def test_noise_of_other_settings_is_noticed(settings):
    with pytest.raises(AssertionError, match=r"noise of .* times the std"):
        assert_noised(*message(**settings))


def wait_for(path: pathlib.Path, process) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}"
        assert process.poll() is None, f"the run ended without {path.name}"
        time.sleep(0.2)


@pytest.mark.federation
def test_a_federation_whose_clients_die(tmp_path):
    """Rounds 1 and 2 are whole. In round 3 the process of a client dies in the middle, in round 4 a SuperNode."""
    with federation() as running, (tmp_path / "log").open("w") as log:
        run = running.run(APP, f'folder="{tmp_path}"', log)
        with contextlib.closing(Closed(run)):
            wait_for(tmp_path / "middle-4", run)
            os.kill(running.supernodes[1].pid, signal.SIGKILL)
            assert run.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    replies = {number: torch.load(tmp_path / f"server-{number}.pt") for number in range(1, 5)}
    for number, noted in replies.items():
        for reply in noted:
            if "error" in reply:
                assert not reply["content"]
                continue
            client = torch.load(tmp_path / f"client-{number}-{reply['partition']}.pt")
            assert_noised(reply["arrays"], client["own"], client["received"])
            assert reply["records"] == ["arrays", "metrics"]
    partitions = {number: [reply.get("partition") for reply in noted] for number, noted in replies.items()}
    assert [sorted(partitions[number]) for number in (1, 2)] == [[0, 1], [0, 1]]
    assert [{*partitions[number]} for number in (3, 4)] == [{1, None}, {0, None}]
    errors = [reply["error"] for number in (3, 4) for reply in replies[number] if "error" in reply]
    assert errors == [ErrorCode.CLIENT_APP_CRASHED, ErrorCode.NODE_UNAVAILABLE]
    assert steps_of(tmp_path, 0) == [0, 1, 2, 2]  # Flower forgets what the message of round 3 had counted
    assert steps_of(tmp_path, 1) == [0, 1, 2, 3]
    notes = [torch.load(path) for path in tmp_path.glob("client-*.pt")]
    assert len({note["process"] for note in notes}) == len(notes), "a process for each message, so a key for each"


def steps_of(folder: pathlib.Path, partition: int) -> list[int]:
    """The steps that a client found in its context, round by round."""
    states = [torch.load(folder / f"client-{number}-{partition}.pt")["state"] for number in range(1, 5)]
    return [0 if state is None else json.loads(state)["rng"]["step"] for state in states]


class Closed:
    """Ends a process that is still there."""

    def __init__(self, process) -> None:
        self._process = process

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
