"""Which attacker gets how far against which defense, and what the defense costs in accuracy (make study).

Regenerates every table and figure of docs/privacy.md, and the README's table. What is in privacy.csv and accuracy.csv
of bench/privacy/results already is not run again; delete those files to start anew.
"""

import argparse
import os
import pathlib

from tqdm import tqdm

from bench import paths
from bench.privacy.study import attacks, jobs, ledger, report
from bench.privacy.study.jobs import Cost, Effort, Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--iterations", type=int, default=160, help="steps of one attack, a third of them by L-BFGS")
    parser.add_argument("--seeds", type=int, default=2, help="noise seeds a photo")
    parser.add_argument("--restarts", type=int, default=2, help="random starts of an attack")
    parser.add_argument("--epochs", type=int, default=20, help="of training for the accuracy")
    parser.add_argument(
        "--with-priors",
        action="store_true",
        help="the attackers with a prior of images, too",
    )
    parser.add_argument("--data", type=pathlib.Path, help="CIFAR-10, from which these learn what images are")
    parser.add_argument("--device", default="cpu", help="of the attacks: cpu or cuda")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument(
        "--results", type=pathlib.Path, default=paths.PRIVACY_RESULTS, help="folder for figures and data"
    )
    parser.add_argument(
        "--page", type=pathlib.Path, default=paths.PRIVACY_PAGE, help="Markdown file with marks for tables"
    )
    parser.add_argument("--readme", type=pathlib.Path, default=paths.README, help="the same, for the shortest table")


def run(options: argparse.Namespace) -> None:
    files = {Row: options.results / "privacy.csv", Cost: options.results / "accuracy.csv"}
    lines = {kind: ledger.load(kind, path) for kind, path in files.items()}
    done = {jobs.job_of(line) for kind in files for line in lines[kind]}
    left_out = () if options.with_priors else attacks.by_name()
    todo = [job for job in jobs.all_jobs() if job not in done and job.attacker not in left_out]
    effort = Effort(options.iterations, options.seeds, options.restarts, options.epochs, options.device, options.data)
    with tqdm(total=len(todo), desc="study", unit="line") as bar:
        for line in ledger.work(jobs.measure, todo, effort, options.workers):
            lines[type(line)].append(line)
            jobs.save(lines[type(line)], files[type(line)])
            bar.update()
    report.write(lines[Row], lines[Cost], options.results, options.page, options.readme)
