"""The oldest Triton that is supported, and the newest, in folders of build/tritons named by their versions.

    python -m tests.fetch_tritons

Each is put before the installed one by PYTHONPATH: make test-tritons.
"""

import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "tritons"


def oldest() -> str:
    """The version that pyproject.toml asks for at least."""
    found = re.search(r'^triton = \["triton>=([\d.]+)"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def fetch(requirement: str) -> None:
    unnamed = FOLDER / "unnamed"
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(unnamed)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, requirement], check=True)
    (information,) = unnamed.glob("triton-*.dist-info")
    version = information.name.split("-")[1].removesuffix(".dist")
    unnamed.rename(FOLDER / version)
    print(version)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for requirement in (f"triton=={oldest()}.*", "triton<4"):
        fetch(requirement)
