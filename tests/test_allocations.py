"""The compiled CPU ops without memory: each allocation of theirs is made to fail, and nothing has changed then."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import tip_kernels as tip

pytestmark = pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is absent")

ROOT = pathlib.Path(__file__).parent.parent

PROGRAM = """
import ctypes, sys
import torch
import tip_kernels as tip
from tip_kernels._op.call import Options, prepare

shim = ctypes.CDLL(None)
shim.arm.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_long]
lines = [line.split() for line in open("/proc/self/maps") if "_cpu.abi3.so" in line or "tip_kernels/_cpu." in line]
bounds = [int(part, 16) for line in lines for part in line[0].split("-")]
torch.set_num_threads(int(sys.argv[1]))

shapes = [(40, 32, 3, 3), (300,), (6, 4, 5, 5), (5, 7), (4, 1, 11, 11), (64, 64, 3, 3)]
grads = [torch.randn(shape) for shape in shapes]
grads[2] = grads[2].double()
grads[5] = grads[5].contiguous(memory_format=torch.channels_last)
grads[3] = torch.randn(5, 14)[:, ::2]
scores = [torch.rand(grad.shape[0]) if grad.dim() > 2 else None for grad in grads]
rng = tip.NoiseRNG(bytes(32))
shards = [tip.Shard(0, 0, 32), *[None] * 5]
options = Options(0.5, 0.1, rng, keep=0.5, floor_std=0.1, grad_scale=2.0, shards=shards, backend="cpu")
call = prepare(grads, scores, options)
state, out = call.arguments.state, torch.zeros(9, 2, dtype=torch.int32)[:, 0]
activation = torch.randn(8, 6, 9, 9)[..., ::2]
saliency = torch.ops.tip_kernels.channel_saliency
words = torch.ops.tip_kernels.words_
arguments = call.arguments
calls = {
    "perturb_": lambda: call.op(*arguments),
    "channel_saliency": lambda: saliency(activation),
    "words_": lambda: words(out, state, 3, 5, 12),
}
watched = [*grads, state, out]
for name, run in calls.items():
    failures = 0
    while True:
        before = [tensor.clone() for tensor in watched]
        error = None
        shim.arm(min(bounds), max(bounds), failures)
        try:
            run()
        except (RuntimeError, MemoryError) as caught:
            error = caught
        failed = shim.disarm()
        if not failed:
            assert error is None, error
            break
        assert error is not None, f"{name}: allocation {failures} failed unnoticed"
        assert all(map(torch.equal, watched, before)), f"{name}: allocation {failures} failed, and something changed"
        failures += 1
    print(name, failures)
assert int(state[4]) == 1
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> pathlib.Path:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C++ compiler and Linux")
    target = tmp_path_factory.mktemp("allocations") / "allocation_failures.so"
    source = ROOT / "tests/allocation_failures.cpp"
    # Neither function may become a call of itself, which compilers make of malloc beside free.
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fno-builtin", "-Wall", "-Werror"]
    subprocess.run([compiler, *flags, source, "-o", target, "-ldl"], check=True)
    return target


@pytest.mark.parametrize("threads", [1, 2])
def test_without_memory_nothing_changes(shim, threads):
    environment = {**os.environ, "LD_PRELOAD": str(shim)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = dict(line.split() for line in run.stdout.splitlines())
    assert int(found["perturb_"]) > 20, found  # the op's lists, its plan and its scratch
    assert int(found["channel_saliency"]) > 0, found
