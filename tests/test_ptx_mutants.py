"""Without any one of its barriers, fences and waits, a kernel's PTX gives an error or other values in some call."""

import pytest
import torch
from ptx.backend import backend_on_ptx
from ptx.cuda import CudaOnCpu
from ptx.mutants import mutants_of
from ptx.parse import PtxError
from ptx.rows import ROWS

from bench.speed.instructions import find_nvcc

pytestmark = [pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed"), pytest.mark.long]


@pytest.fixture(scope="module")
def device():
    device = CudaOnCpu()
    with pytest.MonkeyPatch.context() as patch:
        backend_on_ptx("cuda", device.op, patch)
        yield device


@pytest.fixture(scope="module")
def expected(device) -> dict[str, tuple[set[str], list[torch.Tensor]]]:
    """(kernels that were launched, results) of each row."""
    found = {}
    for name, (run, row) in ROWS.items():
        device.launches.clear()
        results = run(device, row)
        found[name] = {launch.name for launch in device.launches}, results
    return found


def is_noticed(device: CudaOnCpu, name: str, results: list[torch.Tensor]) -> bool:
    run, row = ROWS[name]
    device.reset()
    try:
        return not all(map(torch.equal, run(device, row), results))
    except PtxError:
        return True


def kernels_of_interest(device: CudaOnCpu) -> list[str]:
    """All but those of the other generators, which come of the same source, and what is never launched."""
    ours = [name for name in device.names() if device.generator_of(name) in (None, 12)]
    return [name for name in ours if "write_words" not in name and "any_kernel_at_all" not in name]


def test_rows_take_every_kernel(device, expected):
    launched = set().union(*(names for names, _ in expected.values()))
    assert launched == set(kernels_of_interest(device))


def test_every_barrier_is_needed(device, expected):
    unnoticed = []
    for kernel in kernels_of_interest(device):
        rows = [(name, results) for name, (names, results) in expected.items() if kernel in names]
        for what, mutant in mutants_of(device.kernel(kernel)):
            device.replaced = {kernel: mutant}
            if not any(is_noticed(device, name, results) for name, results in rows):
                unnoticed.append((kernel, what))
    device.replaced = {}
    device.reset()
    assert unnoticed == [], "\n".join(map(str, unnoticed))
