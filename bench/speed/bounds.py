"""What the machine code of the CUDA and Triton kernels allows at best, path by path; needs nvcc and Triton, and no GPU.

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
import statistics
import subprocess
import tempfile

import torch

from bench import pages
from bench.speed.instructions import find_nvcc, find_tool
from bench.speed.issued import Launch, Path, launches_of

ISSUED = 132 * 4 * 32 * 1.755e9
"""Thread instructions a second of an H100 or H200: multiprocessors, schedulers, threads of a warp, clock."""

MEMORY = {"H100": 3.35e12, "H200": 4.8e12}
"""Bytes a second that the makers name."""

SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)")
DEBUG_INFORMATION = re.compile(r"^\s*\.(?:loc|file)\b.*$", re.MULTILINE)
MIXING = re.compile(r"\b(?:shf\.l\.wrap|mul\.wide\.u32)")
"""Lines of ciphers."""

LINE = re.compile(r'//## File "\.nv_debug_ptx_txt", line (\d+)')


CHANNEL = (1, 2048, 3, 3)
"""What one block of a large model takes: in CUDA eight passes of 128 threads, two kernels each, in Triton 16 tiles."""

FLOOR = {"floor_std": 0.5}
PATHS = (
    Path("3x3", CHANNEL, {}),
    Path("3x3, bfloat16", CHANNEL, {}, torch.bfloat16),
    Path("3x3, channels_last", CHANNEL, {}, last=True),
    Path("3x3, Philox", CHANNEL, {}, generator="philox"),
    Path("3x3, small model", (1, 256, 3, 3), {}, small_model=True),
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


ASSEMBLERS = {
    "cuda": lambda: (str(pathlib.Path(str(find_nvcc())).with_name("ptxas")),),
    "triton": lambda: (str(find_tool("ptxas-blackwell")), "--regAllocOptLevel=2"),  # which Triton takes for all GPUs
}
BACKENDS = {"cuda": "CUDA", "triton": "Triton"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=pathlib.Path, help="page that has the tables")
    parser.add_argument("--backend", choices=BACKENDS, help="both unless one is named")
    given = parser.parse_args()
    for backend in [given.backend] if given.backend else BACKENDS:
        text = table([(path, instructions_of(path, backend)) for path in PATHS])
        print(f"{BACKENDS[backend]}:\n\n{text}\n", flush=True)
        if given.page:
            pages.publish(given.page, f"bounds of {BACKENDS[backend]}", text)


def table(counted: list[tuple[Path, float]]) -> str:
    """A row for each path."""
    rows = ["| path | instructions an element | " + " | ".join(f"{gpu}, TB/s" for gpu in MEMORY) + " |"]
    rows.append("|---|---|" + "---|" * len(MEMORY))
    for path, count in counted:
        issued = path.bytes_moved * path.dtype.itemsize * ISSUED / count
        limits = (f"{min(issued, rate) / 1e12:.2f}{' (memory)' if issued > rate else ''}" for rate in MEMORY.values())
        rows.append(f"| {path.name} | {count:.1f} | " + " | ".join(limits) + " |")
    return "\n".join(rows)


def instructions_of(path: Path, backend: str) -> float:
    """Machine instructions that a thread issues for an element."""
    total = 0.0
    for launch in launches_of(path, backend):
        weights = weights_of(launch, backend)
        total += sum(count * weights[line] for line, count in launch.issued.items())
    return 32 * total / torch.Size(path.shape).numel()


def weights_of(launch: Launch, backend: str) -> collections.Counter[int]:
    """Machine instructions by line of PTX.

    Raises:
        ValueError: ptxas has unrolled a loop: its lines have several instructions, each of which takes only some turns.
    """
    text = DEBUG_INFORMATION.sub("", launch.ptx.partition("\t.section\t.debug")[0])  # it would name lines of Python
    weights = machine_instructions(text, *ASSEMBLERS[backend]())[launch.kernel]
    mixing = [weights[i] for i, line in enumerate(text.splitlines(), 1) if MIXING.search(line)]
    if statistics.mode(mixing or [1]) > 1:
        raise ValueError(f"expected each line of {launch.kernel} once in the machine code, got unrolled loops")
    return weights


@functools.cache
def machine_instructions(ptx: str, *ptxas: str) -> dict[str, collections.Counter[int]]:
    """How many instructions ptxas makes of each line of PTX, kernel by kernel."""
    target = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0]
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = pathlib.Path(folder) / "kernels.ptx", pathlib.Path(folder) / "kernels.cubin"
        source.write_text(ptx)
        subprocess.run([*ptxas, f"-arch={target}", "-lineinfo", source, "-o", cubin], check=True)
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
