"""Runs a test file as a script in a process in which Triton compiles: in that of the tests its interpreter is on."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run_script(path: str, *arguments: str, **variables: str) -> Any:
    """What it prints last, as JSON. What lies on PYTHONPATH goes first, such as another Triton: make test-tritons."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    environment["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    process = subprocess.run([sys.executable, path, *arguments], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])
