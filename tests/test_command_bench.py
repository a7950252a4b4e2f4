"""``python -m tip_kernels bench``: its figures belong together, and it refuses what a user cannot have meant."""

import json
import pathlib
import sys

import pytest
import torch
from torch import nn

import tip_kernels as tip
from tip_kernels.__main__ import main
from tip_kernels._bench import contest
from tip_kernels._bench.parameters import count, gradients, parameters_of, selected
from tip_kernels._commands import bench_picture, bench_report

pytestmark = pytest.mark.usefixtures("one_thread", "working_folder")

NETS = """
from torch import nn

def small():
    print("made by the factory")
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.ConvTranspose2d(10, 4, 2, bias=False), nn.Linear(5, 7))

def points():
    return nn.Sequential(nn.Conv2d(3, 10, 1, bias=False))

def no_conv():
    return nn.Linear(3, 3)

def frozen():
    return points().requires_grad_(False)

def lazy():
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.LazyConv2d(4, 3))

def broken():
    raise KeyError("a line\\nand another")
"""


@pytest.fixture
def working_folder(tmp_path, monkeypatch) -> pathlib.Path:
    """The current folder, with a module of nets; copies are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "bench_nets", raising=False)
    monkeypatch.setitem(contest.COPIED, "cpu", 1000)
    (tmp_path / "bench_nets.py").write_text(NETS)
    yield tmp_path
    sys.modules.pop("bench_nets", None)


def run(capsys, text: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code = main(["bench", "--device", "cpu", "--seconds", "0", *text.split()])
    return code, *capsys.readouterr()


def refusal(capsys, text: str) -> str:
    code, out, err = run(capsys, text)
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err


def test_json_has_every_backend_at_every_work(capsys):
    code, out, err = run(capsys, "--json --model bench_nets:small")
    assert code == 0
    assert err == "made by the factory\n"
    found = json.loads(out)
    assert [(row["work"], row["by"]) for row in found["works"]] == [
        *((work, backend) for backend in tip.available_backends("cpu") for work in contest.WORKS),
        (contest.TIP, "eager"),
        (contest.GAUSSIAN, "eager"),
    ]
    elements = 10 * 3 * 9 + 10 + 10 * 4 * 4 + 7 * 5 + 7
    chosen = 3 * 3 * 9 + 2 * 10 * 4  # of 10 channels and of 4, rounded up
    copy = found["copy"]
    assert copy["bytes"] == 8 * 1000
    eager = {row["work"]: row["ms"]["median"] for row in found["works"] if row["by"] == "eager"}
    for row in found["works"]:
        assert row["bytes"] == 8 * (chosen if row["work"] == contest.TIP else elements)
        assert row["gb_per_second"] == pytest.approx(row["bytes"] / row["ms"]["median"] / 1e6)
        assert row["of_copy"] == pytest.approx(row["gb_per_second"] / copy["gb_per_second"])
        assert row["repeats"] >= 3
        wanted = eager.get(row["work"])
        assert row["eager_over_this"] == (None if wanted is None else pytest.approx(wanted / row["ms"]["median"]))
    assert found["machine"]["threads"] == 1
    assert found["picture"] is None


def test_each_contestant_does_what_its_work_says():
    """Which elements change, on every backend and in eager PyTorch."""
    model = nn.Sequential(nn.Conv2d(3, 10, 3, bias=False), nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    parameters, device = parameters_of(model), torch.device("cpu")
    backends = tip.available_backends(device)
    settings = contest.Settings(0.3, 0.5, "philox")
    made = {}

    def remembered(*arguments):
        grads = gradients(*arguments)
        made[len(made)] = [tensor.clone() for tensor in grads.tensors], grads.tensors
        return grads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "gradients", remembered)
        contestants = contest.contest(parameters, device, torch.float32, backends, settings)
    of_work = dict(zip(contest.WORKS, made.values(), strict=True))
    assert len(contestants) == 3 * len(backends) + 2
    for contestant in contestants:
        before, after = of_work[contestant.work]
        for old, new in zip(before, after, strict=True):
            new.copy_(old)
        contestant.run()
        changed = sum((old != new).sum().item() for old, new in zip(before, after, strict=True))
        wanted = selected(parameters, 0.3) if contestant.work == contest.TIP else count(parameters)
        if (contestant.work, contestant.by) == (contest.TIP, "eager"):  # FFTs there and back round 1x1 kernels, too
            changed -= (before[1] != after[1]).sum().item()
        assert changed == pytest.approx(wanted, rel=0.05)  # floats of noise may leave a number as it was
        assert contestant.bytes_moved == 8 * wanted


def test_shapes_of_a_model_are_those_that_a_tip_perturbs():
    model = nn.Sequential(nn.Conv3d(4, 6, (1, 2, 3), groups=2), nn.ConvTranspose2d(5, 3, 2), nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)
    found = parameters_of(model)
    assert [(p.name, p.shape, p.conv, p.transposed) for p in found] == [
        ("0.weight", (6, 2, 1, 2, 3), True, False),
        ("0.bias", (6,), False, False),
        ("1.weight", (3, 5, 2, 2), True, True),
        ("1.bias", (3,), False, False),
        ("2.bias", (2,), False, False),
    ]


def test_text_says_what_was_timed_and_on_what(capsys):
    code, out, _ = run(capsys, "--model bench_nets:small --backend reference --dtype bfloat16 --generator chacha8")
    assert code == 0
    for said in (
        "threads: 1",
        f"torch {torch.__version__}",
        "bench_nets:small, 482 parameters in 5 tensors of bfloat16, 33.4 % of them selected by TIP",
        "ratio 0.3, cutoff 0.5, chacha8",
        "GB/s (",
        "TIP with a floor: ",
        "times as long",
    ):
        assert said in out
    rows = [line.split()[0] for line in out.splitlines() if " .. " in line and line.startswith("  ")]
    assert rows == ["reference", "eager", "reference", "reference", "eager"]


def test_a_model_without_a_high_band_has_noise_on_everything_alone(capsys):
    works = [row["work"] for row in json.loads(run(capsys, "--json --model bench_nets:points")[1])["works"]]
    assert {*works} == {contest.TIP_WITH_FLOOR, contest.GAUSSIAN}
    code, out, _ = run(capsys, "--model bench_nets:points")
    assert code == 0
    assert "TIP: " not in out


def test_picture_has_a_point_for_each_contestant_above_a_line(capsys):
    pytest.importorskip("matplotlib")
    assert run(capsys, "--model bench_nets:small --png roof.png")[0] == 0
    assert pathlib.Path("roof.png").read_bytes()[:4] == b"\x89PNG"

    copy = bench_report.Row("copy", "PyTorch", 10**9, [90.0, 100.0, 110.0])  # 10 GB/s
    rows = [
        bench_report.Row(contest.TIP, "cpu", 10**7, [1.0, 2.0, 3.0]),  # 5 GB/s
        bench_report.Row(contest.GAUSSIAN, "eager", 10**8, [100.0, 100.0, 100.0]),
    ]
    facts = {"model": "of $10 and 20$"}
    result = bench_report.Result({"device": "here", "threads": 1}, facts, copy, rows, None)
    [axis] = bench_picture.drawn(result).axes
    assert [text.get_text() for text in axis.texts] == ["bandwidth of a copy, 10 GB/s", "cpu, 50 %", "eager, 10 %"]
    line = axis.lines[0].get_xydata()
    assert [y / x for x, y in line] == pytest.approx([0.1, 0.1])  # milliseconds a megabyte
    points = [
        tuple(line.get_xydata()[0]) for line in axis.lines if line.get_marker() in "o^s" and len(line.get_xdata())
    ]
    assert points == [(10.0, 2.0), (100.0, 100.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--model resnet19", "expected --model to be resnet18, resnet50 or module:factory, got 'resnet19'"),
        ("--model bench_nets:no_conv", "bench_nets:no_conv: expected a model with conv layers, got Linear without"),
        ("--model bench_nets:frozen", "expected bench_nets:frozen to return a model with trained parameters"),
        ("--model bench_nets:lazy", "bench_nets:lazy: expected materialized layers, got a lazy one"),
        ("--model bench_nets:broken", "bench_nets:broken has raised KeyError: 'a line\\nand another'"),
        ("--model bench_nets:other", "expected --model to name something in bench_nets, which has no 'other'"),
        ("--backend fast", "--backend: expected backend to be None or one of cuda, cpu, triton, reference, got 'fast'"),
        ("--backend cuda", "--backend: backend 'cuda' cannot run on cpu"),
        ("--device moon", "expected --device to be one of this machine, got 'moon'"),
        ("--device meta", "expected --device cpu or cuda, whose time can be taken, got 'meta'"),
        ("--cutoff 2", "expected cutoff in [0, 1), got 2.0"),
        ("--ratio 0", "argument --ratio: expected a number in (0, 1], got 0"),
        ("--ratio nan", "argument --ratio: expected a number in (0, 1], got nan"),
        ("--seconds -1", "argument --seconds: expected a number of seconds, at least 0, got -1"),
        ("--seconds inf", "argument --seconds: expected a number of seconds, at least 0, got inf"),
        ("--generator dice", "argument --generator: invalid choice: 'dice'"),
        ("--png roof.svg", "expected --png to be a file that ends in .png, got roof.svg"),
        ("--png none/roof.png", "expected --png in a folder that can be written, got none/roof.png"),
    ],
)
def test_refuses(capsys, text, said):
    if "--png" in text:
        pytest.importorskip("matplotlib")
    assert refusal(capsys, text if "--model" in text else f"{text} --model bench_nets:points").startswith(
        f"error: {said}"
    )


def test_picture_needs_matplotlib(capsys, monkeypatch):
    from tip_kernels._commands import extras

    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    line = refusal(capsys, "--model bench_nets:points --png roof.png")
    assert "the picture (--png) needs matplotlib, which is not installed" in line
