"""The examples of DDP and FSDP2 do what their docstrings say."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("sklearn")

from ranks import ranks_on_loopback

from examples import ddp, digits, fsdp

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with ranks_on_loopback(2, tmp_path_factory) as found:
        yield found


def said_in_one_epoch(train, *args):
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "EPOCHS", 1)
        patch.setattr(digits, "say", lines.append)
        train(*args)
    return lines


ENDS = {
    "ddp": ((ddp.train, False), "ranks have equal parameters: True"),
    "ddp --local-privacy": ((ddp.train, True), "ranks have equal parameters: True"),
    "fsdp": ((fsdp.train,), "rank 0 holds (5, 1, 3, 3) of (10, 1, 3, 3)"),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_epoch_of_an_example(ranks, name):
    job, end = ENDS[name]
    for lines in ranks.run(said_in_one_epoch, *job):
        assert lines[-1] == end
        assert float(re.search(r"accuracy ([\d.]+) %", lines[0]).group(1)) > 30


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["", "torch.distributed.run --nproc-per-node 2 "])
@pytest.mark.parametrize("name", ENDS)
def test_an_example_by_its_command(launcher, name):
    example, *options = name.split()
    modules = f"{launcher}-m examples.{example}" if launcher else f"examples.{example}"
    command = [sys.executable, "-m", *modules.split(), *options]
    lines = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert len(lines) == digits.EPOCHS + 1
    assert lines[-1] == ENDS[name][1]
    assert float(re.search(r"epoch 5: test accuracy ([\d.]+) %", lines[-2]).group(1)) > 70
