"""What users meet first: installing without a compiler, the import, and the words that say why it is slow."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
import torch

import tip_kernels as tip

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILT = shutil.ignore_patterns(
    ".*", "build", "*.egg-info", "*.so", "*.pyd", "__pycache__", "tests", "bench", "docs", "examples"
)


def run(*command: str | pathlib.Path, cwd: pathlib.Path, **environment: str) -> str:
    """Runs Python with ``command``; returns what it printed, or fails with it."""
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory) -> pathlib.Path:
    """The package, installed from a copy of the sources where every compiler fails."""
    source, target = tmp_path_factory.mktemp("source") / "tip", tmp_path_factory.mktemp("target")
    shutil.copytree(ROOT, source, ignore=BUILT)
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--target", target]
    run("-m", "pip", "install", *options, ".", cwd=source, CC="false", CXX="false", TIP_KERNELS_REQUIRE_COMPILED="")
    return target


def test_installs_without_a_compiler(without_compiler):
    assert not list(without_compiler.glob("tip_kernels/*.so"))
    (wheel,) = without_compiler.glob("tip_kernels-*.dist-info/WHEEL")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert f"Tag: cp310-abi3-{platform}" in wheel.read_text().splitlines()
    assert (without_compiler / "tip_kernels" / "py.typed").exists()


def test_installs_the_command(without_compiler):
    """The script is what setuptools makes of pyproject.toml; the help says how it was called."""
    script = without_compiler / "bin" / "tip-kernels"
    assert run(script, "plan", "--help", cwd=without_compiler, PYTHONPATH=".").startswith(
        "usage: tip-kernels plan [-h]"
    )


SLOW_PATH = """
import json, pathlib, warnings
import torch
import tip_kernels as tip

assert pathlib.Path(tip.__file__).parent == pathlib.Path({target!r}) / "tip_kernels", tip.__file__
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = []
    for _ in range(2):
        x = torch.linspace(-1, 1, 360).reshape(8, 5, 3, 3)
        tip.perturb_([x], [torch.arange(8.0)], ratio=0.3, std=0.5, floor_std=0.1, rng=tip.NoiseRNG(bytes(32)))
        tip.channel_saliency(x)
        results.append(x.double().sum((1, 2, 3)).tolist())
try:
    tip.channel_saliency(x, backend="cpu")
except RuntimeError as error:
    reason = str(error)
print(json.dumps([[str(w.message) for w in caught], results, reason, tip.available_backends()]))
"""


def test_slow_path_warns_once_and_says_why(without_compiler):
    printed = run("-c", SLOW_PATH.format(target=str(without_compiler)), cwd=without_compiler, PYTHONPATH="")
    warned, results, reason, backends = json.loads(printed)
    (warning,) = warned
    assert "slow reference backend on cpu" in warning
    assert "without its compiled library (no working C++ compiler then)" in warning
    assert "cpu" not in backends
    assert "backend 'cpu' cannot run on cpu: the package was installed without its compiled library" in reason

    x = torch.linspace(-1, 1, 360).reshape(8, 5, 3, 3)
    rng = tip.NoiseRNG(bytes(32))
    tip.perturb_([x], [torch.arange(8.0)], ratio=0.3, std=0.5, floor_std=0.1, rng=rng, backend="reference")
    want = x.double().sum((1, 2, 3)).tolist()
    assert results == [want, want]


def test_compiler_can_be_required(tmp_path):
    shutil.copytree(ROOT, tmp_path / "tip", ignore=BUILT)
    environment = {**os.environ, "CC": "false", "CXX": "false", "TIP_KERNELS_REQUIRE_COMPILED": "1"}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    build = subprocess.run(command, cwd=tmp_path / "tip", env=environment, capture_output=True, text=True)
    assert build.returncode != 0


QUIET_IMPORT = """
import sys, warnings
import torch

warnings.simplefilter("error")
processes = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
compilers = ("triton", "torch._dynamo", "torch._inductor")
seen = []

def watch(event, arguments):
    if event in processes or (event == "open" and set(str(arguments[1])) & set("wax+")):
        seen.append((event, arguments))
    if event == "import" and arguments[0].startswith(compilers):
        seen.append((event, arguments[0]))

sys.addaudithook(watch)
sys.dont_write_bytecode = True
import tip_kernels
print(seen)
"""


def test_import_is_quiet():
    """No warning, no process, no connection, no file written, no compiler loaded."""
    assert run("-c", QUIET_IMPORT, cwd=ROOT).strip() == "[]"
