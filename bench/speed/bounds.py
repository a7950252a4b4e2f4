"""What the machine code of the CUDA kernels allows at best, path by path; needs nvcc and no GPU.

    python -m bench.speed.bounds [--page docs/performance.md]

Executes the kernels' PTX on the CPU (tests/ptx), counts how often each line of it is issued, and weighs with that the
machine instructions that ptxas has made of the line. What a thread issues for an element, and the bytes that an element
takes through memory, bound the bandwidth that a GPU can reach. These are bounds, not measurements.
"""

import argparse
import collections
import functools
import pathlib
import re
import subprocess
import tempfile
from typing import NamedTuple

import pytest
import torch

import tip_kernels as tip
from bench import pages
from bench.speed.instructions import find_nvcc, find_tool
from tests.ptx.cuda import CudaOnCpu
from tests.ptx.dispatch import use

ARCH = "90"
ISSUED = 132 * 4 * 32 * 1.755e9
"""Thread instructions a second of an H100 or H200: multiprocessors, schedulers, threads of a warp, clock."""

MEMORY = {"H100": 3.35e12, "H200": 4.8e12}
"""Bytes a second that the makers name."""

SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)")
LINE = re.compile(r'//## File "\.nv_debug_ptx_txt", line (\d+)')


class Path(NamedTuple):
    """A call of which a block's work is counted, for every element of a tensor."""

    name: str
    shape: tuple[int, ...]
    options: dict
    dtype: torch.dtype = torch.float32
    last: bool = False
    generator: str = "chacha12"
    bytes_moved: int = 2  # times the size of an element


CHANNEL = (1, 2048, 3, 3)
"""What one block of a large model takes: eight passes of its 128 threads, two kernels each."""

FLOOR = {"floor_std": 0.5}
PATHS = (
    Path("3x3", CHANNEL, {}),
    Path("3x3, bfloat16", CHANNEL, {}, torch.bfloat16),
    Path("3x3, channels_last", CHANNEL, {}, last=True),
    Path("3x3, Philox", CHANNEL, {}, generator="philox"),
    Path("3x3, small model", (1, 256, 3, 3), {}),
    Path("3x3 with a floor", CHANNEL, FLOOR),
    Path("3x3 with a floor, bfloat16", CHANNEL, FLOOR, torch.bfloat16),
    Path("3x3 with a floor, channels_last", CHANNEL, FLOOR, last=True),
    Path("3x3 with a floor, Philox", CHANNEL, FLOOR, generator="philox"),
    Path("3x3 with a floor, not selected", CHANNEL, {**FLOOR, "ratio": 0.0}),
    Path("linear layer with a floor", (128, 128), FLOOR),
    Path("linear layer with a floor, bfloat16", (128, 128), FLOOR, torch.bfloat16),
    Path("linear layer with a floor, Philox", (128, 128), FLOOR, generator="philox"),
    Path("linear layer, scaled", (128, 128), {"grad_scale": 0.5}),
    Path("5x5", (1, 64, 5, 5), {}),
    Path("3x3 with a floor, keep 0.5", (1, 128, 3, 3), {**FLOOR, "keep": 0.5}),
    Path("3x3, float64", (1, 256, 3, 3), {}, torch.float64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=pathlib.Path, help="page that has the table")
    page = parser.parse_args().page
    text = table([(path, instructions_of(path)) for path in PATHS])
    print(text)
    if page:
        pages.publish(page, "bounds", text)


def table(counted: list[tuple[Path, float]]) -> str:
    """A row for each path."""
    rows = ["| path | instructions an element | " + " | ".join(f"{gpu}, TB/s" for gpu in MEMORY) + " |"]
    rows.append("|---|---|" + "---|" * len(MEMORY))
    for path, count in counted:
        issued = path.bytes_moved * path.dtype.itemsize * ISSUED / count
        limits = (f"{min(issued, rate) / 1e12:.2f}{' (memory)' if issued > rate else ''}" for rate in MEMORY.values())
        rows.append(f"| {path.name} | {count:.1f} | " + " | ".join(limits) + " |")
    return "\n".join(rows)


def instructions_of(path: Path) -> float:
    """Machine instructions that a thread issues for an element."""
    device = CudaOnCpu(ARCH)
    device.count_issued = True
    device.passes = 8 if path.shape[0] * path.shape[1] > 300 else 0
    with pytest.MonkeyPatch.context() as patch:
        run(path, device, patch)
    total = 0.0
    for launch, issued in device.issued:
        weights = machine_instructions(device.ptx_of(launch.name))[launch.name]
        total += sum(count * weights[line] for line, count in issued.items())
    elements = torch.Size(path.shape).numel()
    return 32 * total / elements


def run(path: Path, device: CudaOnCpu, patch: pytest.MonkeyPatch) -> None:
    """The call, with every channel selected unless the path says otherwise."""
    use("cuda", device.op, patch)
    grad = torch.randn(path.shape).to(path.dtype)
    if path.last:
        grad = grad.contiguous(memory_format=torch.channels_last)
    scores = torch.rand(path.shape[0]) if grad.dim() == 4 else None
    options = {"ratio": 1.0, "std": 1.0, "rng": tip.NoiseRNG(generator=path.generator), **path.options}
    tip.perturb_([grad], [scores], backend="cuda", **options)


@functools.cache
def machine_instructions(ptx: pathlib.Path) -> dict[str, collections.Counter[int]]:
    """How many instructions ptxas makes of each line of PTX, kernel by kernel."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "kernels.cubin"
        ptxas = pathlib.Path(str(find_nvcc())).with_name("ptxas")
        subprocess.run([ptxas, f"-arch=sm_{ARCH}", "-lineinfo", ptx, "-o", cubin], check=True)
        command = [str(find_tool("nvdisasm")), "-gp", str(cubin)]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, collections.Counter[int]] = {}
    for kernel, code in re.findall(r"^\.text\.(\S+):$(.*?)(?=^\t\.section|\Z)", listing, re.MULTILINE | re.DOTALL):
        counts, line = found.setdefault(kernel, collections.Counter()), 0
        for text in code.splitlines():
            if known := LINE.search(text):
                line = int(known[1])
            elif (instruction := SASS.match(text)) and instruction[1] != "NOP":
                counts[line] += 1
    return found


if __name__ == "__main__":
    main()
