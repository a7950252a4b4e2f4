"""The normals of all 2^32 first and all 2^32 second words, and the statistics of 10^8 draws: ``make test-normals``.

    PYTHONPATH=. python tests/every_normal.py --page docs/noise.md

Both are done for every variant of the CPU library that this processor runs.
"""

import argparse
import json
import os
import pathlib
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple
from unittest import mock

import normal_statistics

from bench.pages import publish
from tip_kernels.rng import GENERATORS

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUANTITIES = ("radius", "cosine", "sine", "even", "odd")

WITHOUT_FMA = ("generic",)
"""Variants whose instruction set has no fused multiply-add."""


class Error(NamedTuple):
    """Of one quantity, in units of the radius."""

    count: int
    worst: float
    root_mean_square: float
    word: int
    second: int


# Largest errors over all words, as measured; a faulty coefficient shows in the mean square before it does in the worst.
WORST = {"radius": 1.35e-7, "cosine": 2.75e-7, "sine": 1.85e-7, "even": 3.8e-7, "odd": 3.8e-7}
ROOT_MEAN_SQUARE = {
    True: {"radius": 3.052e-8, "cosine": 4.304e-8, "sine": 3.208e-8},
    False: {"radius": 3.056e-8, "cosine": 4.478e-8, "sine": 3.366e-8},
}
"""By whether multiplications and additions are fused."""

MANY = 10**8
SLACK = 1.015  # a sample of four million words is within 0.2 %


def setup_globals() -> dict:
    """The names of setup.py, which sets nothing up here."""
    with mock.patch("setuptools.setup"):
        return runpy.run_path(str(ROOT / "setup.py"))


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def build(variant: str, folder: pathlib.Path, includes: Sequence[pathlib.Path] = ()) -> pathlib.Path:
    """The program of one variant with its flags of setup.py; what ``includes`` hold comes before the sources."""
    names = setup_globals()
    flags = [*names["FLAGS"], *names["CPU_VARIANTS"][variant], f"-DTIP_VARIANT={variant}", "-pthread"]
    paths = [f"-I{path}" for path in [*includes, ROOT / "csrc"]]
    target = folder / f"every_normal_{variant}"
    subprocess.run([str(compiler()), *flags, *paths, ROOT / "tests/every_normal.cpp", "-o", target], check=True)
    return target


def measure(program: pathlib.Path, stride: int, pairs: int, threads: int) -> tuple[dict[str, int], dict[str, Error]]:
    """Counts of what must not happen, and errors by quantity, over every ``stride``-th word."""
    output = subprocess.run([program, *map(str, (stride, pairs, threads))], check=True, capture_output=True, text=True)
    rows = [line.split() for line in output.stdout.splitlines()]
    counts = {row[0]: int(row[1]) for row in rows[:2]}
    errors = {row[0]: Error(int(row[1]), float(row[2]), float(row[3]), int(row[4]), int(row[5])) for row in rows[2:]}
    return counts, errors


def faults(variant: str, counts: dict[str, int], errors: dict[str, Error]) -> list[str]:
    """What is wrong with a measurement."""
    found = [f"{name}: {count} words" for name, count in counts.items() if count]
    found += [f"{q}: {errors[q].worst} at {errors[q].word}" for q in QUANTITIES if not errors[q].worst <= WORST[q]]
    for quantity, usual in ROOT_MEAN_SQUARE[variant not in WITHOUT_FMA].items():
        mean = errors[quantity].root_mean_square
        if not mean <= SLACK * usual:
            found.append(f"{quantity}: root mean square {mean}, usually {usual}")
    return [f"{variant}: {fault}" for fault in found]


def variants() -> list[str]:
    """The variants that this processor runs."""
    return [variant for variant in setup_globals()["CPU_VARIANTS"] if runs_here(variant)]


def runs_here(variant: str) -> bool:
    """Whether the library has the variant and this processor can run it."""
    code = "import torch, tip_kernels; print(torch.ops.tip_kernels.cpu_variant())"
    environment = {**os.environ, "TIP_KERNELS_CPU": variant}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return result.stdout.strip() == variant


def error_table(measured: dict[str, dict[str, Error]]) -> str:
    names = {
        "radius": "radius, relative", "cosine": "cosine", "sine": "sine",
        "even": "even normal / radius", "odd": "odd normal / radius",
    }  # fmt: skip
    rows = ["| variant | quantity | cases | worst error | at words | root mean square |", "|---|---|--:|--:|---|--:|"]
    for variant, errors in measured.items():
        for quantity, e in errors.items():
            where = f"{e.word}, {e.second}" if quantity in ("even", "odd") else str(e.word)
            name = names[quantity]
            rows.append(f"| {variant} | {name} | {e.count:,} | {e.worst:.3e} | {where} | {e.root_mean_square:.3e} |")
    return "\n".join(rows)


def draws(generator: str, variant: str, count: int, with_faults: bool) -> dict:
    """The report of normal_statistics.py, from a process of that variant."""
    command = [sys.executable, normal_statistics.__file__, generator, str(count), *["--faults"] * with_faults]
    environment = {**os.environ, "TIP_KERNELS_CPU": variant, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout)


def draw_table(reports: list[dict]) -> str:
    """Moments as multiples of their standard errors, distances, and the least p-value of all tests."""
    moments = " | ".join(f"m{k}" for k in range(1, 9))
    rows = [
        f"| generator | variant | {moments} | sqrt(n) D | A² | tests | rejected | least p |",
        "|---|---|" + "--:|" * 13,
    ]
    for r in reports:
        off = " | ".join(f"{errors:+.2f}" for errors in r["standard errors"])
        least = min(r["p"], key=r["p"].get)
        failed = sum(p < normal_statistics.REJECT for p in r["p"].values())
        rows.append(
            f"| {r['generator']} | {r['variant']} | {off} | {r['smirnov']:.2f} | {r['darling']:.2f} "
            f"| {len(r['p'])} | {failed} | {r['p'][least]:.2g} ({least}) |"
        )
    return "\n".join(rows)


def tail_table(reports: list[dict]) -> str:
    tails = list(reports[0]["tails"])
    rows = ["| generator | variant | " + " | ".join(tails) + " |", "|---|---|" + "--:|" * len(tails)]
    rows.append("| expected | | " + " | ".join(f"{reports[0]['tails'][t][1]:.4g}" for t in tails) + " |")
    for r in reports:
        counts = " | ".join(str(r["tails"][t][0]) for t in tails)
        rows.append(f"| {r['generator']} | {r['variant']} | {counts} |")
    return "\n".join(rows)


def wrong_draws(reports: list[dict]) -> list[str]:
    wrong = []
    for r in reports:
        who = f"{r['generator']} {r['variant']}"
        wrong += [f"{who}: {test}, p = {p}" for test, p in r["p"].items() if p < normal_statistics.REJECT]
        wrong += [f"{who} missed {fault}" for fault in r.get("missed", [])]
    return wrong


def check_words(variant: str, given: argparse.Namespace) -> tuple[list[str], dict[str, Error]]:
    """(faults, errors) of one variant."""
    with tempfile.TemporaryDirectory() as folder:
        program = build(variant, pathlib.Path(folder))
        counts, errors = measure(program, given.stride, given.pairs, given.threads)
    return faults(variant, counts, errors), errors


def all_draws(here: list[str], count: int) -> list[dict]:
    """The reports of every variant and generator; faults are planted once."""
    reports: list[dict] = []
    for variant in here:
        for generator in GENERATORS:
            with_faults = not reports and count >= MANY
            reports.append(draws(generator, variant, count, with_faults))
            print(generator, variant, reports[-1]["p"], file=sys.stderr, flush=True)
    return reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="1: every word; 0: none")
    parser.add_argument("--pairs", type=int, default=2**28)
    parser.add_argument("--draws", type=int, default=MANY, help="of each generator and variant; 0: none")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--page", type=pathlib.Path, help="a page whose tables between marks are replaced")
    given = parser.parse_args()
    if compiler() is None:
        sys.exit("expected a C++ compiler, got none")
    begin, here = time.monotonic(), variants()
    wrong: list[str] = []
    tables = {}
    if given.stride:
        errors = {}
        for variant in here:
            found, errors[variant] = check_words(variant, given)
            wrong += found
        tables["every word"] = error_table(errors)
    if given.draws:
        reports = all_draws(here, given.draws)
        wrong += wrong_draws(reports)
        tables.update(draws=draw_table(reports), tails=tail_table(reports))
    for name, text in tables.items():
        print(text, end="\n\n")
        if given.page:
            publish(given.page, name, text)
    print(f"{(time.monotonic() - begin) / 60:.0f} minutes, {platform.machine()}, variants {', '.join(here)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
