"""Which settings of TIP to use: the accuracy that is left when the strongest attacker gets no more than a target.

Every setting of the grid meets attackers that know it, on single photos, and trains a small net on handwritten digits.
Ratio 0 is plain Gaussian noise of the floor on everything, as a yardstick. Prints the settings that no other beats in
both, and writes tune.csv and tune.png in bench/privacy/results. A setting that is in the file is not measured again;
delete it to start anew.
"""

import argparse
import os
import pathlib

from tqdm import tqdm

from bench import paths
from bench.pages import publish
from bench.privacy.commands.options import numbers
from bench.privacy.study import ledger, tuning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target-psnr", type=float, default=13.0, help="dB that no attacker shall pass; default 13")
    parser.add_argument("--ratios", type=numbers, default="0,0.3,1", help="default %(default)s")
    parser.add_argument("--cutoffs", type=numbers, default="0.5,0.75", help="default %(default)s")
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
    effort = tuning.Effort(options.iterations, options.epochs)
    path = options.results / "tune.csv"
    settings = tuning.grid(options.ratios, options.cutoffs, options.stds, options.floors)
    rows = ledger.load(tuning.Row, path)
    todo = [setting for setting in settings if (setting, effort) not in {tuning.key(row) for row in rows}]
    for row in tqdm(
        ledger.work(tuning.measure, todo, effort, options.workers), total=len(todo), desc="tune", unit="setting"
    ):
        rows.append(row)
        tuning.save(rows, path)
    rows = [row for row in rows if row[: len(tuning.Setting._fields)] in settings and tuning.key(row)[1] == effort]
    tuning.draw(rows, options.target_psnr, path.with_suffix(".png"))
    text = f"{tuning.markdown(tuning.front(rows))}\n\n{tuning.advice(rows, options.target_psnr)}"
    if options.page:
        publish(options.page, "settings", text)
    print(f"{text}\n\nin {path} and {path.with_suffix('.png')}")
