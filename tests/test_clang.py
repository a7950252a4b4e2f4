"""Every C++ source of the CPU, with each Clang that is installed: it compiles without a warning.

``make test-clang`` builds the library with one and runs the kernel tests.
"""

import pathlib
import runpy
import shutil
import subprocess

import pytest
import setuptools
from torch.utils.cpp_extension import include_paths

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLANGS = [path for name in ("clang++", *(f"clang++-{n}" for n in range(10, 30))) if (path := shutil.which(name))]


def jobs() -> list[tuple[str, list[str]]]:
    """(source, flags) of the CPU library as setup.py compiles it, and what tests compile of the GPU's for the host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        build = runpy.run_path(str(ROOT / "setup.py"))
    library = [(source, build["FLAGS"] + flags) for source, _, flags in build["cpu_jobs"]()]
    return [*library, ("csrc/cuda/plan.cpp", ["-std=c++17"]), ("tests/cuda_on_host.cpp", ["-std=c++17"])]


def job_id(job: tuple[str, list[str]]) -> str:
    return "-".join([job[0], *(flag.removeprefix("-DTIP_VARIANT=") for flag in job[1] if "VARIANT=" in flag)])


@pytest.mark.parametrize("compiler", CLANGS or [None], ids=lambda path: pathlib.Path(path or "none").name)
@pytest.mark.parametrize("job", jobs(), ids=job_id)
def test_compiles_without_a_warning(job, compiler):
    if compiler is None:
        pytest.skip("no clang++ on PATH")
    source, flags = job
    system = [flag for path in include_paths() for flag in ("-isystem", path)]
    command = [compiler, "-fsyntax-only", "-Wextra", "-Werror", "-Icsrc", *system, *flags, source]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
