"""What became slower between two runs that ``make bench-save`` has kept, by commit.

    python -m bench.speed.compare [OLD NEW] [--threshold 10]

The runs are files in .benchmarks/; without any, the two newest ones. A benchmark counts as slower, or faster, if both
its least time and its lower quartile have changed by more than so many percent: other programs only add to times, most
to the long ones. What differs between the machines of the two runs is said, and how fast memory was in each. Exit
codes: 0, 1 if something became slower, 2 if there are no such runs.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench import paths


class Change(NamedTuple):
    """Of one benchmark: new times by old ones, and medians in milliseconds."""

    name: str
    least: float
    lower: float
    old_ms: float
    new_ms: float

    def verdict(self, threshold: float) -> str:
        """``slower``, ``faster`` or ``same``, for a threshold in percent."""
        limit = limit_of(threshold)
        if min(self.least, self.lower) > limit:
            return "slower"
        return "faster" if max(self.least, self.lower) < 1 / limit else "same"


def limit_of(threshold: float) -> float:
    """The ratio that so many percent more are."""
    return 1 + threshold / 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints, and returns the exit code."""
    options = _options(arguments)
    try:
        old, new = (_load(path) for path in options.runs or newest(paths.ROOT / ".benchmarks"))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"old: {_title(old)}\nnew: {_title(new)}")
    for name, (before, after) in differences(old, new).items():
        print(f"note: {name} differs: {before}, now {after}")
    if not 1 / limit_of(options.threshold) < (ratio := _copy_rate(old) / _copy_rate(new)) < limit_of(options.threshold):
        print(f"note: a copy of memory took {ratio:.2f} times as long: the machine was not as free in both runs")
    found = changes(old, new)
    verdicts = {change: change.verdict(options.threshold) for change in found}
    print(f"\n  {'':64}{'old ms':>10}{'new ms':>10}{'least':>8}{'quartile':>10}")
    for verdict in ("slower", "faster", "same"):
        for change in (change for change in found if verdicts[change] == verdict):
            figures = f"{change.old_ms:10.3f}{change.new_ms:10.3f}{change.least:8.2f}{change.lower:10.2f}"
            print(f"  {change.name:64}{figures}  {'' if verdict == 'same' else verdict}")
    for name in sorted({*_by_name(old)} ^ {*_by_name(new)}):
        print(f"  {name:64}only in the {'old' if name in _by_name(old) else 'new'} run")
    slower = sum(verdict == "slower" for verdict in verdicts.values())
    print(f"\n{slower} of {len(found)} became slower by more than {options.threshold:g} %")
    return 1 if slower else 0


def newest(folder: pathlib.Path) -> list[pathlib.Path]:
    """The two newest runs, the older one first.

    Raises:
        ValueError: there are fewer.
    """
    runs = sorted(folder.rglob("*.json"), key=lambda path: json.loads(path.read_text())["datetime"])
    if len(runs) < 2:
        raise ValueError(f"expected two runs in {folder}, got {len(runs)}: make bench-save keeps one")
    return runs[-2:]


def changes(old: dict, new: dict) -> list[Change]:
    """Of the benchmarks that both runs have, in the new one's order."""
    before = _by_name(old)
    return [
        Change(name, now["min"] / then["min"], now["q1"] / then["q1"], 1e3 * then["median"], 1e3 * now["median"])
        for name, now in _by_name(new).items()
        if (then := before.get(name)) is not None
    ]


def differences(old: dict, new: dict) -> dict[str, tuple[Any, Any]]:
    """What figures depend on and is not the same in both runs, by name."""
    before, after = (run["machine_info"].get("tip_kernels", {}) for run in (old, new))
    return {n: (before.get(n), after.get(n)) for n in [*after, *before] if before.get(n) != after.get(n)}


def _by_name(run: dict) -> dict[str, dict[str, float]]:
    return {each["name"].removeprefix("test_"): each["stats"] for each in run["benchmarks"]}


def _title(run: dict) -> str:
    commit = run["commit_info"]
    changed = " with uncommitted changes" if commit.get("dirty") else ""
    return f"{commit['id'][:12]}{changed}, {run['datetime'][:16]}, a copy of memory {_copy_rate(run):.1f} GB/s"


def _copy_rate(run: dict) -> float:
    rate: float = run["benchmarks"][0]["extra_info"]["copy GB/s"]
    return rate


def _load(path: pathlib.Path) -> dict:
    run = json.loads(path.read_text())
    if not (isinstance(run, dict) and run.get("benchmarks") and "copy GB/s" in run["benchmarks"][0]["extra_info"]):
        raise ValueError(f"expected a run of bench_perturb.py as make bench-save keeps it, got {path}")
    return run


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.speed.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=pathlib.Path, metavar="FILE", help="the old run and the new one")
    parser.add_argument("--threshold", type=float, default=10.0, help="percent; default %(default)g")
    options = parser.parse_args(arguments)
    if len(options.runs) not in (0, 2):
        parser.error(f"expected two runs or none, got {len(options.runs)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
