"""As test_ptx_mutants.py, of the PTX that Triton makes.

One barrier is ours, before a program's ticket: without it a thread would store the step that others of its warp may
still be reading. The others are Triton's: where values change their place among threads, and in reductions.
"""

from collections.abc import Callable

import pytest
import torch
from conftest import BackendUnderTest
from ptx.backend import backend_on_ptx
from ptx.launch import LoadedKernel
from ptx.mutants import mutants_of
from ptx.parse import PtxError
from ptx.rows import KEY
from test_ptx_triton import ROWS, perturbed

import tip_kernels as tip

pytest.importorskip("triton")
from ptx.triton_on_cpu import TritonOnCpu  # it imports Triton

pytestmark = pytest.mark.long

Run = Callable[[BackendUnderTest], list[torch.Tensor]]


def saliency(layout: str) -> Run:
    return lambda backend: [backend.channel_saliency(backend.gradient(3, 83, 3, 3, layout=layout))]


def words(backend: BackendUnderTest) -> list[torch.Tensor]:
    return [backend.words(tip.NoiseRNG(KEY).state(backend.device), 5, 5, 700, 12)]


def perturb(name: str) -> Run:
    def run(backend: BackendUnderTest) -> list[torch.Tensor]:
        grads, rng = perturbed(name, "triton")
        return [*grads, torch.tensor(rng.step)]

    return run


RUNS: dict[str, Run] = {
    **{name: perturb(name) for name in ROWS},
    "words": words,
    "row sums": saliency("contiguous"),
    "column sums": saliency("channels_last"),
}

COVERED = {"3x3 unaligned"}
"""Here values change their place among threads in every program, behind barriers that order what the ticket's does."""


@pytest.mark.parametrize("name", RUNS)
def test_every_barrier_is_needed(name, monkeypatch):
    device = TritonOnCpu()
    device.install(monkeypatch)
    backend = backend_on_ptx("triton", device.op, monkeypatch)
    found: list[LoadedKernel] = []

    def note(kernel: LoadedKernel) -> LoadedKernel:
        found.append(kernel)
        return kernel

    device.replace = note
    results = RUNS[name](backend)
    (kernel,) = found
    unnoticed = []
    mutants = list(mutants_of(kernel))
    for what, mutant in mutants:
        device.replace = lambda _, mutant=mutant: mutant
        try:
            noticed = not all(map(torch.equal, RUNS[name](backend), results))
        except PtxError:
            noticed = True
        if not noticed:
            unnoticed.append(what)
    assert unnoticed == ([mutants[-1][0]] if name in COVERED else [])
