"""What 32-bit words and the grid of released values leave of ideal Gaussian noise (a minute on any CPU)."""

import argparse
import math

import scipy.stats

from bench.privacy import rounding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--coordinates", type=int, default=11_689_512, help="of a message; by default ResNet-18's")


def run(options: argparse.Namespace) -> None:
    n = options.coordinates
    beyond = 2 * scipy.stats.norm.sf(rounding.TAIL)
    print(
        f"{n:,} coordinates; mass beyond {rounding.TAIL:.2f} std {beyond:.3g} a coordinate, {beyond * n:.3g} a message"
    )
    for multiplier in (1.0, 0.01):
        largest = 1 + rounding.TAIL * multiplier  # by C
        error = 4 * 2.0**-24 * largest
        growth = 2 * math.sqrt(n) * error
        print(f"noise multiplier {multiplier}: four float32 roundings {error:.3g} C; as a shift, C and {growth:.2%}")
        shift = 2 / multiplier / math.sqrt(n)
        for name, step in rounding.STEPS.items():
            pairs = rounding.excluded_pairs(step, shift, n)
            print(f"  step {name} std: {pairs:.3f} pairs a message exclude x', {1 - math.exp(-pairs):.1%} of messages")
    for name, step in rounding.STEPS.items():
        found = [rounding.chi_square_at_zero(step, offset) * n / 2 for offset in (0.0, 0.25, 0.5)]
        print(f"step {name} std, at zero: chi-square of a message {min(found):.2g} to {max(found):.2g}")
