"""What a normal costs the CPU kernel by what a call asks for: a floor, ``keep``, a dtype, a layout; on one thread.

    python -m bench.speed.modes [--repeats 100] [--only floor]

Nanoseconds for each normal that the contract uses, of gradients in the second-level cache, and their ratio to those of
dense float32 3x3 kernels without a floor: of the medians of the repeats and, in brackets, of the repeat that a tenth of
them beat, since other programs only add time. Modes take turns, and a sample is so short that others seldom interrupt
it. What a call on one kernel takes is subtracted.
TIP_KERNELS_CPU chooses the instruction set.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import tip_kernels as tip

KERNELS = 1 << 13  # 3x3 kernels: 288 KiB of float32, 576 of float64
STD, MILLISECONDS = 1e-3, 0.2  # of a sample, at least


class Mode(NamedTuple):
    """``options`` of perturb_; ``words``: that the generator makes for each normal that is used."""

    options: dict[str, Any]
    normals: int  # of a 3x3 kernel, or of as many elements
    words: float
    dtype: torch.dtype = torch.float32
    ratio: float = 1.0
    flat: bool = False
    channels_last: bool = False

    def call(self, kernels: int) -> Callable[[], None]:
        """Perturbs so many kernels in place."""
        shape = (kernels * 9,) if self.flat else (-(-kernels // 512), min(kernels, 512), 3, 3)
        grad = torch.randn(shape).to(self.dtype)
        if self.channels_last:
            grad = grad.contiguous(memory_format=torch.channels_last)
        scores, rng = None if self.flat else torch.zeros(shape[0]), tip.NoiseRNG()
        return lambda: tip.perturb_([grad], [scores], ratio=self.ratio, std=STD, rng=rng, **self.options)


FLOOR, KEEP, BOTH = {"floor_std": STD}, {"keep": 0.5}, {"floor_std": STD, "keep": 0.5}
DENSE = "dense 3x3"
MODES = {
    DENSE: Mode({}, 8, 1.0),
    "bfloat16": Mode({}, 8, 1.0, torch.bfloat16),
    "channels_last": Mode({}, 8, 1.0, channels_last=True),
    "floor, selected channels": Mode(FLOOR, 9, 16 / 9),
    "floor, other channels": Mode(FLOOR, 9, 16 / 9, ratio=0.0),
    "floor, elements": Mode(FLOOR, 9, 1.0, flat=True),
    "floor, elements, bfloat16": Mode(FLOOR, 9, 1.0, torch.bfloat16, flat=True),
    "floor, channels_last": Mode(FLOOR, 9, 16 / 9, channels_last=True),
    "keep": Mode(KEEP, 8, 1.0),
    "keep, bfloat16": Mode(KEEP, 8, 1.0, torch.bfloat16),
    "keep, channels_last": Mode(KEEP, 8, 1.0, channels_last=True),
    "keep, floor": Mode(BOTH, 9, 16 / 9),
    "cutoff 0.75": Mode({"cutoff": 0.75}, 4, 1.0),
    "keep, cutoff 0.75": Mode({**KEEP, "cutoff": 0.75}, 4, 1.0),
    "float64": Mode({}, 8, 1.0, torch.float64),
    "float64, channels_last": Mode({}, 8, 1.0, torch.float64, channels_last=True),
    "float64, floor": Mode(FLOOR, 9, 16 / 9, torch.float64),
    "float64, floor, elements": Mode(FLOOR, 9, 1.0, torch.float64, flat=True),
    "float64, keep": Mode(KEEP, 8, 1.0, torch.float64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--only", default="", help="modes with this in their names, beside the dense one")
    given = parser.parse_args()
    modes = {name: mode for name, mode in MODES.items() if given.only in name or name == DENSE}
    torch.set_num_threads(1)
    print(f"{torch.ops.tip_kernels.cpu_variant()}, {given.repeats} repeats")
    print("| mode | words a normal | ns a normal | ratio |\n|---|---|---|---|")
    table = nanoseconds(modes, KERNELS, given.repeats)
    median_of_dense, tenth_of_dense = table[DENSE]
    for name, (median, tenth) in table.items():
        ratios = f"{median / median_of_dense:.2f} ({tenth / tenth_of_dense:.2f})"
        print(f"| {name} | {modes[name].words:.2f} | {median:.2f} ({tenth:.2f}) | {ratios} |")


def nanoseconds(modes: dict[str, Mode], kernels: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Of a normal in each mode: the median of the repeats, and that of which a tenth are below."""
    calls = {(name, count): mode.call(count) for name, mode in modes.items() for count in (kernels, 1)}
    turns = {key: max(1, round(MILLISECONDS / _milliseconds(call, 1))) for key, call in calls.items()}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            times[key].append(_milliseconds(call, turns[key]))

    def of_a_normal(name: str, of: Callable[[list[float]], float]) -> float:
        return (of(times[name, kernels]) - of(times[name, 1])) * 1e6 / (modes[name].normals * kernels)

    return {name: (of_a_normal(name, statistics.median), of_a_normal(name, _tenth)) for name in modes}


def _tenth(times: list[float]) -> float:
    return sorted(times)[len(times) // 10]


def _milliseconds(function: Callable[[], None], calls: int) -> float:
    """For one of so many calls in a row, after one that warms up."""
    function()
    start = time.perf_counter_ns()
    for _ in range(calls):
        function()
    return max(time.perf_counter_ns() - start, 1) / 1e6 / calls


if __name__ == "__main__":
    main()
