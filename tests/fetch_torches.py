"""Headers and symbols of the oldest torch that is supported, and of the newest: build/torches, for test_torch_abi.py.

    python -m tests.fetch_torches

From the wheels for Linux on ARM, a seventh of the size of those that bring CUDA; nothing of them is installed or run.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "torches"
WANTED = re.compile(r"torch/(include/.*|lib/lib(torch_cpu|torch_cuda|c10)\.so)")


def oldest() -> str:
    """The version that pyproject.toml asks for at least."""
    found = re.search(r'dependencies = \["torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert found
    return found[1]


def fetch(requirement: str) -> None:
    """Unpacks what is wanted of the wheel into a folder named by its version."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder]
        target = ["--platform", "manylinux_2_28_aarch64", "--python-version", "3.11"]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, *target, requirement], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        version = wheel.name.split("-")[1]
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if WANTED.fullmatch(name)]
            archive.extractall(FOLDER / version, wanted)
    print(version)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for requirement in (f"torch=={oldest()}.*", "torch"):
        fetch(requirement)
