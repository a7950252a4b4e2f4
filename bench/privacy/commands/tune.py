"""Which settings of TIP to use: the accuracy that is left when no attacker can get more than a target.

Every setting of the grid is audited on single photos, and trains a small net on handwritten digits. Ratio 0 is plain
Gaussian noise of the floor on everything, as a yardstick. The settings that no other beats in both then meet attackers
that know them, to confirm it. Prints these, and writes tune.csv, tune_attacks.csv and tune.png in
bench/privacy/results. What is in the files is not measured again; delete them to start anew.
"""

import argparse
import os
import pathlib
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from bench import paths
from bench.pages import publish
from bench.privacy.commands.options import numbers
from bench.privacy.study import ledger, tuning
from bench.privacy.study.tuning import Setting

Line = TypeVar("Line", tuning.Row, tuning.Confirmed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target-psnr", type=float, default=13.0, help="dB for the ceiling; default %(default)s")
    parser.add_argument("--ratios", type=numbers, default="0,0.3,1", help="default %(default)s")
    parser.add_argument("--cutoffs", type=numbers, default="0.5", help="default %(default)s")
    parser.add_argument("--stds", type=numbers, default="0.1,0.4", help="default %(default)s")
    parser.add_argument("--floors", type=numbers, default="0,0.05,0.1,0.2", help="default %(default)s")
    parser.add_argument("--iterations", type=int, default=100, help="steps of one attack; default 100")
    parser.add_argument("--epochs", type=int, default=20, help="of training; default 20")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument(
        "--results", type=pathlib.Path, default=paths.PRIVACY_RESULTS, help="folder for figures and data"
    )
    parser.add_argument("--page", type=pathlib.Path, help="Markdown file with marks 'settings' for the table")


def run(options: argparse.Namespace) -> None:
    folder = options.results
    settings = tuning.grid(options.ratios, options.cutoffs, options.stds, options.floors)
    rows = measured(tuning.Row, tuning.measure, settings, options.epochs, folder / "tune.csv", options.workers)
    front = tuning.front(rows)
    attacked = [row.key()[0] for row in front]
    path = folder / "tune_attacks.csv"
    confirmed = measured(tuning.Confirmed, tuning.confirm, attacked, options.iterations, path, options.workers)
    tuning.draw(rows, confirmed, options.target_psnr, folder / "tune.png")
    text = f"{tuning.markdown(front, confirmed)}\n\n{tuning.advice(rows, options.target_psnr)}"
    if options.page:
        publish(options.page, "settings", text)
    print(f"{text}\n\nin {folder}")


def redraw(results: pathlib.Path, path: pathlib.Path) -> None:
    """The figure of the settings that are the defaults, from what the folder has of them; nothing is measured."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args([])
    settings = set(tuning.grid(options.ratios, options.cutoffs, options.stds, options.floors))
    rows = [row for row in ledger.load(tuning.Row, results / "tune.csv") if row.key()[0] in settings]
    rows = [row for row in rows if row.epochs == options.epochs]
    confirmed = ledger.load(tuning.Confirmed, results / "tune_attacks.csv")
    confirmed = [one for one in confirmed if one.iterations == options.iterations]
    tuning.draw(rows, confirmed, options.target_psnr, path)


def measured(
    kind: type[Line],
    measure: Callable[[Setting, int], Line],
    settings: list[Setting],
    effort: int,
    path: pathlib.Path,
    workers: int,
) -> list[Line]:
    """A line for each setting: from the file, or measured now and put there."""
    lines = ledger.load(kind, path)
    wanted = {(setting, effort) for setting in settings}
    todo = [setting for setting in settings if (setting, effort) not in {line.key() for line in lines}]
    for line in tqdm(ledger.work(measure, todo, effort, workers), total=len(todo), desc=path.stem, unit="setting"):
        lines.append(line)
        tuning.save(lines, path)
    return [line for line in lines if line.key() in wanted]
