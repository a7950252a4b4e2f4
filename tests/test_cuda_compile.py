"""What nvcc makes of the CUDA sources for every architecture: no spills, 16-byte accesses. Needs no GPU."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ARCHS = ("80", "86", "89", "90", "100", "120")  # those of setup.py
GENERATORS = {"chacha8": 8, "chacha12": 12, "chacha20": 20, "philox": 10}


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which("/usr/local/cuda/bin/nvcc")


def find_cuobjdump() -> str | None:
    """The CUDA toolkit's, or the one that Triton's wheel brings."""
    triton = importlib.util.find_spec("triton")
    folder = pathlib.Path(triton.origin).parent / "backends/nvidia/bin" if triton and triton.origin else None
    return shutil.which("cuobjdump") or (folder and shutil.which("cuobjdump", path=folder))


NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


def known_archs() -> list[str]:
    listed = subprocess.run([str(NVCC), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    return [arch for arch in ARCHS if f"compute_{arch}\n" in listed + "\n"]


def units() -> list[tuple[str, str, str]]:
    """(architecture, generator or "", source): each source for each architecture, each generator for one of them."""
    archs = known_archs()
    found = [(arch, "chacha12", "perturb.cu") for arch in archs] + [(arch, "", "saliency.cu") for arch in archs]
    newest = "90" if "90" in archs else archs[-1]
    return found + [(newest, generator, "perturb.cu") for generator in GENERATORS if generator != "chacha12"]


UNITS = units() if NVCC else []


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[tuple[str, str, str], tuple[str, pathlib.Path]]:
    """What ptxas reported, and the machine code, of every unit."""
    folder = tmp_path_factory.mktemp("cuda")

    def compile_one(unit: tuple[str, str, str]) -> tuple[str, pathlib.Path]:
        arch, generator, source = unit
        target = folder / f"{source}.{generator}.{arch}.cubin"
        flags = ["-std=c++17", "-O3", "-cubin", f"-arch=sm_{arch}", "-Xptxas=-v", "-Werror=all-warnings", "-Icsrc"]
        if generator:
            flags.append(f"-DTIP_ROUNDS={GENERATORS[generator]}")
        command = [str(NVCC), *flags, f"csrc/cuda/{source}", "-o", str(target)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr, target

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(UNITS, pool.map(compile_one, UNITS), strict=True))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: "-".join(filter(None, unit)))
def test_uses_no_local_memory(unit, compiled):
    """Neither spilled registers nor a stack: arrays of the kernels are indexed by constants only."""
    report, _ = compiled[unit]
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert frames
    assert all(frame == ("0", "0", "0") for frame in frames), report


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit[2] == "perturb.cu"], ids=lambda unit: "-".join(unit))
def test_registers_leave_room_for_six_blocks(unit, compiled):
    """65,536 registers of a multiprocessor for 6 blocks of 128 threads: 85, of which 8 are given at a time."""
    report, _ = compiled[unit]
    used = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    assert used
    assert max(used) <= 80


@pytest.mark.parametrize("arch", known_archs() if NVCC else [])
def test_contiguous_3x3_moves_16_bytes_at_once(arch, compiled):
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        pytest.skip("cuobjdump is installed neither with CUDA nor with Triton")
    _, cubin = compiled[(arch, "chacha12", "perturb.cu")]
    listing = subprocess.run([cuobjdump, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    kernels = [part for part in listing.split("Function : ")[1:] if "perturb_tiles" in part.splitlines()[0]]
    assert len(kernels) == 2  # one for each size of table
    for kernel in kernels:
        assert "LDGSTS.E.BYPASS.128" in kernel  # from device to shared memory
        assert "STG.E.128" in kernel
