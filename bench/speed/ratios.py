"""python -m bench.speed.ratios: TIP beside what a user would otherwise run, in one interleaved run.

Prints a table for each model and writes ``bench/speed/results/<device>.json``. Every figure is the median of the
repeats, with quartiles; GB/s counts each selected element as read and written once.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch

import tip_kernels as tip
from bench.speed import baselines, models, report, timing
from bench.speed.bandwidth import bandwidth, print_bandwidth
from bench.speed.overhead import overhead, print_overhead
from tip_kernels._bench import eager
from tip_kernels._bench.machine import machine
from tip_kernels._bench.parameters import Gradients, Parameter, count, gradients, selected
from tip_kernels._bench.timing import Quartiles

CUTOFF, STD = 0.5, 1e-3

Contestants = dict[str, Callable[[], object]]


class Ratio(NamedTuple):
    """``slower`` divided by ``faster`` should be at least ``goal`` (at most, if ``at_most``)."""

    text: str
    slower: str
    faster: str
    goal: float
    at_most: bool = False


OURS, ONE_THREAD, PHILOX, WHOLE = "tip 0.3", "tip 0.3, one thread", "tip 0.3, philox", "tip 1.0"
PAPER, RFFT2, COMPILED, OPACUS, MULTIPLY = (
    "paper, eager 0.3", "rfft2 0.3", "rfft2 compiled 0.3", "opacus-style, all", "mul_ of 0.3",
)  # fmt: skip

RATIOS = (
    Ratio("the paper's eager path", PAPER, OURS, 100),
    Ratio("rfft2 / irfft2", RFFT2, OURS, 35),
    Ratio("torch.compile of rfft2", COMPILED, OURS, 25),
    Ratio("Opacus-style noise against ratio 1.0", OPACUS, WHOLE, 5),
    Ratio("chacha12 against mul_ of the selected bytes", OURS, MULTIPLY, 4, at_most=True),
    Ratio("philox against mul_ of the selected bytes", PHILOX, MULTIPLY, 2.5, at_most=True),
    Ratio("one thread against all", ONE_THREAD, OURS, 1.8),
)


def main() -> None:
    """Measures, prints and writes."""
    options = _options()
    device = torch.device(options.device)
    torch.manual_seed(0)
    figures = {"machine": machine(device), "repeats": options.repeats, "models": {}}
    for name in options.models:
        parameters = models.MODELS[name]()
        times = timing.interleaved(contestants(parameters, device, options.compile), device, options.repeats)
        figures["models"][name] = summary(parameters, times)
        print_model(name, figures["models"][name])
    figures["call"] = overhead(device, options.repeats)
    print_overhead(figures["call"])
    if device.type == "cuda":
        figures["bandwidth"] = bandwidth(device, options.repeats)
        print_bandwidth(figures["bandwidth"])
    report.save(device, figures)


def contestants(parameters: list[Parameter], device: torch.device, with_compile: bool) -> Contestants:
    """Everything that is compared, by name; each has gradients of its own."""

    def fresh() -> Gradients:
        return gradients(parameters, device)

    def ours(ratio: float, generator: str = "chacha12") -> Callable[[], None]:
        grads, rng = fresh(), tip.NoiseRNG(generator=generator)
        return lambda: tip.perturb_(*grads, ratio=ratio, cutoff=CUTOFF, std=STD, rng=rng)

    def baseline(function: Callable[..., None]) -> Callable[[], None]:
        grads = fresh()
        return lambda: function(grads, 0.3, CUTOFF, STD)

    opacus, touched = fresh(), baselines.selected_bytes(fresh(), 0.3, CUTOFF)
    found: Contestants = {
        OURS: ours(0.3),
        PHILOX: ours(0.3, "philox"),
        WHOLE: ours(1.0),
        MULTIPLY: lambda: baselines.multiply(touched),
        OPACUS: lambda: eager.gaussian(opacus, STD),
        RFFT2: baseline(eager.high_band),
        PAPER: baseline(baselines.paper_eager),
    }
    if with_compile:
        found[COMPILED] = baseline(baselines.compiled(eager.high_band))
    if device.type == "cpu":
        found[ONE_THREAD] = on_one_thread(found[OURS])
    else:
        found |= {f"{name}, graph": timing.as_graph(found[name]) for name in (OURS, PHILOX, WHOLE, MULTIPLY)}
    return found


def on_one_thread(function: Callable[[], object]) -> Callable[[], None]:
    """The function without torch's thread pool."""

    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        function()
        torch.set_num_threads(threads)

    return run


def summary(parameters: list[Parameter], times: dict[str, Quartiles]) -> dict:
    """Times, bandwidths and ratios of one model, for the report."""
    touched = {share: 8 * selected(parameters, share) for share in (0.3, 1.0)}
    everything = 8 * count(parameters)
    moved = {name: everything if name == OPACUS else touched[1.0 if name.startswith(WHOLE) else 0.3] for name in times}
    return {
        "parameters": count(parameters),
        "selected_bytes": touched[0.3],
        "ms": {
            name: {**time._asdict(), "GB/s": moved[name] / time.median / 1e6} for name, time in sorted(times.items())
        },
        "ratios": [
            {"what": r.text, "ratio": times[r.slower].median / times[r.faster].median, "goal": goal(r)}
            for r in RATIOS
            if r.slower in times and r.faster in times
        ],
    }


def goal(ratio: Ratio) -> str:
    """The goal in words."""
    return f"{'at most' if ratio.at_most else 'at least'} {ratio.goal:g}"


def print_model(name: str, model: dict) -> None:
    """The times and ratios of one model."""
    print(f"\n{name}: {model['parameters']:,} parameters, {model['selected_bytes'] / 8e6:.2f} M selected at 0.3")
    print(f"  {'':24}{'ms':>10}{'quartiles':>22}{'GB/s':>8}")
    for contestant, time in sorted(model["ms"].items(), key=lambda item: item[1]["median"]):
        quartiles = f"{time['lower']:.3f} .. {time['upper']:.3f}"
        print(f"  {contestant:24}{time['median']:10.3f}{quartiles:>22}{time['GB/s']:8.1f}")
    for ratio in model["ratios"]:
        print(f"  {ratio['what']:48}{ratio['ratio']:8.2f}  ({ratio['goal']})")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.speed.ratios", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], choices=list(models.MODELS))
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile's baseline")
    return parser.parse_args()


if __name__ == "__main__":
    main()
