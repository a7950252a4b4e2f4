"""``python -m tip_kernels``: the backends and what decides which of them runs; and the program's own help."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
import torch

import tip_kernels as tip
from tip_kernels.__main__ import COMMANDS, main
from tip_kernels._commands import backends
from tip_kernels._op import dispatch

ROOT = pathlib.Path(__file__).parent.parent


def found_in(capsys) -> dict:
    assert main(["backends", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_json_is_what_the_library_does(capsys):
    found = found_in(capsys)
    assert [row["name"] for row in found["backends"]] == [backend.name for backend in dispatch.BACKENDS]
    here = [row["name"] for row in found["backends"] if "cpu" in row["devices"]]
    assert here == tip.available_backends()
    for row in found["backends"]:
        for device, reason in row["reasons"].items():
            with pytest.raises(RuntimeError, match=re.escape(reason)):
                dispatch.perturb_op(row["name"], torch.device(device))
    assert (found["tip_kernels"], found["torch"]) == (tip.__version__, torch.__version__)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["threads"] == torch.get_num_threads()
    assert found["devices"][0]["device"] == "cpu"


def test_text_has_what_json_has(capsys, monkeypatch):
    monkeypatch.setenv("TIP_KERNELS_CUDA_ARCHS", "80;90")
    found = found_in(capsys)
    assert found["environment"]["TIP_KERNELS_CUDA_ARCHS"] == "80;90"
    assert main([]) == 0
    text = capsys.readouterr().out
    for row in found["backends"]:
        assert re.search(rf"^{row['name']} +{re.escape(row['runs_on'])} +(yes, on|no; )", text, re.M)
        assert row["devices"] or all(f"{device}: {why}" in text for device, why in row["reasons"].items())
    assert re.search(rf"^instruction set +{found['instruction_set'] or 'no compiled'}", text, re.M)
    assert re.search(rf"^threads +{found['threads']}$", text, re.M)
    assert re.search(r"^environment +.*TIP_KERNELS_CUDA_ARCHS=80;90 \(read at the build\)", text, re.M)


def test_without_triton(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert found_in(capsys)["triton"] is None
    assert main([]) == 0
    assert ", no triton, Python" in capsys.readouterr().out


def test_variables_are_those_that_the_sources_read():
    folders = (ROOT / "tip_kernels", ROOT / "csrc")
    sources = [ROOT / "setup.py", *(p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".cpp"))]
    read = set()
    for path in sources:
        read |= set(re.findall(r"(?:environ\.get\(|getenv\(|environ\[)\s*\"(\w+)\"", path.read_text()))
    assert read == set(backends.VARIABLES)


@pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is not there")
def test_an_instruction_set_that_cannot_run_is_told():
    """In a process of its own: the library chooses once."""
    program = [sys.executable, "-m", "tip_kernels", "backends", "--json"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "TIP_KERNELS_CPU": "none"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout)
    (row,) = [row for row in found["backends"] if row["name"] == "cpu"]
    assert (row["devices"], found["instruction_set"]) == ([], None)
    assert "expected TIP_KERNELS_CPU to be one of generic, " in row["reasons"]["cpu"]
    assert found["environment"] == {"TIP_KERNELS_CPU": "none"}


def test_devices_of_a_gpu_have_names(monkeypatch):
    class Module:
        get_device_name = staticmethod(lambda index: f"GPU number {index}")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    assert backends._devices()[1:] == [
        {"device": "cuda:0", "name": "GPU number 0"},
        {"device": "cuda:1", "name": "GPU number 1"},
    ]


@pytest.mark.parametrize(
    ("program", "name"), [("/usr/bin/tip-kernels", "tip-kernels"), ("/x/__main__.py", "python -m tip_kernels")]
)
def test_help_knows_how_it_was_called(capsys, monkeypatch, program, name):
    monkeypatch.setattr(sys, "argv", [program])
    for arguments in ([], ["plan"]):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--help"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: {' '.join([name, *arguments])} [-h]")


def test_help_has_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {name} ", text, re.M) for name in COMMANDS)


def test_columns_are_aligned():
    from tip_kernels._commands.table import table

    assert table([("name", "n", ""), ("a", "100", "x"), ("long one", "7", "")], right=(1,)).splitlines() == [
        "name        n",
        "a         100  x",
        "long one    7",
    ]
