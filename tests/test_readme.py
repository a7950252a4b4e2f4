"""The README's code runs, its backend table is the package's, and what the pages and the Makefile name is there."""

import pathlib
import re
import subprocess
import sys

import pytest

from tip_kernels._op import dispatch

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
NAMING = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", ROOT / "bench" / "speed" / "gpu_check.sh"]
"""Files that name commands and other files."""


@pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_code_runs_in_order():
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["defense"].rng.step == 3  # one for each step of the loop


def test_backend_table_is_the_packages():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|$", README, re.MULTILINE)
    assert rows == [(backend.name, backend.runs_on) for backend in dispatch.BACKENDS]


def test_command_prints_every_backend():
    done = subprocess.run([sys.executable, "-m", "tip_kernels"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()[3:]
    printed = [line.split("  ")[0].strip() for line in lines[: lines.index("")]]
    assert printed == [backend.name for backend in dispatch.BACKENDS]
    for backend in dispatch.BACKENDS:
        assert backend.runs_on in done.stdout
    assert done.stdout.count("yes, on ") >= 1  # the reference runs everywhere


@pytest.mark.parametrize("path", NAMING, ids=lambda path: path.name)
def test_named_modules_and_files_exist(path):
    text = path.read_text()
    for module in re.findall(r"python\"? -m ((?:bench|examples|tests|tip_kernels)[.\w]*\w)", text):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), module
    folders = "bench|csrc|docs|examples|tests|tip_kernels"
    for name in re.findall(rf"(?<![\w./-])(?:\.\./)?((?:{folders})/[\w./*-]*[\w*])", text):
        assert name.endswith(".so") or any(ROOT.glob(name)), name
