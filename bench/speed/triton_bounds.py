"""The rows of ``python -m bench.speed.bounds`` that Triton's kernels have; needs Triton and no GPU."""

import collections
import pathlib
import re
import statistics

import pytest
import torch

from tests.ptx.dispatch import use
from tests.ptx.triton_on_cpu import TritonOnCpu
from tip_kernels.backends.triton import portions

from .bounds import Call, call, machine_instructions

ARCH = "90a"
DEBUG_INFORMATION = re.compile(r"^\s*\.(?:loc|file)\b.*$", re.MULTILINE)


def instructions_of(path: Call) -> float:
    """Machine instructions that a thread issues for an element."""
    device = TritonOnCpu()
    device.count_issued = True
    with pytest.MonkeyPatch.context() as patch:
        device.install(patch)
        use("triton", device.op, patch)
        if path.is_large:  # then a program takes many tiles
            patch.setattr(portions, "_ENOUGH_PROGRAMS", 1)
        call(path, "triton")
    total = 0.0
    for ptx, issued in device.issued:
        weights = weights_of(ptx)
        total += sum(count * weights[line] for line, count in issued.items())
    return 32 * total / torch.Size(path.shape).numel()
