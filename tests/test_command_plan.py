"""``python -m tip_kernels plan``: its numbers are those of a real call, and what nobody can have meant is refused."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import tip_kernels as tip
from tip_kernels import spectrum
from tip_kernels.__main__ import main

pytestmark = pytest.mark.usefixtures("one_thread", "seeded", "working_folder")

NETS = """
import warnings
import torch
from torch import nn


def small():
    print("made by the factory")
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1), nn.Flatten(), nn.Linear(10 * 36, 10))


def kinds():
    return nn.Sequential(
        nn.ConvTranspose2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, (5, 4), groups=2), nn.BatchNorm2d(4),
    )


def sequences():
    return nn.Sequential(nn.Conv1d(3, 10, 5), nn.Conv1d(10, 4, 1, bias=False))


def volumes():
    return nn.Sequential(nn.Conv3d(1, 10, 3), nn.Conv3d(10, 4, (1, 3, 3)))


def weight_norm():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)))


def half():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).half()


def double():
    torch.set_default_dtype(torch.float64)
    try:
        return nn.Sequential(nn.Conv2d(3, 8, 3))
    finally:
        torch.set_default_dtype(torch.float32)


def parallel():
    return nn.DataParallel(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))


def shared():
    first, second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    second.weight = first.weight
    return nn.Sequential(first, second, first)


def frozen():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    net[0].weight.requires_grad_(False)
    return net


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.odd = (nn.Conv2d(3, 4, 3) for _ in range(3))

    def forward(self, images):
        warnings.warn("from the forward pass")
        return self.used(images)


def branches():
    return Branches()


def lazy():
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))


def lazy_and_unused():
    net = Branches()
    net.late = nn.LazyLinear(3)
    return net


def pointwise():
    return nn.Sequential(nn.Conv2d(3, 40, 1), nn.Conv2d(40, 4, 1))


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 3))


def still():
    return nn.Sequential(nn.Conv2d(3, 4, 3)).requires_grad_(False)


def nowhere():
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 4, 3))


def imaginary():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return net


def broken():
    raise KeyError("a line\\nand another")


def leaves():
    raise SystemExit(0)


def stopped():
    raise KeyboardInterrupt


def nothing():
    return None


def wants(width):
    return nn.Conv2d(3, width, 3)
"""

INPUTS = {"sequences": "3,20", "volumes": "1,9,9,9", "shared": "4,12,12", "small": "3,8,8"}
KINDS = ("small", "kinds", "sequences", "volumes", "weight_norm", "half", "double", "parallel", "shared", "frozen")


@pytest.fixture
def working_folder(tmp_path, monkeypatch) -> pathlib.Path:
    """The current folder, with a module of nets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("nets", None)
    (tmp_path / "nets.py").write_text(NETS)
    yield tmp_path
    sys.modules.pop("nets", None)


def run(capsys, model: str, text: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code = main(["plan", "--model", f"nets:{model}", *text.split()])
    return code, *capsys.readouterr()


def refusal(capsys, model: str, text: str = "") -> str:
    code, out, err = run(capsys, model, f"--json {text}")
    assert (code, out) == (2, "")
    line = err.removeprefix("made by the factory\n")
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


def found_in(capsys, model: str, text: str = "--no-time") -> dict:
    code, out, err = run(capsys, model, f"--json {text}")
    assert (code, err) in ((0, ""), (0, "made by the factory\n"))
    return json.loads(out)


def made(name: str) -> nn.Module:
    import nets

    return getattr(nets, name)()


def noise_of_a_call(model: nn.Module, **settings) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The gradients of one call by name, before and after, as float64."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.grad = torch.randn_like(parameter)
    before = {name: p.grad.double().clone() for name, p in trained.items()}
    defense = tip.TIP(model, std=1.0, scores="public", **settings)
    found = defense._layout.channels.items()
    defense.set_scores({defense._layout.names[i]: torch.rand(c, dtype=torch.float32) for i, c in found})
    defense.perturb_gradients()
    return {name: (before[name], p.grad.double()) for name, p in trained.items()}


def changed_coefficients(added: torch.Tensor, row: dict, transposed: bool, tolerance: float) -> int:
    """How many coefficients of the kernels a difference has, in the basis of the default high band."""
    size = tuple(row["size"])
    basis, _ = spectrum.real_basis(size, spectrum.radial_mask(size, 0.5))
    channels_first = added.transpose(0, 1) if transposed else added
    return int(((channels_first.reshape(row["kernels"], -1) @ basis).abs() > tolerance).sum())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_numbers_are_those_of_a_call(capsys, name, floor):
    plan = found_in(capsys, name, f"--no-time --ratio 0.4 --floor {floor}")
    model = made(name)
    grads = noise_of_a_call(model, ratio=0.4, floor_std=floor)
    tolerance = 2e-2 if name == "half" else 1e-5  # 2 to 3 % of normals are below the first, by chance
    for row in plan["kernels"]:
        before, after = grads[row["name"]]
        transposed = isinstance(model.get_submodule(row["name"].rpartition(".")[0]), nn.ConvTranspose2d)
        counted = changed_coefficients(after - before, row, transposed, tolerance)
        assert row["noised"] * 0.9 <= counted <= row["noised"]
        rewritten = int((after != before).sum()) * model.get_parameter(row["name"]).element_size()
        assert row["bytes"] * 0.97 <= rewritten <= row["bytes"]
        assert (row["noise"], row["noise"] + row["exact"]) == (row["noised"] / row["numbers"], pytest.approx(1))
    others = {name for name in grads if name not in {row["name"] for row in plan["kernels"]}}
    assert sum(row["tensors"] for row in plan["others"]) == len(others)
    assert sum(row["numbers"] for row in plan["others"]) == sum(grads[name][0].numel() for name in others)
    for name in others:
        assert bool((grads[name][0] != grads[name][1]).any()) == (floor > 0)
    assert all(row["noise"] == (floor > 0) for row in plan["others"])
    assert plan["all"]["noised"] == sum(row["noised"] for row in plan["kernels"] + plan["others"])
    assert plan["all"]["numbers"] == sum(grad.numel() for grad, _ in grads.values())


def test_numbers_of_a_kernel_by_hand(capsys):
    row, pointwise = found_in(capsys, "small")["kernels"]
    assert row == {
        "name": "0.weight", "tensors": 1, "numbers": 216, "channels": 8, "kernels": 24, "size": [3, 3], "taps": 9,
        "high_band": 8, "selected": 3, "outputs": None, "noised": 3 * 3 * 8, "removed": 0, "noise": 1 / 3,
        "exact": 2 / 3, "bytes": 4 * 3 * 27,
    }  # fmt: skip
    assert (pointwise["high_band"], pointwise["selected"], pointwise["exact"]) == (0, 0, 1.0)
    corners = found_in(capsys, "small", "--no-time --ratio 1 --cutoff 0.75")["kernels"][0]
    assert (corners["high_band"], corners["selected"], corners["noised"]) == (4, 8, 96)
    assert found_in(capsys, "small", "--no-time --max-grad-norm 1")["all"]["bytes"] == 4 * (216 + 80 + 18 + 3610)


def test_a_spectrum_has_all_noise(capsys):
    made_for = {"0.weight": torch.full((2, 3, 2), 0.1, dtype=torch.float64)}
    shape = {name: made_for.get(name, 0.1) for name, _ in made("kinds").named_parameters()}
    tip.Spectrum(shape).save("spectrum.json")
    found = found_in(capsys, "kinds", "--spectrum spectrum.json --max-grad-norm 1 --clip-by noise")
    assert (found["all"]["noise"], found["time"]["repeats"]) == (1.0, 5)
    assert re.search(r"TIP with .*keep 1, spectrum \w+, clipped to 1 by the noise$", found["facts"]["defense"])
    assert (found["settings"]["spectrum"], found["settings"]["std"]) == ("spectrum.json", None)
    assert "8 numbers of floating buffers, as they are" in found["notes"][-1]
    assert "has all noise, got both" in refusal(capsys, "kinds", "--spectrum spectrum.json --floor 1")


def test_bands_that_are_weakened_or_removed_without_noise(capsys):
    plain = found_in(capsys, "small", "--std 0 --no-time")
    assert (plain["all"]["exact"], plain["kernels"][0]["bytes"]) == (1.0, 0)
    assert plain["notes"] == ["nothing gets noise: std is 0. floor_std noises all of it (--floor)"]
    halved = found_in(capsys, "small", "--std 0 --keep 0.5 --no-time")
    assert (halved["all"]["exact"], halved["kernels"][0]["bytes"]) == (1.0, 4 * 3 * 27)  # written, and no noise
    gone = found_in(capsys, "small", "--std 0 --keep 0 --no-time")
    kernel = gone["kernels"][0]
    assert (kernel["noised"], kernel["removed"], kernel["noise"], kernel["exact"]) == (0, 72, 0.0, 144 / 216)
    assert gone["notes"] == plain["notes"]
    replaced = found_in(capsys, "small", "--keep 0 --no-time")["kernels"][0]
    assert (replaced["noised"], replaced["removed"], replaced["exact"]) == (72, 0, 144 / 216)
    idle = found_in(capsys, "small", "--ratio 0 --no-time")
    assert idle["notes"] == ["nothing gets noise: ratio is 0. floor_std noises all of it (--floor)"]


def test_a_std_is_named_where_it_was_given(capsys):
    given, default = found_in(capsys, "small", "--std 1 --no-time"), found_in(capsys, "small")
    assert given["all"] == default["all"]
    assert "std 1," in given["facts"]["defense"]
    assert "std" not in default["facts"]["defense"]


@pytest.mark.parametrize("name", KINDS)
def test_a_call_is_timed(capsys, name):
    found = found_in(capsys, name, "--floor 0.1 --max-grad-norm 1")["time"]
    assert found["seconds"] > 0
    assert (found["repeats"], found["backend"], found["device"]) == (5, tip.available_backends()[0], "cpu")
    assert found_in(capsys, name)["time"] is None


def test_outputs_of_layers(capsys):
    shapes = {
        name: [row["outputs"] for row in found_in(capsys, name, f"--no-time --input {INPUTS.get(name, '3,12,12')}")[
            "kernels"
        ]]
        for name in KINDS
    }  # fmt: skip
    assert shapes == {
        "small": [[[8, 6, 6]], [[10, 6, 6]]],
        "kinds": [[[8, 14, 14]], [[8, 14, 14]], [[4, 10, 11]]],
        "sequences": [[[10, 16]], [[4, 16]]],
        "volumes": [[[10, 7, 7, 7]], [[4, 7, 5, 5]]],
        "weight_norm": [[[8, 10, 10]]],
        "half": [[[8, 10, 10]], [[8, 8, 8]]],
        "double": [[[8, 10, 10]]],
        "parallel": [[[8, 10, 10]]],
        "shared": [[[4, 10, 10], [4, 8, 8], [4, 6, 6]]],
        "frozen": [[[8, 8, 8]]],
    }


def test_layers_that_are_not_reached(capsys):
    found = found_in(capsys, "branches", "--no-time --input 3,12,12")
    assert [row["outputs"] for row in found["kernels"]] == [[[4, 10, 10]], [], []]
    assert "reaches 1 of 3 conv kernels" in found["facts"]["input"]
    notes = "\n".join(found["notes"])
    assert "the forward pass runs no layer of unused.weight, odd.weight: without a gradient they are not sent" in notes
    assert "from the forward pass" in notes
    table = run(capsys, "branches", "--no-time --input 3,12,12")[1]
    assert re.search(r"^used.weight .* 4x10x10$", table, re.M)
    assert re.search(r"^unused.weight .* not reached$", table, re.M)


def test_lazy_layers_take_their_shapes_from_an_input(capsys):
    found = found_in(capsys, "lazy", "--no-time --input 3,12,12")
    assert [row["numbers"] for row in found["kernels"]] == [216]
    assert found["all"]["numbers"] == 216 + 8 + 16 + 8010
    said = refusal(capsys, "lazy")
    assert "expected materialized layers, or lazy ones (--input runs a forward pass), got a lazy one (0.weight)" in said
    assert "lazy ones that --input reaches, got a lazy one (late.weight)" in refusal(
        capsys, "lazy_and_unused", "--input 3,12,12"
    )


def test_advice_on_models_that_are_hardly_touched(capsys):
    notes = "\n".join(found_in(capsys, "small")["notes"])
    assert "98.2 % of the numbers are sent exactly, and nothing is guaranteed for the others: floor_std" in notes
    assert (
        "kernels with a high band are 5.5 % of its numbers (1x1 kernels and others without a high band 2.0 %" in notes
    )
    assert "Linear 92.0 %), whatever the ratio" in notes
    nothing = found_in(capsys, "pointwise", "")
    assert "nothing gets noise: all that is trained is sent exactly" in nothing["notes"][0]
    assert (nothing["all"]["exact"], nothing["time"]) == (1.0, None)
    with pytest.raises(RuntimeError, match="all of it would be sent exactly"):
        noise_of_a_call(made("pointwise"))
    for name in ("small", "pointwise"):
        noised = found_in(capsys, name, "--no-time --floor 0.1")
        assert (noised["notes"], noised["all"]["noise"]) == ([], 1.0)


def test_buffers_and_frozen_parameters_are_told(capsys):
    assert (
        "8 numbers of floating buffers, as they are; TIP(buffers='withhold')" in found_in(capsys, "kinds")["notes"][-1]
    )
    found = found_in(capsys, "kinds", "--no-time --floor 1")
    assert "8 numbers of floating buffers, with noise" in found["notes"][-1]
    assert "(216 frozen ones are not sent)" in found_in(capsys, "frozen")["facts"]["model"]


def test_text_has_what_json_has(capsys):
    plan = found_in(capsys, "small", "--no-time --input 3,8,8")
    code, text, _ = run(capsys, "small", "--no-time --input 3,8,8")
    assert code == 0
    for fact in (*plan["facts"].values(), *plan["notes"]):
        assert fact in text
    lines = text.splitlines()
    (first,) = [line.split() for line in lines if line.startswith("0.weight")]
    assert first == ["0.weight", "8", "24", "9", "8", "3", "216", "33.3", "%", "66.7", "%", "324", "8x6x6"]
    (last,) = [line.split() for line in lines if line.startswith("all (")]
    assert last == ["all", "(6", "tensors)", "3,924", "1.8", "%", "98.2", "%", "324"]
    assert "ms a call, measured here: median of 5, backend" in run(capsys, "small")[1]


def test_shares_that_are_almost_nothing_or_all_are_not_rounded_to_it():
    from tip_kernels._commands.plan_report import _percent

    shares = (0.0, 1e-9, 0.0005, 0.5, 0.9994, 1 - 1e-9, 1.0)
    assert [_percent(share) for share in shares] == [
        "0.0 %", "< 0.1 %", "0.1 %", "50.0 %", "99.9 %", "> 99.9 %", "100.0 %",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("linear", "expected a model with conv layers, got Sequential without"),
        ("still", "expected nets:still to return a model with parameters that are trained, got none"),
        ("nowhere", "expected a model that holds data, got one on meta: to_empty() it first (0.weight)"),
        ("broken", "nets:broken has raised KeyError: 'a line\\nand another'"),
        ("leaves", "nets:leaves has raised SystemExit: 0"),
        ("nothing", "expected nets:nothing to return a torch.nn.Module, got NoneType"),
        ("wants", "expected --model to name a function without arguments, got nets:wants: missing"),
        ("absent", "expected --model to name something in nets, which has no 'absent'"),
    ],
)
def test_models_that_are_refused(capsys, model, said):
    assert said in refusal(capsys, model)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("small", "--ratio nan", "expected ratio in [0, 1], got nan"),
        ("small", "--cutoff 1", "expected cutoff in [0, 1), got 1.0"),
        ("small", "--floor -1", "expected floor_std to be finite and at least 0, got -1.0"),
        ("small", "--floor 1e-50 --no-time", "expected noise that float32 can hold"),
        ("half", "--floor 1e9 --no-time", "expected noise that float16 can hold"),
        (
            "imaginary",
            "--floor 1 --no-time",
            "expected parameters of float32, float64, bfloat16, float16, got complex64",
        ),
        ("small", "--max-grad-norm 0", "expected max_grad_norm to be None or positive and finite, got 0.0"),
        ("small", "--input 3,0,8", "argument --input: expected positive integers like 3,224,224, got 3,0,8"),
        ("small", "--input 3x8x8", "argument --input: expected positive integers like 3,224,224, got 3x8x8"),
        ("small", "--input 3,2,2", "expected a model for inputs of 3,2,2 (--input), but of 2 of them it has raised"),
        ("small", "--input 3,99999999999,99999999999", "but of 2 of them it has raised RuntimeError"),
        ("small", "--keep 2", "expected keep in [0, 1], got 2.0"),
        ("small", "--clip-by noise --max-grad-norm 1", "expected noise on all that is sent beside clip_by='noise'"),
        ("small", "--spectrum absent.json", "--spectrum: [Errno 2] No such file or directory"),
        ("small", "--rat 1", "unrecognized arguments: --rat 1; --help tells more"),
    ],
)
def test_options_that_are_refused(capsys, model, options, said):
    assert said in refusal(capsys, model, options)


def test_an_interruption_is_an_exit_code(capsys):
    assert run(capsys, "stopped") == (130, "", "")


def test_in_a_process_of_its_own(working_folder):
    """Only JSON on stdout, and the log's words are not said again."""
    root = pathlib.Path(__file__).parent.parent
    program = [sys.executable, "-m", "tip_kernels", "plan", "--model", "nets:small", "--json"]
    environment = {"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "made by the factory\n")
    assert json.loads(done.stdout)["time"]["seconds"] > 0
