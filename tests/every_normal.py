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

from bench.privacy.report import publish
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
WORST = {"radius": 1.4e-7, "cosine": 2.7e-7, "sine": 1.9e-7, "even": 3.8e-7, "odd": 3.8e-7}
ROOT_MEAN_SQUARE = {
    True: {"radius": 3.0593e-8, "cosine": 4.3042e-8, "sine": 3.2101e-8},
    False: {"radius": 3.0627e-8, "cosine": 4.4770e-8, "sine": 3.3653e-8},
}
"""By whether multiplications and additions are fused."""

SLACK = 1.015


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
    return [variant for variant in setup_globals()["CPU_VARIANTS"] if _runs_here(variant)]


def _runs_here(variant: str) -> bool:
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
        off = " | ".join(f"{z:+.2f}" for _, z in r["moments"].values())
        least = min(r["p"], key=r["p"].get)
        failed = sum(p < normal_statistics.REJECT for p in r["p"].values())
        rows.append(
            f"| {r['generator']} | {r['variant']} | {off} | {r['sqrt(n) D']:.2f} | {r['A^2']:.2f} "
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="1: every word")
    parser.add_argument("--pairs", type=int, default=2**28)
    parser.add_argument("--draws", type=int, default=10**8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--page", type=pathlib.Path, help="a page whose tables between marks are replaced")
    given = parser.parse_args()
    if compiler() is None:
        sys.exit("expected a C++ compiler, got none")
    begin, here = time.monotonic(), variants()
    wrong, measured = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in here:
            program = build(variant, pathlib.Path(folder))
            counts, measured[variant] = measure(program, given.stride, given.pairs, given.threads)
            wrong += faults(variant, counts, measured[variant])
    tables = {"every word": error_table(measured)}
    print(tables["every word"], flush=True)
    if given.draws:
        reports = []
        for variant in here:
            for generator in GENERATORS:
                reports.append(draws(generator, variant, given.draws, with_faults=not reports and given.draws >= 10**8))
                print(reports[-1]["generator"], reports[-1]["variant"], reports[-1]["p"], flush=True)
        wrong += wrong_draws(reports)
        tables.update(draws=draw_table(reports), tails=tail_table(reports))
    for name, text in tables.items():
        print(text)
        if given.page:
            publish(given.page, name, text)
    print(f"{(time.monotonic() - begin) / 60:.0f} minutes, {platform.machine()}, variants {', '.join(here)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
