"""What nvcc makes of the CUDA sources for every architecture: no spills, 16-byte accesses. Needs no GPU."""

import os
import pathlib
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.speed.instructions import compile_cubin, find_cuobjdump, find_nvcc, kernels_of
from tip_kernels.rng import GENERATORS

ARCHS = ("80", "86", "89", "90", "100", "120")  # those of setup.py

NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


def known_archs() -> list[str]:
    listed = subprocess.run([str(NVCC), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    return [arch for arch in ARCHS if f"compute_{arch}\n" in listed + "\n"]


def units() -> list[tuple[str, str, str]]:
    """(architecture, generator or "", source): each source for each architecture, each generator for one of them."""
    archs = known_archs()
    found = [(arch, "chacha12", "perturb.cu") for arch in archs]
    found += [(arch, "", source) for arch in archs for source in ("saliency.cu", "rank.cu", "norm.cu")]
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
        return compile_cubin(arch, source, generator, target), target

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
    if find_cuobjdump() is None:
        pytest.skip("cuobjdump is installed neither with CUDA nor with Triton")
    _, cubin = compiled[(arch, "chacha12", "perturb.cu")]
    kernels = kernels_of(cubin)
    assert len(kernels) == 2  # one for each size of table
    for kernel in kernels:
        assert "LDGSTS.E.BYPASS.128" in kernel  # from device to shared memory
        assert "STG.E.128" in kernel


def test_nothing_that_shapes_the_noise_is_approximate(tmp_path):
    """Of all approximate instructions one is used, and a Newton step follows it (csrc/cuda/draw.h)."""
    jobs = [("perturb.cu", name) for name in GENERATORS]
    jobs += [(source, "") for source in ("saliency.cu", "rank.cu", "norm.cu", "device.cu")]

    def approximations(job: tuple[str, str]) -> set[str]:
        source, generator = job
        target = tmp_path / f"{source}.{generator}.ptx"
        compile_cubin("90" if "90" in known_archs() else known_archs()[-1], source, generator, target, "ptx")
        return set(re.findall(r"^\s*(?:@\S+ )?([a-z]\S*\.(?:approx|ftz|full)\S*)", target.read_text(), re.MULTILINE))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = dict(zip(jobs, pool.map(approximations, jobs), strict=True))
    allowed = {"rsqrt.approx.ftz.f32"}
    assert found == {job: allowed if job[0] == "perturb.cu" else set() for job in jobs}
