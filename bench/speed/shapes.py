"""What amplitudes cost: calls with a shape of the noise beside the same calls without, on one thread.

    python -m bench.speed.shapes [--repeats 60] [--only floor]

The modes of ``bench.speed.modes`` on 3x3 kernels in the second-level cache, then whole calls on ResNet-18 with its
Python. Two of a pair take turns. Printed is the ratio of the medians of the repeats and, in brackets, of the repeats
that a tenth of them beat. TIP_KERNELS_CPU chooses the instruction set.
"""

import argparse
import math
from collections.abc import Callable

import torch

import tip_kernels as tip
from bench.speed import models, modes, timing

STD = 1e-3
SETTINGS = {
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
    print("\n| call | ms | with amplitudes | ratio of medians, of lower quartiles |\n|---|---|---|---|")
    for name, (plain, shaped) in of_calls(given.repeats).items():
        ratio = f"{shaped.median / plain.median:.3f}, {shaped.lower / plain.lower:.3f}"
        print(f"| {name} | {plain.median:.2f} | {shaped.median:.2f} | {ratio} |")


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


def of_calls(repeats: int) -> dict[str, tuple[timing.Quartiles, timing.Quartiles]]:
    """Milliseconds of a call on ResNet-18, without and with amplitudes of every kernel that has a high band."""
    parameters = models.resnet18()
    shapes = [some_amplitudes(math.prod(p.shape[2:])) if math.prod(p.shape[2:]) > 1 else None for p in parameters]
    contestants = {}
    for name, settings in SETTINGS.items():
        contestants[name] = _call(parameters, settings)
        contestants[f"{name}, shaped"] = _call(parameters, {**settings, "amplitudes": shapes})
    times = timing.interleaved(contestants, torch.device("cpu"), repeats)
    return {name: (times[name], times[f"{name}, shaped"]) for name in SETTINGS}


def _call(parameters: list[models.Parameter], options: dict) -> Callable[[], None]:
    grads, rng = models.gradients(parameters), tip.NoiseRNG()
    return lambda: tip.perturb_(*grads, ratio=0.3, std=STD, rng=rng, **options)


if __name__ == "__main__":
    main()
