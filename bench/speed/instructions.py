"""Instructions of the CUDA kernel for each normal, counted in the machine code; needs nvcc and no GPU.

    python -m bench.speed.instructions [--arch 90]

Counts the longest run without a branch: one thread's 16 normals and what they add to two 3x3 kernels. Of its
instructions, those of the integer pipe and of the FMA pipes, each of which can bound the kernel before issuing does.
"""

import argparse
import collections
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from bench import paths
from tip_kernels.rng import GENERATORS

NORMALS = 16  # of a thread at a time
FMA = ("FFMA", "FMUL", "FADD", "IMAD")
INTEGER = ("LOP3", "SHF", "PRMT", "IADD3", "VIADD", "LEA", "I2FP")
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)(.*?);", re.MULTILINE)


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which("/usr/local/cuda/bin/nvcc")


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit, or the one that Triton's wheel brings."""
    triton = importlib.util.find_spec("triton")
    folder = pathlib.Path(triton.origin).parent / "backends/nvidia/bin" if triton and triton.origin else None
    return shutil.which(name) or (folder and shutil.which(name, path=folder))


def find_cuobjdump() -> str | None:
    return find_tool("cuobjdump")


def compile_cubin(arch: str, source: str, generator: str, target: pathlib.Path, to: str = "cubin") -> str:
    """Compiles a file of csrc/cuda for one architecture; returns what ptxas reports of its kernels, if not to PTX."""
    flags = ["-std=c++17", "-O3", f"-{to}", f"-arch=sm_{arch}", "-Werror=all-warnings", "-Icsrc"]
    if to == "cubin":
        flags.append("-Xptxas=-v")
    if generator:
        flags.append(f"-DTIP_GENERATOR={GENERATORS[generator]}")
    command = [str(find_nvcc()), *flags, f"csrc/cuda/{source}", "-o", str(target)]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def kernels_of(cubin: pathlib.Path) -> list[str]:
    """The listings of the perturb kernels in it, one for each size of table."""
    command = [str(find_cuobjdump()), "-sass", str(cubin)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [part for part in listing.split("Function : ")[1:] if "perturb_tiles" in part.splitlines()[0]]


def longest_run(listing: str) -> list[str]:
    """Names in the longest run that nothing leaves or enters and that has a root for each pair of normals."""
    code = [(int(address, 16), name, rest) for address, name, rest in INSTRUCTION.findall(listing)]
    jumps = ("BRA", "BSSY", "CALL", "BRX", "EXIT", "RET")
    targets = {int(t, 16) for _, name, rest in code if name in jumps for t in re.findall(r"0x([0-9a-f]+)", rest)}
    runs: list[list[str]] = [[]]
    for address, name, _ in code:
        if address in targets:
            runs.append([])
        runs[-1].append(name)
        if name in jumps and name != "BSSY":
            runs.append([])
    return max((run for run in runs if run.count("MUFU") == NORMALS // 2), key=len)


def count(names: Sequence[str], kinds: Sequence[str]) -> int:
    found = collections.Counter(names)
    return sum(found[kind] for kind in kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90", help="compute capability, such as 80 or 90")
    arch = parser.parse_args().arch
    if find_nvcc() is None or find_cuobjdump() is None:
        raise SystemExit("expected nvcc, and cuobjdump of CUDA or of Triton's wheel; at least one is not installed")
    print(f"| sm_{arch}, instructions a normal | all | integer pipe | FMA pipes |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for generator in GENERATORS:
            cubin = pathlib.Path(folder) / "perturb.cubin"
            compile_cubin(arch, "perturb.cu", generator, cubin)
            run = longest_run(kernels_of(cubin)[0])
            figures = (len(run), count(run, INTEGER), count(run, FMA))
            print(f"| {generator} | " + " | ".join(f"{figure / NORMALS:.1f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
