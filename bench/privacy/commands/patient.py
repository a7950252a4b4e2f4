"""How much further attackers get with 25 times the work of the study, under noise on everything (an hour of CPU time).

Needs what the study has measured; goes on where it was stopped.
"""

import argparse
import os
import pathlib

from tqdm import tqdm

from bench import paths
from bench.pages import publish
from bench.privacy.commands.study import FULL, kept
from bench.privacy.study import ledger, patience
from bench.privacy.study.jobs import Place

MARK = "patience"
"""The name of the table's marks in a page."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=pathlib.Path, required=True, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10"
    )
    parser.add_argument("--device", default="cpu", help="of the attacks: cpu or cuda; the flow's stay on the CPU")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument("--page", type=pathlib.Path, help=f"Markdown file with marks '{MARK}' for the table")


def run(options: argparse.Namespace) -> None:
    study, path = kept(paths.PRIVACY_RESULTS), paths.PRIVACY_RESULTS / "patience.csv"
    asked = patience.questions(study.rows)
    kept_before = filter(patience.is_current, ledger.load(patience.Answer, path))
    answers = {answer[:3]: answer for answer in kept_before}
    todo = [question for question in asked if question[:3] not in answers]
    given = FULL, Place(options.device, options.data)
    with tqdm(total=len(todo), desc="patience", unit="line") as bar:
        for answer in ledger.work(patience.answer, todo, given, options.workers):
            answers[answer[:3]] = answer._replace(seconds=round(answer.seconds, 1))
            order = [answers[question[:3]] for question in asked if question[:3] in answers]
            ledger.save(patience.Answer._fields, order, path)
            bar.update()
    text = patience.markdown([answers[question[:3]] for question in asked], study.ceilings)
    if options.page:
        publish(options.page, MARK, text)
    print(text)
