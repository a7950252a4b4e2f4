"""What a call costs when there is almost nothing to do."""

import torch

import tip_kernels as tip
from bench.speed import models, timing
from tip_kernels._bench.parameters import Gradients, gradients
from tip_kernels._op.call import Options, prepare


def overhead(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Microseconds of a call for ResNet-50 with one channel in every tensor, by what they go into."""
    whole = models.one_channel(models.resnet50())
    found = {}
    for name, parameters in (("all 161", whole), ("the 53 convolutions", [p for p in whole if p.conv])):
        found[name] = _parts(gradients(parameters, device), device, repeats)
    return found


def _parts(grads: Gradients, device: torch.device, repeats: int) -> dict[str, float]:
    options = Options(ratio=0.3, std=1e-3, rng=tip.NoiseRNG())
    call = prepare(*grads, options)
    idle = prepare(*grads, options._replace(ratio=0.0))
    nothing = {name: [] for name, value in idle.arguments._asdict().items() if isinstance(value, list)}
    empty = idle._replace(arguments=idle.arguments._replace(**nothing))
    steps = {
        "whole call": lambda: tip.perturb_(*grads, ratio=options.ratio, std=options.std, rng=options.rng),
        "Python checks": lambda: prepare(*grads, options),
        "op": call.run,
        "op that selects nothing": idle.run,
        "op without tensors": empty.run,
    }
    quartiles = timing.interleaved(steps, device, max(repeats, 100), calls=10)
    times = {name: 1e3 * time.median for name, time in quartiles.items()}
    return {
        "whole call": times["whole call"],
        "Python checks": times["Python checks"],
        "dispatch": times["op without tensors"],
        "handing over tensors": times["op that selects nothing"] - times["op without tensors"],
        "planning and noise": times["op"] - times["op that selects nothing"],
    }


def print_overhead(calls: dict[str, dict[str, float]]) -> None:
    """A line for each list of tensors."""
    print("\nA call for ResNet-50 with one channel in every tensor, microseconds")
    for name, items in calls.items():
        print(f"  {name + ':':24}" + ", ".join(f"{what} {value:.0f}" for what, value in items.items()))
