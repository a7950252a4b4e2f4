"""What a shape of the noise costs: calls with amplitudes beside the same calls without, on one thread.

    python -m bench.speed.shapes [--repeats 60] [--only floor]

The modes of ``bench.speed.modes`` on 3x3 kernels in the second-level cache, then whole calls with their Python, on
ResNet-18 and on kernels of 5x5, and with amplitudes the norm by their weights beside the plain one. Two of a pair take
turns. Printed is the ratio of the medians of the repeats and, in brackets, of the repeats
that a tenth of them beat. TIP_KERNELS_CPU chooses the instruction set.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch

import tip_kernels as tip
from bench.speed import models, modes, timing
from tip_kernels._bench.parameters import Parameter, gradients
from tip_kernels._bench.timing import Quartiles

STD = 1e-3
LARGER = [Parameter("5x5", (256, 128, 5, 5), conv=True)]
SETTINGS: dict[str, dict] = {
    "ratio 0.3": {},
    "ratio 0.3, floor": {"floor_std": STD},
    "ratio 0.3, floor, keep": {"floor_std": STD, "keep": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--only", default="", help="modes with this in their names")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{torch.ops.tip_kernels.cpu_variant()}, {given.repeats} repeats")
    print("| mode | ns a normal | with amplitudes | ratio |\n|---|---|---|---|")
    for name, (plain, shaped) in of_modes(given.only, given.repeats).items():
        ratio = f"{shaped[0] / plain[0]:.3f} ({shaped[1] / plain[1]:.3f})"
        print(f"| {name} | {plain[0]:.2f} ({plain[1]:.2f}) | {shaped[0]:.2f} ({shaped[1]:.2f}) | {ratio} |")
    calls = {
        "ResNet-18 | with amplitudes": of_calls(models.resnet18(), given.repeats),
        "5x5 kernels | with amplitudes": of_calls(LARGER, given.repeats),
        "ResNet-18, clipped, with amplitudes | by weights": of_norms(models.resnet18(), given.repeats),
        "5x5 kernels, clipped, with amplitudes | by weights": of_norms(LARGER, given.repeats),
    }
    for title, found in calls.items():
        print(f"\n| ms of a call: {title} | ratio of medians, of lower quartiles |\n|---|---|---|")
        for name, (plain, shaped) in found.items():
            ratio = f"{shaped.median / plain.median:.3f}, {shaped.lower / plain.lower:.3f}"
            print(f"| {name}: {plain.median:.2f} | {shaped.median:.2f} | {ratio} |")


def some_amplitudes(taps: int) -> tip.Amplitudes:
    """Different for each coefficient, around 1."""
    return tip.Amplitudes(tuple(1.5 - j / taps for j in range(taps)), tuple(0.5 + j / taps for j in range(taps)))


def of_modes(only: str, repeats: int) -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
    """Nanoseconds of a normal as ``modes.nanoseconds`` has them, without and with amplitudes."""
    found = {name: mode for name, mode in modes.MODES.items() if only in name and not mode.flat}
    pairs = {}
    for name, mode in found.items():
        pairs[name] = mode
        pairs[f"{name}, shaped"] = mode._replace(options={**mode.options, "amplitudes": [some_amplitudes(9)]})
    times = modes.nanoseconds(pairs, modes.KERNELS, repeats)
    return {name: (times[name], times[f"{name}, shaped"]) for name in found}


Pairs = dict[str, tuple[Quartiles, Quartiles]]
"""Milliseconds of two calls by the name of their settings."""


def of_calls(parameters: list[Parameter], repeats: int) -> Pairs:
    """Without and with amplitudes of every kernel that has a high band."""
    shaped = {"amplitudes": _for_kernels(parameters, some_amplitudes)}
    pairs = {name: (settings, {**settings, **shaped}) for name, settings in SETTINGS.items()}
    return _in_turns(parameters, pairs, repeats)


def of_norms(parameters: list[Parameter], repeats: int) -> Pairs:
    """With amplitudes and clipping: by the plain norm, and with weights of its coefficients."""
    weights = _for_kernels(parameters, lambda taps: some_amplitudes(taps).selected)
    by_norm = {"amplitudes": _for_kernels(parameters, some_amplitudes), "max_grad_norm": 1.0}
    by_weights = {**by_norm, "norm_weights": weights}
    pairs = {name: ({**settings, **by_norm}, {**settings, **by_weights}) for name, settings in SETTINGS.items()}
    return _in_turns(parameters, pairs, repeats)


def _for_kernels(parameters: list[Parameter], make: Callable[[int], Any]) -> list[Any]:
    """What is made for so many taps, for kernels with a high band; None for others."""
    taps = [math.prod(parameter.shape[2:]) for parameter in parameters]
    return [make(count) if count > 1 else None for count in taps]


def _in_turns(parameters: list[Parameter], pairs: dict[str, tuple[dict, dict]], repeats: int) -> Pairs:
    calls = {f"{name}, {n}": _call(parameters, pair[n]) for name, pair in pairs.items() for n in range(2)}
    times = timing.interleaved(calls, torch.device("cpu"), repeats)
    return {name: (times[f"{name}, 0"], times[f"{name}, 1"]) for name in pairs}


def _call(parameters: list[Parameter], options: dict) -> Callable[[], None]:
    grads, rng = gradients(parameters), tip.NoiseRNG()
    return lambda: tip.perturb_(*grads, ratio=0.3, std=STD, rng=rng, **options)


if __name__ == "__main__":
    main()
