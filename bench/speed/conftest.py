"""What bench_perturb.py is asked for, and what is kept and printed of it beside milliseconds."""

import re

import pytest
import torch

from bench.speed import models
from tip_kernels._bench import contest, timing
from tip_kernels._bench.machine import machine

LINES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tip_kernels")
    group.addoption("--model", action="append", choices=models.MODELS, help="in place of resnet18; may be given again")
    group.addoption("--every", action="store_true", help="all combinations of the axes, not one change at a time")
    group.addoption("--device", default="cpu", help="of torch")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Keeps what figures depend on with them."""
    machine_info["tip_kernels"] = machine(torch.device(config.getoption("--device")))


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    return torch.device(pytestconfig.getoption("--device"))


@pytest.fixture(scope="session")
def copy_rate(device: torch.device) -> float:
    """GB/s that a copy of memory reads and writes, at the median of its times before all benchmarks."""
    copy, copied = contest.copy(device)
    times = timing.in_fair_turns({"copy": copy}, device, seconds=0.5, least=5, patience=60.0)["copy"]
    return copied / timing.quartiles(times).median / 1e6


@pytest.fixture
def measure(benchmark, device, copy_rate, request):
    """``measure(function, bytes_moved)`` runs the benchmark, and keeps GB/s, the copy's, and their ratio with it."""

    def run(function, bytes_moved: int) -> None:
        def and_wait() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        benchmark(and_wait)
        if benchmark.stats is None:  # --benchmark-disable
            return
        rate = bytes_moved / benchmark.stats.stats.median / 1e9
        benchmark.extra_info.update({"bytes": bytes_moved, "GB/s": rate, "copy GB/s": copy_rate})
        benchmark.extra_info["of a copy"] = rate / copy_rate
        name = re.sub(r"^test_", "", request.node.name)
        milliseconds = 1e3 * benchmark.stats.stats.median
        line = f"  {name:72}{milliseconds:12.3f}{rate:9.2f}{100 * rate / copy_rate:10.1f} %"
        request.config.stash[LINES].append(line)

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash[LINES]
    if lines:
        terminalreporter.write_line(f"\n  {'':72}{'median ms':>12}{'GB/s':>9}{'of a copy':>12}")
        for line in lines:
            terminalreporter.write_line(line)
