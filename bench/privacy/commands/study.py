"""Which attacker gets how far against which defense, and what the defense costs in accuracy.

With --data on CIFAR-10: the tables and figures of docs/privacy.md and the README's table. Without, on a few photos that
come with scikit-learn: prints the tables, and leaves its lines in build/study. Lines that are in privacy.csv and
accuracy.csv of its folder and that were measured with the same effort are not measured again, so a study that was
stopped goes on; delete those files to start anew.
"""

import argparse
import os
import pathlib

from tqdm import tqdm

from bench import paths
from bench.privacy.study import jobs, ledger, report, with_priors
from bench.privacy.study.jobs import Cost, Effort, Place, Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--iterations", type=int, default=240, help="steps of one attack; default %(default)s")
    parser.add_argument("--restarts", type=int, default=1, help="starts of one attack; default %(default)s")
    parser.add_argument("--seeds", type=int, default=2, help="noise seeds an image; default %(default)s")
    parser.add_argument("--device", default="cpu", help="of the attacks: cpu or cuda")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument("--results", type=pathlib.Path, help="folder for figures and data")
    parser.add_argument(
        "--page", type=pathlib.Path, default=paths.PRIVACY_PAGE, help="Markdown file with marks for tables"
    )
    parser.add_argument("--readme", type=pathlib.Path, default=paths.README, help="the same, for the shortest table")


def run(options: argparse.Namespace) -> None:
    lacking = with_priors.missing(options.data)
    if lacking:
        commands = "\n    ".join(dict.fromkeys(lacking.values()))
        raise SystemExit(f"expected trained weights for {'; '.join(lacking)}, got none: make them by\n    {commands}")
    images = "photos" if options.data is None else "cifar10"
    effort = Effort(images, options.iterations, options.restarts, options.seeds)
    folder = options.results or (paths.STUDY if options.data is None else paths.PRIVACY_RESULTS)
    rows, costs = measured(folder, effort, Place(options.device, options.data), options.workers)
    if options.data is None:
        print("\n\n".join(f"{mark}\n\n{text}" for mark, text in report.tables(rows, costs).items()))
    else:
        report.write(rows, costs, folder, options.page, options.readme)


def measured(folder: pathlib.Path, effort: Effort, place: Place, workers: int) -> tuple[list[Row], list[Cost]]:
    """All lines of this effort; what is not in the folder's files is measured and added to them."""
    files = {Row: folder / "privacy.csv", Cost: folder / "accuracy.csv"}
    lines = {kind: ledger.load(kind, path) for kind, path in files.items()}
    done = {jobs.job_of(row) for row in lines[Row] if row.effort() == effort} | {*map(jobs.job_of, lines[Cost])}
    todo = [job for job in [*jobs.attacks(), *jobs.trainings()] if job not in done]
    with tqdm(total=len(todo), desc="study", unit="line") as bar:
        for line in ledger.work(jobs.measure, todo, (effort, place), workers):
            lines[type(line)].append(line)
            jobs.save(lines[type(line)], files[type(line)])
            bar.update()
    return [row for row in lines[Row] if row.effort() == effort], lines[Cost]
