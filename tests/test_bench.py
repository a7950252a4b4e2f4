"""The benchmarks compare like with like: known models, and baselines with the noise that we have."""

import math
import pathlib
import platform
import shutil
import subprocess
import time

import contract_model as model
import pytest
import torch

import tip_kernels as tip
from bench import paths
from bench.speed import baselines, loop, models, modes, ratios, report, stages, timing

STD, RATIO = 0.5, 0.3


@pytest.mark.parametrize(
    ("name", "parameters", "convolutions"),
    [("resnet18", 11_689_512, 20), ("resnet50", 25_557_032, 53)],  # as published with the pretrained weights
)
def test_parameters_of_known_models(name, parameters, convolutions):
    table = models.MODELS[name]()
    assert models.count(table) == parameters
    assert sum(parameter.conv for parameter in table) == convolutions
    assert len({parameter.name for parameter in table}) == len(table)


def test_unet_has_a_billion_parameters():
    table = models.unet()
    assert models.count([parameter for parameter in table if parameter.conv]) == pytest.approx(1e9, rel=0.1)


def test_one_channel_keeps_what_kernels_are():
    tiny = models.one_channel(models.resnet50())
    assert len(tiny) == 161
    assert tiny[0].shape == (1, 1, 7, 7)
    assert models.count(tiny) == 49 + 16 * 9 + 36 + 2 * 53 + 2  # 7x7, 3x3, 1x1, norms, classifier


def ours(gradients: models.Gradients, ratio: float, cutoff: float, std: float) -> None:
    tip.perturb_(*gradients, ratio=ratio, cutoff=cutoff, std=std, rng=tip.NoiseRNG.from_seed(1))


@pytest.mark.parametrize("cutoff", [0.5, 0.75])
@pytest.mark.parametrize("kernel_size", [(3, 3), (4, 4), (5, 3), (1, 1)])
@pytest.mark.parametrize("perturb", [ours, baselines.paper_eager, baselines.rfft2], ids=lambda f: f.__name__)
def test_noise_of_the_baselines_is_ours(perturb, kernel_size, cutoff):
    """Covariance std^2 B B' over the taps of selected kernels, and nothing elsewhere."""
    torch.manual_seed(0)
    kernels, taps = 20_000, math.prod(kernel_size)
    before = torch.randn(4, kernels, *kernel_size)
    gradients = models.Gradients([before.clone(), torch.ones(4)], [torch.tensor([0.1, 0.9, 0.3, 0.7]), None])
    perturb(gradients, RATIO, cutoff, STD)  # ceil(0.3 * 4) = 2 channels: 1 and 3
    noise = (gradients.tensors[0] - before).double().flatten(2)
    # An FFT there and back leaves some rounding, of numbers around 5 and far below the noise.
    assert noise[[0, 2]].abs().max() == 0
    basis, high_dim = tip.spectrum.real_basis(kernel_size, tip.spectrum.radial_mask(kernel_size, cutoff))
    high = basis[:, :high_dim]
    sample = noise[[1, 3]].reshape(-1, taps)
    covariance = sample.T @ sample / len(sample)
    # An entry of a covariance of n samples has a standard error of at most std^2 sqrt(2 / n); 5 of them.
    assert (covariance - STD**2 * high @ high.T).abs().max() <= 5 * STD**2 * math.sqrt(2 / len(sample)) + 1e-10
    assert torch.equal(gradients.tensors[1], torch.ones(4))


def test_opacus_style_noise_has_the_same_std():
    torch.manual_seed(0)
    gradients = models.Gradients([torch.zeros(100_000)], [None])
    baselines.opacus_style(gradients, STD)
    assert gradients.tensors[0].std() == pytest.approx(STD, rel=5 / math.sqrt(2 * 100_000))


def test_selected_bytes_are_those_that_ours_touches():
    parameters = models.resnet18()
    gradients = models.gradients(parameters)
    before = [tensor.clone() for tensor in gradients.tensors]
    ours(gradients, RATIO, 0.5, STD)
    changed = sum(
        (a != b).flatten(1).any(1).sum().item() * a[0].numel()
        for a, b, score in zip(before, gradients.tensors, gradients.scores, strict=True)
        if score is not None
    )
    assert sum(view.numel() for view in baselines.selected_bytes(gradients, RATIO, 0.5)) == changed
    assert models.selected(parameters, RATIO) == changed


def test_summary_compares_medians_of_every_contestant():
    device = torch.device("cpu")
    parameters = models.one_channel(models.resnet18())
    times = timing.interleaved(ratios.contestants(parameters, device, with_compile=False), device, repeats=2)
    figures = ratios.summary(parameters, times)
    assert set(figures["ms"]) == set(times)
    assert len(figures["ratios"]) == len(ratios.RATIOS) - 1  # all but that of torch.compile
    paper = figures["ratios"][0]
    assert paper["ratio"] == times["paper, eager 0.3"].median / times["tip 0.3"].median
    assert figures["ms"]["tip 0.3"]["GB/s"] == pytest.approx(
        8 * (49 + 16 * 9) / times["tip 0.3"].median / 1e6  # a 7x7 and sixteen 3x3 kernels, read and written
    )


def test_quartiles_are_of_the_repeats():
    waits = iter([0.0, 0.0, 0.02, 0.04, 0.06, 0.08, 0.1])  # two to warm up
    device = torch.device("cpu")
    quartiles = timing.interleaved({"sleep": lambda: time.sleep(next(waits))}, device, repeats=5)["sleep"]
    assert quartiles.lower >= 40
    assert quartiles.median >= 60
    assert quartiles.upper >= 80
    assert quartiles.lower <= quartiles.median <= quartiles.upper


def test_results_lie_beside_the_code_whatever_the_current_folder_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path(timing.__file__).parent / "results"
    assert report.path(torch.device("cpu")).parent == paths.SPEED_RESULTS == folder.resolve()
    assert (paths.PRIVACY_RESULTS / "privacy.csv").exists()
    assert (paths.ROOT / "pyproject.toml").exists()
    assert paths.README.exists()
    assert paths.PRIVACY_PAGE.exists()


def test_figures_of_a_gpu_are_added_to_those_of_the_ratios(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "SPEED_RESULTS", tmp_path / "results")
    device = torch.device("cpu")
    assert report.load(device) == {"machine": report.machine(device)}
    report.save(device, {"machine": "this", "repeats": 20})
    report.save(device, {**report.load(device), "gpu": {"launches": 1}})
    assert report.load(device) == {"machine": "this", "repeats": 20, "gpu": {"launches": 1}}
    assert str(report.path(device)) in capsys.readouterr().out


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("c++") is None, reason="no C++ compiler for x86")
def test_stages_compile_with_the_kernels_as_they_are():
    command = [*stages.COMPILE, "-fsyntax-only"]
    result = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_modes_count_the_normals_and_words_of_the_contract():
    for name, mode in modes.MODES.items():
        taps = 1 if mode.flat else 9
        high = int(model.high_bins((3, 3), mode.options.get("cutoff", 0.5)).sum())
        used = taps if "floor_std" in mode.options else high
        assert mode.normals == 9 // taps * used, name
        assert mode.words == model.pitch(used) / used, name


def test_every_mode_runs(monkeypatch):
    monkeypatch.setattr(modes, "MILLISECONDS", 0.0)
    assert list(modes.nanoseconds(modes.MODES, 600, repeats=1)) == list(modes.MODES)


def test_loops_have_what_their_names_say(tmp_path):
    """Each with one thing more: scores, noise, clipping, a floor."""
    pytest.importorskip("dp_accounting")
    torch.manual_seed(0)

    def make():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.Flatten(), torch.nn.Linear(256, 10))

    made = loop.loops(make, tmp_path)
    figures = loop.measure(made, repeats=3)
    assert [len(each) for each in figures.values()] == [3] * 6
    for number, each in enumerate(figures.values()):
        for step, hooks, call in each:
            assert (hooks > 0, hooks + call < step) == (number > 0, True)
    alone, scored, *attached = list(made.values())
    assert alone.protected is None
    assert (scored.protected.rng.step, len(scored.protected.scores())) == (0, 1)
    assert [item.protected.rng.step for item in attached[:3]] == [5, 5, 5]
    assert attached[3].protected.budget.messages == 5
    wanted = [(None, 0.0), (loop.NORM, 0.0), (loop.NORM, loop.FLOOR)]
    assert [
        (d._settings["max_grad_norm"], d._settings["floor_std"]) for d in (i.protected for i in attached[:3])
    ] == wanted


def test_the_table_of_loops_says_what_an_item_adds():
    """Of steps that others disturb, all in one repeat alike."""
    disturbed = [0.0, 50.0, 0.0, 3.0, 900.0]
    added = dict(zip([*loop.ITEMS, loop.PROTECTED], [0.0, 1.0, 3.0, 4.0, 6.0, 2.0], strict=True))
    figures = {
        name: [loop.Figures(100 + more + d, hooks=more / 4, call=more / 2) for d in disturbed]
        for name, more in added.items()
    }
    rows = loop.table(figures).splitlines()[2:]
    assert rows[0] == "| training step alone | 103 |  |  |  |  |"
    assert rows[3] == "| and clipping | 107 | 1.0 | 2.0 | 2.9 % | 3.9 % |"
    assert rows[-1] == "| protect(), with a budget in a file | 105 | 0.5 | 1.0 | 1.5 % | 1.9 % |"
