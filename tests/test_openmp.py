"""What the ops compute where OpenMP gives fewer threads than torch asks for, as in a container with a limit."""

import os
import subprocess
import sys

import pytest

import tip_kernels as tip

PROGRAM = """
import hashlib
import torch
import tip_kernels as tip

torch.set_num_threads(4)
draw = torch.Generator().manual_seed(0)
weights = [torch.randn(160, 90, 3, 3, generator=draw) for _ in range(3)]
ops, state = torch.ops.tip_kernels, tip.NoiseRNG(bytes(32)).state(torch.device("cpu"))
form = torch.rand(9, 9, dtype=torch.float64, generator=draw)
results = [
    ops.clip_scale(weights, None, state, 1.0, [], None),
    ops.clip_scale(weights, None, state, 1.0, [form], [0, -1, 0]),
    ops.channel_saliency(torch.randn(8, 64, 32, 32, generator=draw)),
]
scores = [torch.rand(160, generator=draw) for _ in weights]
tip.perturb_(weights, scores, ratio=0.5, std=1.0, rng=tip.NoiseRNG(bytes(32)))
for result in [*results, *weights]:
    print(hashlib.sha256(result.numpy().tobytes()).hexdigest())
"""


def results(**limits: str) -> list[str]:
    free = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, env=free | limits, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.skipif("cpu" not in tip.available_backends(), reason="no compiled library")
def test_fewer_threads_than_asked_change_nothing():
    expected = results()
    assert len(set(expected)) == 6
    for limit in ({"OMP_THREAD_LIMIT": "1"}, {"OMP_THREAD_LIMIT": "2"}, {"OMP_DYNAMIC": "true"}):
        assert results(**limit) == expected, limit
