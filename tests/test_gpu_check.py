"""``bench/speed/gpu_check.sh`` with a Python that stands in for one with a GPU: it says what failed, and goes on."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

STAND_IN = """#!/usr/bin/env bash
echo "$*" | tr '\\n' ' ' >> calls.txt
echo "require=$TIP_KERNELS_REQUIRE_COMPILED archs=$TIP_KERNELS_CUDA_ARCHS" >> calls.txt
case "$*" in
  *get_device_capability*) echo "90 a-gpu" ;;
  *"{failing}"*) exit 3 ;;
esac
exit 0
"""


def check(folder: pathlib.Path, failing: str) -> tuple[subprocess.CompletedProcess, str, str]:
    """What the script did, what it called, and the report that it left."""
    (folder / "bench" / "speed").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_a.py").write_text("def test_a(backend): ...\n")
    shutil.copy(ROOT / "bench" / "speed" / "gpu_check.sh", folder / "bench" / "speed")
    python = folder / "python"
    python.write_text(STAND_IN.replace("{failing}", failing))
    python.chmod(0o755)
    tools = folder / "tools"  # no nvidia-smi and no compute-sanitizer but these
    tools.mkdir()
    for name in ("nvidia-smi", "compute-sanitizer"):
        (tools / name).write_text("#!/usr/bin/env bash\nexit 0\n")
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = ["bash", str(folder / "bench" / "speed" / "gpu_check.sh"), str(python)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    report = folder / "bench" / "speed" / "results" / "a-gpu.txt"
    return done, (folder / "calls.txt").read_text(), report.read_text()


def test_all_passed(tmp_path):
    done, calls, report = check(tmp_path, "nothing of the kind")
    assert done.returncode == 0, done.stderr
    assert "all passed" in report
    assert calls.index("setup.py") < calls.index("cuda and not triton") < calls.index("bench.speed.ratios")
    assert calls.index("bench.speed.gpu") < calls.index("triton and not cuda")
    built = calls[calls.index("setup.py") :].split("require=", 1)[1]
    assert built.startswith("1 archs=90"), "a library that does not build must be an error"


@pytest.mark.parametrize(
    ("failing", "name"),
    [("setup.py", "build"), ("available_backends", "backends"), ("cuda and not triton", "tests of cuda")],
)
def test_what_fails_is_named_and_the_rest_goes_on(failing, name, tmp_path):
    done, calls, report = check(tmp_path, failing)
    assert done.returncode == 1
    assert f"FAILED: {name}" in report
    assert "all passed" not in report
    assert "triton and not cuda" in calls
    assert "bench.speed.gpu" in calls
