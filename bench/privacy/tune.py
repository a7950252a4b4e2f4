"""Which settings of TIP to use: the accuracy that is left when the strongest attacker gets no more than a target.

Every setting of the grid meets attackers that know it, on single photos, and trains a small net on handwritten digits.
Ratio 0 is plain Gaussian noise of the floor on everything, as a yardstick. Prints the settings that no other beats in
both, and writes bench/results/tune.csv and tune.png. A setting that is in the file is not measured again; delete it to
start anew.
"""

import argparse
import itertools
import os
import pathlib
import time
from typing import NamedTuple

import matplotlib
import torch
from tqdm import tqdm

from bench.privacy import attackers, attacks, defenses, evaluate, ledger, report

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ATTACKERS = {
    "naive": attackers.naive,
    "oracle mask": attackers.oracle_mask,
    "spectral": attackers.spectral,
    "whitened": attackers.whitened,
}


class Setting(NamedTuple):
    """Of TIP, in units of the clipping norm; ratio 0 has noise of ``floor_std`` only."""

    ratio: float
    cutoff: float
    std: float
    floor_std: float


class Effort(NamedTuple):
    """How hard the attackers try, and how long the net learns."""

    iterations: int
    epochs: int


class Row(NamedTuple):
    """A setting, its strongest attacker with its median PSNR in dB, accuracy in percent, and seconds of CPU time."""

    ratio: float
    cutoff: float
    std: float
    floor_std: float
    iterations: int
    epochs: int
    attacker: str
    psnr: float
    accuracy: float
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target-psnr", type=float, default=15.0, help="dB that no attacker shall pass; default 15")
    parser.add_argument("--ratios", type=_numbers, default="0,0.3,1", help="default %(default)s")
    parser.add_argument("--cutoffs", type=_numbers, default="0.5,0.75", help="default %(default)s")
    parser.add_argument("--stds", type=_numbers, default="0.02,0.05", help="default %(default)s")
    parser.add_argument("--floors", type=_numbers, default="0,0.005,0.01,0.02", help="default %(default)s")
    parser.add_argument("--iterations", type=int, default=100, help="steps of one attack; default 100")
    parser.add_argument("--epochs", type=int, default=20, help="of training; default 20")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument("--results", type=pathlib.Path, default=report.RESULTS, help="folder; default %(default)s")
    parser.add_argument("--page", type=pathlib.Path, help="Markdown file with marks 'settings' for the table")


def run(options: argparse.Namespace) -> None:
    effort = Effort(options.iterations, options.epochs)
    path = options.results / "tune.csv"
    settings = grid(options.ratios, options.cutoffs, options.stds, options.floors)
    rows = ledger.load(Row, path)
    todo = [setting for setting in settings if (setting, effort) not in {_key(row) for row in rows}]
    for row in tqdm(ledger.work(measure, todo, effort, options.workers), total=len(todo), desc="tune", unit="setting"):
        rows.append(row)
        save(rows, path)
    rows = [row for row in rows if row[: len(Setting._fields)] in settings and _key(row)[1] == effort]
    draw(rows, options.target_psnr, path.with_suffix(".png"))
    text = f"{markdown(front(rows))}\n\n{advice(rows, options.target_psnr)}"
    if options.page:
        report.publish(options.page, "settings", text)
    print(f"{text}\n\nin {path} and {path.with_suffix('.png')}")


def grid(ratios: list[float], cutoffs: list[float], stds: list[float], floors: list[float]) -> list[Setting]:
    """Every combination that differs: without selected channels there is neither a cutoff nor a std."""
    every = itertools.product(ratios, cutoffs, stds, floors)
    return list(dict.fromkeys(Setting(r, c, s, f) if r else Setting(0.0, 0.0, 0.0, f) for r, c, s, f in every))


def measure(setting: Setting, effort: Effort) -> Row:
    """One row."""
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores
    start = time.process_time()
    defence = defenses.targeted(setting.ratio, setting.std, setting.floor_std, setting.cutoff)
    if not setting.ratio:
        defence = defenses.gaussian(setting.floor_std)
    search = attacks.Search(iterations=effort.iterations)
    psnr = {
        name: evaluate.attack(evaluate.one_image(), defence, attacker, search).psnr_median
        for name, attacker in ATTACKERS.items()
    }
    strongest = max(psnr, key=psnr.__getitem__)
    accuracy = evaluate.accuracy(defence, effort.epochs)
    return Row(*setting, *effort, strongest, psnr[strongest], accuracy, time.process_time() - start)


def front(rows: list[Row]) -> list[Row]:
    """The rows that no other beats in PSNR and accuracy, from the most private on."""

    def beats(other: Row, row: Row) -> bool:
        no_worse = other.psnr <= row.psnr and other.accuracy >= row.accuracy
        return no_worse and (other.psnr, other.accuracy) != (row.psnr, row.accuracy)

    return sorted((row for row in rows if not any(beats(other, row) for other in rows)), key=lambda row: row.psnr)


def advice(rows: list[Row], target: float) -> str:
    """The setting with the best accuracy of those that hold the target, in a sentence."""
    held = [row for row in rows if row.psnr <= target]
    if not held:
        closest = min(rows, key=lambda row: row.psnr)
        return f"No setting holds {target:g} dB. The closest: {_text(closest)}, {closest.psnr:.1f} dB."
    best = max(held, key=lambda row: (row.accuracy, -row.psnr))
    return f"For {target:g} dB: {_text(best)}, with {best.accuracy:.1f} % accuracy at {best.psnr:.1f} dB."


def markdown(rows: list[Row]) -> str:
    lines = ["| setting | worst attacker | | accuracy |", "|---|---|---|---|"]
    lines += [f"| {_text(row)} | {row.psnr:.1f} dB | {row.attacker} | {row.accuracy:.1f} % |" for row in rows]
    return "\n".join(lines)


def draw(rows: list[Row], target: float, path: pathlib.Path) -> None:
    """Accuracy over PSNR, with the front and the target."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for ratio in sorted({row.ratio for row in rows}):
        points = [(row.psnr, row.accuracy) for row in rows if row.ratio == ratio]
        axis.plot(*zip(*points, strict=True), "o", label=f"TIP {ratio:g}" if ratio else "noise on everything")
    best = front(rows)
    axis.plot([row.psnr for row in best], [row.accuracy for row in best], "k-", linewidth=0.8, label="best")
    axis.axvline(target, color="grey", linestyle=":", label="target")
    axis.set_xlabel("PSNR of the strongest attacker in dB (less is more private)")
    axis.set_ylabel("accuracy on digits in %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=150, metadata={"Description": "python -m bench.privacy tune"})
    plt.close(figure)


def save(rows: list[Row], path: pathlib.Path) -> None:
    """In the order of the settings."""
    ledger.save(Row._fields, ([round(x, 4) if isinstance(x, float) else x for x in row] for row in sorted(rows)), path)


def _key(row: Row) -> tuple[Setting, Effort]:
    return Setting(*row[:4]), Effort(*row[4:6])


def _text(row: Row) -> str:
    if not row.ratio:
        return f"noise of {row.floor_std:g} on everything"
    return f"TIP ratio {row.ratio:g}, cutoff {row.cutoff:g}, std {row.std:g}, floor {row.floor_std:g}"


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
