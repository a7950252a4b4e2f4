"""python -m bench.speed.gpu: what a GPU has to show besides ratios: launches, synchronization, allocation, scaling.

Prints a table and adds it, as ``"gpu"``, to what ``bench.speed.ratios --device cuda`` wrote for this device.
"""

import argparse
import itertools
import subprocess

import torch
from torch.profiler import ProfilerActivity, profile

import tip_kernels as tip
from bench.speed import models, report, timing
from tip_kernels._bench.parameters import Parameter, count, gradients, selected

STD = 1e-3


def main() -> None:
    """Measures, prints and writes."""
    options = _options()
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    figures = {
        "driver": driver(),
        "resnet18": step_of(models.resnet18(), device, options.backend),
        "resnet18 with a floor": step_of(models.resnet18(), device, options.backend, floor_std=STD),
        "resnet18 clipped": step_of(models.resnet18(), device, options.backend, floor_std=STD, max_grad_norm=1.0),
        "replays": replays(device, options.backend),
        "resnet18 graph": graph_time(device, options.backend, options.repeats),
    }
    if torch.cuda.mem_get_info(device)[0] > 10 * 2**30:
        figures["unet"] = scaling(device, options.backend, options.repeats)
    print_figures(figures)
    report.save(device, {**report.load(device), "gpu": figures})


def driver() -> str:
    """Version of the NVIDIA driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]


def step_of(parameters: list[Parameter], device: torch.device, backend: str | None, **given: float) -> dict:
    """What one call after the first does: kernel launches, bytes allocated, host synchronizations (none, or an error).

    Raises:
        RuntimeError: the call waits for the device.
    """
    grads, rng = gradients(parameters, device), tip.NoiseRNG()

    def call() -> None:
        tip.perturb_(*grads, ratio=0.3, std=STD, rng=rng, backend=backend, **given)

    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    allocations = torch.cuda.memory_stats()["allocation.all.allocated"] - before
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    on_device = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return {"launches": len(on_device), "names": sorted({e.name for e in on_device}), "allocations": allocations}


def replays(device: torch.device, backend: str | None) -> dict:
    """Whether each replay of a captured graph draws new noise and advances the step."""
    rng = tip.NoiseRNG()
    grad = torch.zeros(64, 64, 3, 3, device=device)
    scores = torch.rand(64, device=device)
    replay = timing.as_graph(lambda: tip.perturb_([grad], [scores], ratio=1.0, std=1.0, rng=rng, backend=backend))
    before = rng.step
    noise = []
    for _ in range(3):
        grad.zero_()
        replay()
        noise.append(grad.clone())
    distinct = all(not torch.equal(a, b) for a, b in itertools.pairwise(noise))
    return {"steps of 3 replays": rng.step - before, "distinct": distinct}


def graph_time(device: torch.device, backend: str | None, repeats: int) -> dict:
    """Replay of ResNet-18 at ratio 0.3 against an empty list's launch plus a copy of the selected bytes."""
    grads, rng = gradients(models.resnet18(), device), tip.NoiseRNG()
    nothing = tip.NoiseRNG()
    nothing.state(device)
    source = torch.randn(selected(models.resnet18(), 0.3), device=device)
    target = torch.empty_like(source)
    contestants = {
        "tip": lambda: tip.perturb_(*grads, ratio=0.3, std=STD, rng=rng, backend=backend),
        "empty": lambda: tip.perturb_([], [], ratio=0.3, std=STD, rng=nothing, backend=backend),
        "copy": lambda: target.copy_(source),
    }
    graphs = {name: timing.as_graph(contestant) for name, contestant in contestants.items()}
    times = timing.interleaved(graphs, device, repeats)
    floor = times["empty"].median + times["copy"].median
    return {
        **{f"{name} us": 1e3 * time.median for name, time in times.items()},
        "tip over (empty + copy)": times["tip"].median / floor,
    }


def scaling(device: torch.device, backend: str | None, repeats: int) -> dict:
    """A U-Net of a billion parameters: time against selected bytes, launches and allocations of a call."""
    parameters = models.unet()
    rates = _rates(parameters, device, backend, max(2, repeats // 4))
    return {"parameters": count(parameters), **rates, **step_of(parameters, device, backend)}


def _rates(parameters: list[Parameter], device: torch.device, backend: str | None, repeats: int) -> dict:
    grads, rng = gradients(parameters, device), tip.NoiseRNG()

    def call(share: float):
        return lambda: tip.perturb_(*grads, ratio=share, std=STD, rng=rng, backend=backend)

    shares = (0.1, 0.3, 0.6, 1.0)
    times = timing.interleaved({str(share): call(share) for share in shares}, device, repeats)
    return {f"GB/s at {s}": 8 * selected(parameters, s) / times[str(s)].median / 1e6 for s in shares}


def print_figures(figures: dict) -> None:
    """Every figure on a line of its own."""
    for what, value in figures.items():
        if not isinstance(value, dict):
            print(f"{what}: {value}")
            continue
        print(f"\n{what}")
        for name, figure in value.items():
            print(f"  {name:32}{figure:.4g}" if isinstance(figure, float) else f"  {name:32}{figure}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.speed.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["cuda", "triton"], help="instead of the fastest")
    parser.add_argument("--repeats", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
