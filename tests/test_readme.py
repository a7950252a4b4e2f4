"""The README's code runs, and its backend table is the package's."""

import pathlib
import re
import subprocess
import sys

import pytest

from tip_kernels import _dispatch

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:tip_kernels runs on its slow reference backend")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_code_runs_in_order():
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["defense"].rng.step == 1  # the second TIP perturbed its one update


def test_backend_table_is_the_packages():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|$", README, re.MULTILINE)
    assert rows == [(backend.name, backend.runs_on) for backend in _dispatch.BACKENDS]


def test_command_prints_every_backend():
    done = subprocess.run([sys.executable, "-m", "tip_kernels"], capture_output=True, text=True, check=True)
    printed = [line.split("  ")[0].strip() for line in done.stdout.splitlines()[3:]]
    assert printed == [backend.name for backend in _dispatch.BACKENDS]
    for backend in _dispatch.BACKENDS:
        assert backend.runs_on in done.stdout
    assert done.stdout.count("yes, on ") >= 1  # the reference runs everywhere
