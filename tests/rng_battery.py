"""The Dieharder battery on the streams of every generator, and on bad generators that must fail it: ``make test-rng``.

    PYTHONPATH=. python tests/rng_battery.py --page docs/noise.md

Every test of every stream has a key of its own, fixed by a seed. A p-value below 1e-6 is a failure. One below 0.001 is
weak, as some are bound to be: then the test is run again with another key, and weak twice is a failure too. Good
generators have 732 p-values in a run, of which one would fail with a probability below 2e-3 if keys were random.

Where Dieharder makes one p-value of several by a Kolmogorov-Smirnov test, only small ones count: its statistic is too
small for few of them, which makes p-values near 1 of no meaning and the others too large.
"""

import argparse
import contextlib
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import word_streams

from bench.pages import publish
from tip_kernels.rng import GENERATORS

WORST = 1e-6
WEAK = 1e-3

TESTS = (
    "-d 0", "-d 1 -p 15", "-d 2 -p 10", "-d 3 -p 25", "-d 4 -p 60", "-d 8", "-d 9 -p 25", "-d 10 -p 50", "-d 11",
    "-d 12 -p 25", "-d 13 -p 15", "-d 15", "-d 16 -p 25", "-d 17 -p 2", "-d 100", "-d 101 -p 10", "-d 102 -p 10",
    "-d 200 -n 4 -p 25", "-d 200 -n 8 -p 5", "-d 201 -n 2 -p 50", "-d 201 -n 5 -p 20", "-d 202 -n 5 -p 30",
    "-d 203 -n 0", "-d 203 -n 15 -p 5", "-d 204 -p 100", "-d 205", "-d 206", "-d 208",
)  # fmt: skip
"""Options of Dieharder: its tests without those that it calls suspect or not to be used, the slow ones shortened."""


class Result(NamedTuple):
    """One p-value of Dieharder, from so many samples."""

    test: str
    samples: int
    p: float

    @property
    def chance(self) -> float:
        """The probability of something as bad."""
        return self.p if self.samples > 1 else 2 * min(self.p, 1 - self.p)

    @property
    def is_weak(self) -> bool:
        return self.chance < WEAK

    @property
    def has_failed(self) -> bool:
        return self.chance < WORST


class Outcome(NamedTuple):
    """One test of one stream: its p-values and, if one was weak, those of the second run."""

    generator: str
    stream: str
    first: list[Result]
    again: list[Result]

    @property
    def weak(self) -> list[Result]:
        return [result for result in self.first if result.is_weak]

    @property
    def failed(self) -> list[Result]:
        twice = [a for a, b in zip(self.first, self.again, strict=False) if a.is_weak and b.is_weak]
        return [r for r in [*self.first, *self.again] if r.has_failed] or twice


def dieharder(options: str, generator: str, stream: str, seed: int) -> list[Result]:
    """The p-values of one test on one stream, which this process draws while Dieharder reads it."""
    command = ["dieharder", "-g", "200", *options.split(), "-c", ","]
    for field in ("test_name", "ntuple", "psamples", "pvalues"):
        command += ["-D", field]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with contextlib.suppress(BrokenPipeError):  # Dieharder has read enough
            for words in word_streams.stream(generator, stream, seed):
                process.stdin.write(words.data)
        lines = [line.split(",") for line in process.stdout.read().decode().splitlines() if not line.startswith("#")]
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if process.returncode != 0 or not lines:
        raise RuntimeError(f"expected p-values of dieharder {options}, got exit status {process.returncode}")
    return [Result(f"{name.strip()} {ntuple.strip()}", int(count), float(p)) for name, ntuple, count, p in lines]


def outcome(job: tuple[int, str, str, str]) -> Outcome:
    seed, options, generator, stream = job
    first = dieharder(options, generator, stream, seed)
    planted = generator in word_streams.PLANTED
    again = (
        dieharder(options, generator, stream, seed + 10_000) if any(r.is_weak for r in first) and not planted else []
    )
    found = Outcome(generator, stream, first, again)
    print(f"{generator:12} {stream:10} {options:20} {verdict(found)}", file=sys.stderr, flush=True)
    return found


def verdict(found: Outcome) -> str:
    if found.failed:
        return "FAILED " + ", ".join(f"{r.test}: p = {r.p}" for r in found.failed)
    return "weak once" if found.weak else "passed"


def jobs(wanted: list[str]) -> list[tuple[int, str, str, str]]:
    pairs = [(generator, stream) for generator in wanted for stream in word_streams.STREAMS]
    pairs += [(bad, stream) for bad, (_, stream) in word_streams.PLANTED.items()]
    work = [(options, *pair) for pair in pairs for options in TESTS]
    return [(seed, *rest) for seed, rest in enumerate(work, 1)]


def table(outcomes: list[Outcome]) -> str:
    rows = [
        "| generator | stream | p-values | weak, then passed | failed | smallest chance |",
        "|---|---|--:|--:|--:|---|",
    ]
    by_pair: dict[tuple[str, str], list[Outcome]] = {}
    for found in outcomes:
        by_pair.setdefault((found.generator, found.stream), []).append(found)
    for (generator, stream), group in by_pair.items():
        results = [result for found in group for result in found.first]
        failed = sum(len(found.failed) for found in group)
        weak = 0 if generator in word_streams.PLANTED else sum(len(f.weak) for f in group if not f.failed)
        least = min(result.chance for result in results)
        rows.append(f"| {generator} | {stream} | {len(results)} | {weak} | {failed} | {least:.2g} |")
    return "\n".join(rows)


def weak_ones(outcomes: list[Outcome]) -> str:
    """What was weak, with the p-value of the second run."""
    if not any(found.again for found in outcomes):
        return "No p-value of a good generator was weak."
    rows = ["| generator | stream | test | p | p with another key |", "|---|---|---|--:|--:|"]
    for found in outcomes:
        for first, again in zip(found.first, found.again, strict=False):
            if first.is_weak:
                rows.append(f"| {found.generator} | {found.stream} | {first.test} | {first.p:.2g} | {again.p:.2g} |")
    return "\n".join(rows)


def wrong(outcomes: list[Outcome]) -> list[str]:
    """Reasons why the run as a whole has failed: a good generator that failed, or a bad one that passed."""
    reasons = [f"{f.generator} {f.stream}: {verdict(f)}" for f in outcomes if f.failed and f.generator in GENERATORS]
    for bad in word_streams.PLANTED:
        if not any(found.failed for found in outcomes if found.generator == bad):
            reasons.append(f"{bad} was not found out")
    return reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("generators", nargs="*", choices=[*GENERATORS, []], help="all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=pathlib.Path, help="a file for every p-value, JSON")
    parser.add_argument("--page", type=pathlib.Path, help="a page whose tables between marks are replaced")
    given = parser.parse_args()
    if shutil.which("dieharder") is None:
        sys.exit(
            "expected dieharder to be installed (Debian and Ubuntu: apt-get install dieharder), got no such program"
        )
    torch.set_num_threads(1)
    begin = time.monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        outcomes = list(pool.map(outcome, jobs(given.generators or list(GENERATORS))))
    took = f"{(time.monotonic() - begin) / 60:.0f} minutes, {given.jobs} jobs at a time"
    if given.results:
        given.results.write_text(json.dumps(outcomes, indent=0))
    report = {"battery": table(outcomes), "weak": weak_ones(outcomes)}
    for name, text in report.items():
        print(text)
        if given.page:
            publish(given.page, name, text)
    print(f"{took}, {platform.machine()}, variant {torch.ops.tip_kernels.cpu_variant()}")
    if reasons := wrong(outcomes):
        sys.exit("\n".join(reasons))


if __name__ == "__main__":
    main()
