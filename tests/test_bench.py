"""The benchmarks compare like with like: known models, and baselines with the noise that we have."""

import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import contract_model as model
import pytest
import torch

import tip_kernels as tip
from bench import paths
from bench.speed import baselines, bench_perturb, compare, loop, models, modes, ratios, report, stages, timing
from tip_kernels._bench import eager
from tip_kernels._bench.machine import machine
from tip_kernels._bench.parameters import Gradients, count, gradients, selected
from tip_kernels._bench.timing import in_fair_turns, quartiles

STD, RATIO = 0.5, 0.3


PUBLISHED = {  # parameters with the pretrained weights or, of the 3D U-Net, in the paper; convolutions
    "resnet18": (11_689_512, 20),
    "resnet50": (25_557_032, 53),
    "convnext_l": (197_767_336, 40),  # a stem, three strides, 36 blocks
    "efficientnet_b4": (19_341_616, 160),  # 32 blocks of 5, less the expansion of the two first; stem and head
    "unet_3d": (19_069_955, 18),
    "sdxl_unet": (2_567_463_684, 51),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_known_models(name):
    table = models.MODELS[name]()
    assert (count(table), sum(parameter.conv for parameter in table)) == PUBLISHED[name]
    assert len({parameter.name for parameter in table}) == len(table)


def test_replknet_has_as_many_millions_as_published_and_its_large_kernels_beside_small_ones():
    table = models.replknet_31b()
    assert count(table) // 10**6 == 79
    large, small = ([p.shape for p in table if p.name.endswith(f".{size}.weight")] for size in ("large", "small"))
    assert [shape[2:] for shape in large] == 2 * [(31, 31)] + 2 * [(29, 29)] + 18 * [(27, 27)] + 2 * [(13, 13)]
    assert small == [(width, 1, 5, 5) for width, *_ in large]


def test_up_convolutions_lie_as_torch_has_them():
    table = models.unet_3d()
    [resize] = [p for p in table if p.name == "up2.resize.weight"]
    tensors = gradients([resize._replace(shape=(4, 6, 2, 2, 2))]).tensors
    assert tensors[0].shape == (4, 6, 2, 2, 2)
    assert tensors[0].transpose(0, 1).is_contiguous()
    assert sum(parameter.transposed for parameter in table) == 3


def test_unet_has_a_billion_parameters():
    table = models.unet()
    assert count([parameter for parameter in table if parameter.conv]) == pytest.approx(1e9, rel=0.1)


def test_one_channel_keeps_what_kernels_are():
    tiny = models.one_channel(models.resnet50())
    assert len(tiny) == 161
    assert tiny[0].shape == (1, 1, 7, 7)
    assert count(tiny) == 49 + 16 * 9 + 36 + 2 * 53 + 2  # 7x7, 3x3, 1x1, norms, classifier


def ours(grads: Gradients, ratio: float, cutoff: float, std: float) -> None:
    tip.perturb_(*grads, ratio=ratio, cutoff=cutoff, std=std, rng=tip.NoiseRNG.from_seed(1))


@pytest.mark.parametrize("cutoff", [0.5, 0.75])
@pytest.mark.parametrize("kernel_size", [(3, 3), (4, 4), (5, 3), (1, 1), (4,), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("perturb", [ours, baselines.paper_eager, eager.high_band], ids=lambda f: f.__name__)
def test_noise_of_the_baselines_is_ours(perturb, kernel_size, cutoff):
    """Covariance std^2 B B' over the taps of selected kernels, and nothing elsewhere."""
    if perturb is baselines.paper_eager and len(kernel_size) != 2:
        pytest.skip("the paper has images")
    torch.manual_seed(0)
    kernels, taps = 20_000, math.prod(kernel_size)
    before = torch.randn(4, kernels, *kernel_size)
    grads = Gradients([before.clone(), torch.ones(4)], [torch.tensor([0.1, 0.9, 0.3, 0.7]), None])
    perturb(grads, RATIO, cutoff, STD)  # ceil(0.3 * 4) = 2 channels: 1 and 3
    noise = (grads.tensors[0] - before).double().flatten(2)
    # An FFT there and back leaves some rounding, of numbers around 5 and far below the noise.
    assert noise[[0, 2]].abs().max() == 0
    basis, high_dim = tip.spectrum.real_basis(kernel_size, tip.spectrum.radial_mask(kernel_size, cutoff))
    high = basis[:, :high_dim]
    sample = noise[[1, 3]].reshape(-1, taps)
    covariance = sample.T @ sample / len(sample)
    # An entry of a covariance of n samples has a standard error of at most std^2 sqrt(2 / n); 5 of them.
    assert (covariance - STD**2 * high @ high.T).abs().max() <= 5 * STD**2 * math.sqrt(2 / len(sample)) + 1e-10
    assert torch.equal(grads.tensors[1], torch.ones(4))


def test_opacus_style_noise_has_the_same_std():
    torch.manual_seed(0)
    grads = Gradients([torch.zeros(100_000)], [None])
    eager.gaussian(grads, STD)
    assert grads.tensors[0].std() == pytest.approx(STD, rel=5 / math.sqrt(2 * 100_000))


def test_selected_bytes_are_those_that_ours_touches():
    parameters = models.resnet18()
    grads = gradients(parameters)
    before = [tensor.clone() for tensor in grads.tensors]
    ours(grads, RATIO, 0.5, STD)
    changed = sum(
        (a != b).flatten(1).any(1).sum().item() * a[0].numel()
        for a, b, score in zip(before, grads.tensors, grads.scores, strict=True)
        if score is not None
    )
    assert sum(view.numel() for view in baselines.selected_bytes(grads, RATIO, 0.5)) == changed
    assert selected(parameters, RATIO) == changed


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


def test_in_fair_turns_slow_contestants_have_as_much_time_as_fast_ones(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tip_kernels._bench.timing.time.perf_counter", lambda: clock.now)
    order, shares = [], []
    fast, slow = clock.takes(1.0, "fast", order), clock.takes(10.0, "slow", order)
    times = in_fair_turns({"fast": fast, "slow": slow}, torch.device("cpu"), 100.0, 3, 60.0, shares.append)
    assert {name: [round(each) for each in all_of_it] for name, all_of_it in times.items()} == {
        "fast": 50 * [1000], "slow": 5 * [10_000]
    }  # fmt: skip
    assert "".join(name[0] for name in order[2:]) == "fs" + 4 * ("f" * 10 + "s") + "f" * 9  # two have warmed up
    assert shares == sorted(shares)
    assert shares[-1] < 1.0


def test_in_fair_turns_all_have_the_least_number_of_calls_however_long_it_takes(monkeypatch):
    clock, order, shares = Clock(), [], []
    monkeypatch.setattr("tip_kernels._bench.timing.time.perf_counter", lambda: clock.now)
    fast, slow = clock.takes(1.0, "fast", order), clock.takes(10.0, "slow", order)
    times = in_fair_turns({"fast": fast, "slow": slow}, torch.device("cpu"), 0.0, 3, 60.0, shares.append)
    assert [len(each) for each in times.values()] == [3, 3]
    assert shares[-1] == 1.0


def test_in_fair_turns_nobody_waits_twice_for_what_is_very_slow(monkeypatch):
    clock, order, shares = Clock(), [], []
    monkeypatch.setattr("tip_kernels._bench.timing.time.perf_counter", lambda: clock.now)
    fast, slow = clock.takes(1.0, "fast", order), clock.takes(10.0, "slow", order)
    times = in_fair_turns({"fast": fast, "slow": slow}, torch.device("cpu"), 0.0, 3, 5.0, shares.append)
    assert [len(each) for each in times.values()] == [3, 1]
    assert quartiles(times["slow"]) == (10_000, 10_000, 10_000)
    assert shares[-1] == 1.0


class Clock:
    """Time that passes in functions alone."""

    def __init__(self):
        self.now = 0.0

    def takes(self, seconds, name, order):
        def function():
            self.now += seconds
            order.append(name)

        return function


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
    assert report.load(device) == {"machine": machine(device)}
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


def saved(path: pathlib.Path, date: str, times: dict[str, float], copy: float = 9.0, **machine: object) -> pathlib.Path:
    """A run as pytest-benchmark keeps it, with quartiles around the given medians in milliseconds."""
    stats = {name: {"min": 0.8e-3 * ms, "q1": 0.9e-3 * ms, "median": 1e-3 * ms} for name, ms in times.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "datetime": date,
        "commit_info": {"id": f"{'0123456789abcdef'}{date}", "dirty": False},
        "machine_info": {"tip_kernels": {"threads": 1, **machine}},
        "benchmarks": [{"name": f"test_{n}", "stats": s, "extra_info": {"copy GB/s": copy}} for n, s in stats.items()],
    }
    path.write_text(json.dumps(run))
    return path


def test_compare_says_what_became_slower(tmp_path, capsys):
    old = saved(tmp_path / "a.json", "2026-01-01", {"op": 1.0, "other": 2.0, "third": 3.0, "gone": 1.0})
    new = saved(tmp_path / "b.json", "2026-01-02", {"op": 1.05, "other": 2.3, "third": 2.0, "new": 1.0}, threads=2)
    assert compare.main([str(old), str(new)]) == 1
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("  ")][1:]
    assert [(row[0], row[-1]) for row in rows[:3]] == [("other", "slower"), ("third", "faster"), ("op", "1.05")]
    assert [" ".join(row) for row in rows[3:]] == ["gone only in the old run", "new only in the new run"]
    assert "note: threads differs: 1, now 2" in out
    assert "1 of 3 became slower by more than 10 %" in out
    assert compare.main([str(old), str(new), "--threshold", "20"]) == 0


def test_compare_says_when_memory_was_slower_too(tmp_path, capsys):
    old, new = (saved(tmp_path / f"{copy}.json", "2026-01-01", {"op": 1.0}, copy) for copy in (9.0, 6.0))
    assert compare.main([str(old), str(new)]) == 0
    assert "note: a copy of memory took 1.50 times as long" in capsys.readouterr().out
    assert compare.main([str(old), str(old)]) == 0
    assert "note" not in capsys.readouterr().out


def test_compare_refuses_what_is_no_run(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"benchmarks": []}')
    assert compare.main(2 * [str(tmp_path / "a.json")]) == 2
    assert "expected a run of bench_perturb.py" in capsys.readouterr().err


def test_compare_wants_both_the_least_time_and_the_quartile_changed():
    assert compare.Change("a", least=1.2, lower=1.05, old_ms=1, new_ms=2).verdict(10) == "same"
    assert compare.Change("a", least=1.05, lower=1.2, old_ms=1, new_ms=2).verdict(10) == "same"
    assert compare.Change("a", least=0.8, lower=0.95, old_ms=1, new_ms=1).verdict(10) == "same"


def test_compare_takes_the_two_newest_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert compare.main([]) == 2
    assert "expected two runs" in capsys.readouterr().err
    for name, day, ms in (("c", "03", 1.0), ("a", "01", 9.0), ("b", "02", 2.0)):
        saved(tmp_path / ".benchmarks" / "machine" / f"{name}.json", f"2026-01-{day}", {"op": ms})
    assert compare.main([]) == 0
    assert "2.000     1.000    0.50      0.50  faster" in capsys.readouterr().out


class Asked:
    """pytest's configuration, as far as the axes of single calls depend on it."""

    def __init__(self, **options: object) -> None:
        self.options = {"--model": None, "--every": False, "--device": "cpu", **options}

    def getoption(self, name: str) -> object:
        return self.options[name]


def test_single_calls_differ_from_the_first_in_one_axis():
    first, *others = bench_perturb.cases(Asked())
    backends = tip.available_backends()
    assert first == ("perturb_", backends[0], "chacha12", "float32", "contiguous", "resnet18")
    assert [sum(a != b for a, b in zip(first, other, strict=True)) for other in others] == [1] * len(others)
    assert len({*others}) == len(others) == 2 + len(backends) - 1 + 3 + 3 + 1
    asked = bench_perturb.cases(Asked(**{"--model": ["unet_3d", "resnet50"]}))
    assert [case.model for case in asked] == ["unet_3d"] * (len(asked) // 2) + ["resnet50"] * (len(asked) // 2)


def test_every_single_call_is_there_once_and_runs():
    """On one channel a tensor. What a norm is of no generator draws."""
    cases = bench_perturb.cases(Asked(**{"--every": True}))
    assert len({*cases}) == len(cases) == len(tip.available_backends()) * (2 * 4 + 1) * 4 * 2
    table = models.one_channel(models.unet_3d())[-4:] + models.one_channel(models.resnet18())[:3]
    for case in cases:
        make, elements = bench_perturb.OPS[case.op]
        grads = gradients(table, dtype=bench_perturb.DTYPES[case.dtype])
        make(case, bench_perturb.laid_out(grads, case.layout))()
        assert elements(table) > 0


def test_saved_benchmarks_have_rates_beside_times(tmp_path):
    """As make bench-save runs them, of the smallest call and for one round."""
    pytest.importorskip("pytest_benchmark")
    command = [
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench/speed/bench_perturb.py", "-k", "one_channel",
        "--benchmark-only", "--benchmark-min-rounds=1", "--benchmark-max-time=0",
        "--benchmark-json", str(tmp_path / "run.json"),
    ]  # fmt: skip
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    shown = subprocess.run(command, cwd=paths.ROOT, env=alone, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    [row] = run["benchmarks"]
    assert row["extra_info"]["bytes"] == 8 * (49 + 16 * 9)  # one 7x7 and sixteen 3x3 kernels, read and written
    assert row["extra_info"]["GB/s"] == pytest.approx(8 * (49 + 16 * 9) / row["stats"]["median"] / 1e9)
    assert row["extra_info"]["of a copy"] == row["extra_info"]["GB/s"] / row["extra_info"]["copy GB/s"]
    assert run["machine_info"]["tip_kernels"]["torch"] == torch.__version__
    assert "call_of_one_channel_tensors" in shown.stdout
