"""python -m bench.ratios: TIP beside what a user would otherwise run, in one interleaved run.

Prints a table for each model and writes ``bench/results/<device>.json``. Every figure is the median of the rounds,
with quartiles; GB/s counts each selected element as read and written once.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import re
from collections.abc import Callable
from typing import NamedTuple

import torch

import tip_kernels as tip
from tip_kernels import functional

from . import baselines, models, timing

CUTOFF, STD = 0.5, 1e-3
RESULTS = pathlib.Path(__file__).parent / "results"

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
    report = {"machine": machine(device), "rounds": options.rounds, "models": {}}
    for name in options.models:
        parameters = models.MODELS[name]()
        times = timing.interleaved(contestants(parameters, device, options.compile), device, options.rounds)
        report["models"][name] = summary(parameters, times)
        print_model(name, report["models"][name])
    report["call"] = overhead(device, options.rounds)
    print_overhead(report["call"])
    if device.type == "cuda":
        report["bandwidth"] = bandwidth(device, options.rounds)
        print_bandwidth(report["bandwidth"])
    path = report_path(device)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {path}")


def contestants(parameters: list[models.Parameter], device: torch.device, with_compile: bool) -> Contestants:
    """Everything that is compared, by name; each has gradients of its own."""

    def fresh() -> models.Gradients:
        return models.gradients(parameters, device)

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
        OPACUS: lambda: baselines.opacus_style(opacus, STD),
        RFFT2: baseline(baselines.rfft2),
        PAPER: baseline(baselines.paper_eager),
    }
    if with_compile:
        found[COMPILED] = baseline(baselines.compiled(baselines.rfft2))
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


def summary(parameters: list[models.Parameter], times: dict[str, timing.Quartiles]) -> dict:
    """Times, bandwidths and ratios of one model, for the report."""
    touched = {share: 8 * models.selected(parameters, share) for share in (0.3, 1.0)}
    everything = 8 * models.count(parameters)
    moved = {name: everything if name == OPACUS else touched[1.0 if name.startswith(WHOLE) else 0.3] for name in times}
    return {
        "parameters": models.count(parameters),
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


def overhead(device: torch.device, rounds: int) -> dict:
    """Microseconds of a call for ResNet-50 with one channel in every tensor, by what they go into."""
    whole = models.one_channel(models.resnet50())
    found = {}
    for name, parameters in (("all 161", whole), ("the 53 convolutions", [p for p in whole if p.conv])):
        found[name] = _overhead(models.gradients(parameters, device), device, rounds)
    return found


def _overhead(grads: models.Gradients, device: torch.device, rounds: int) -> dict:
    arguments = {
        "cutoff": CUTOFF, "std": STD, "rng": tip.NoiseRNG(), "masks": None, "keep": 1.0, "floor_std": 0.0,
        "grad_scale": None, "shards": None, "names": None, "backend": None,
    }  # fmt: skip
    call = functional.checked_call(*grads, ratio=0.3, **arguments)
    idle = functional.checked_call(*grads, ratio=0.0, **arguments)
    empty = idle._replace(grads=[], scores=[], selected=[], tensor_ids=[], basis_ids=[], bases=[], high_dims=[])
    steps = {
        "whole call": lambda: tip.perturb_(*grads, ratio=0.3, **arguments),
        "Python checks": lambda: functional.checked_call(*grads, ratio=0.3, **arguments),
        "op": call.run,
        "op that selects nothing": idle.run,
        "op without tensors": empty.run,
    }
    times = {name: 1e3 * t.median for name, t in timing.interleaved(steps, device, max(rounds, 100), calls=10).items()}
    return {
        "whole call": times["whole call"],
        "Python checks": times["Python checks"],
        "dispatch": times["op without tensors"],
        "handing over tensors": times["op that selects nothing"] - times["op without tensors"],
        "planning and noise": times["op"] - times["op that selects nothing"],
    }


def bandwidth(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """GB/s of large tensors on a GPU, and the share of what a device copy of the same bytes reaches.

    1 GiB of 3x3 kernels, every channel selected, in place; channel saliency of [64, 256, 56, 56]; an empty list,
    which is one launch and no memory.
    """
    kernels = torch.randn(2**18, 114, 3, 3, device=device)  # 1.00 GiB
    activation_grad = torch.randn(64, 256, 56, 56, device=device)
    room = torch.empty_like(kernels)

    def ours(grad: torch.Tensor, generator: str = "chacha12") -> Callable[[], None]:
        rng, scores = tip.NoiseRNG(generator=generator), [torch.zeros(len(grad), device=device)]
        return lambda: tip.perturb_([grad], scores, ratio=1.0, cutoff=CUTOFF, std=STD, rng=rng)

    rng = tip.NoiseRNG()
    tip.perturb_([kernels[:1]], [None], ratio=1.0, std=STD, floor_std=STD, rng=rng)  # brings the state to the device
    launches = {
        "device copy": (lambda: room.copy_(kernels), 2 * kernels.nbytes),
        **{name: (ours(kernels, name), 2 * kernels.nbytes) for name in ("philox", "chacha8", "chacha12", "chacha20")},
        "chacha12, bfloat16": (ours(kernels.bfloat16()), kernels.nbytes),
        "chacha12, channels_last": (ours(kernels.to(memory_format=torch.channels_last)), 2 * kernels.nbytes),
        "channel_saliency": (lambda: tip.channel_saliency(activation_grad), activation_grad.nbytes),
        "empty list": (lambda: tip.perturb_([], [], ratio=1.0, std=STD, rng=rng), 0),
    }
    replays = {name: timing.as_graph(function) for name, (function, _) in launches.items()}
    times = timing.interleaved(replays, device, rounds, calls=3)
    rates = {name: moved / times[name].median / 1e6 for name, (_, moved) in launches.items()}
    return {
        name: {**times[name]._asdict(), "GB/s": rate, "of a copy": rate / rates["device copy"]}
        for name, rate in rates.items()
    }


def machine(device: torch.device) -> dict[str, object]:
    """What the figures depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "backend": tip.available_backends(device)[0],
        "tip_kernels": tip.__version__,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }


def report_path(device: torch.device) -> pathlib.Path:
    """Where the figures of a device are written, in a folder that exists."""
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", str(machine(device)["device"]).lower()).strip("-")
    return RESULTS / f"{name}.json"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def print_model(name: str, model: dict) -> None:
    """The times and ratios of one model."""
    print(f"\n{name}: {model['parameters']:,} parameters, {model['selected_bytes'] / 8e6:.2f} M selected at 0.3")
    print(f"  {'':24}{'ms':>10}{'quartiles':>22}{'GB/s':>8}")
    for contestant, time in sorted(model["ms"].items(), key=lambda item: item[1]["median"]):
        quartiles = f"{time['lower']:.3f} .. {time['upper']:.3f}"
        print(f"  {contestant:24}{time['median']:10.3f}{quartiles:>22}{time['GB/s']:8.1f}")
    for ratio in model["ratios"]:
        print(f"  {ratio['what']:48}{ratio['ratio']:8.2f}  ({ratio['goal']})")


def print_overhead(calls: dict) -> None:
    """What a call costs when there is almost nothing to do."""
    print("\nA call for ResNet-50 with one channel in every tensor, microseconds")
    for name, items in calls.items():
        print(f"  {name + ':':24}" + ", ".join(f"{what} {value:.0f}" for what, value in items.items()))


def print_bandwidth(rows: dict) -> None:
    """Large tensors on a GPU."""
    print(f"\n1 GiB of selected 3x3 kernels\n  {'':24}{'ms':>10}{'GB/s':>8}{'of a copy':>11}")
    for name, row in rows.items():
        print(f"  {name:24}{row['median']:10.4f}{row['GB/s']:8.0f}{row['of a copy']:11.2f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ratios", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], choices=list(models.MODELS))
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile's baseline")
    return parser.parse_args()


if __name__ == "__main__":
    main()
