"""Which attacker gets how far against which defense, and what the defense costs in accuracy.

With --data on CIFAR-10: the tables and figures of docs/privacy.md and the README's table. Without, on a few photos that
come with scikit-learn, or with another effort than the default: prints the tables, and leaves its lines in build/study.
Lines that are in the files of its folder and that were measured with the same effort are not measured again, so a study
that was stopped goes on; delete those files to start anew.
"""

import argparse
import os
import pathlib

from tqdm import tqdm

from bench import paths
from bench.privacy.study import jobs, ledger, report, with_priors
from bench.privacy.study.jobs import Ceilings, Cost, Effort, Line, Place, Row
from bench.privacy.study.report import Study

FULL = Effort("cifar10", iterations=240, restarts=1, seeds=2)
"""Of the figures in docs/privacy.md and README."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument(
        "--iterations", type=int, default=FULL.iterations, help="steps of one attack; default %(default)s"
    )
    parser.add_argument("--restarts", type=int, default=FULL.restarts, help="starts of one attack; default %(default)s")
    parser.add_argument("--seeds", type=int, default=FULL.seeds, help="noise seeds an image; default %(default)s")
    parser.add_argument("--device", default="cpu", help="of the attacks: cpu or cuda; the flow's stay on the CPU")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, of one thread each")
    parser.add_argument("--results", type=pathlib.Path, help="folder for figures and data")
    parser.add_argument(
        "--page", type=pathlib.Path, default=paths.PRIVACY_PAGE, help="Markdown file with marks for tables"
    )
    parser.add_argument("--readme", type=pathlib.Path, default=paths.README, help="the same, for the shortest table")


def run(options: argparse.Namespace) -> None:
    lacking = with_priors.missing(options.data)
    if lacking:
        raise SystemExit("\n".join(dict.fromkeys(lacking.values())))
    tqdm.write("; ".join(with_priors.trained(options.data)))
    images = "photos" if options.data is None else "cifar10"
    effort = Effort(images, options.iterations, options.restarts, options.seeds)
    folder = options.results or (paths.PRIVACY_RESULTS if effort == FULL else paths.STUDY)
    study = measured(folder, effort, Place(options.device, options.data), options.workers)
    if effort == FULL:
        report.write(study, folder, options.page, options.readme)
    else:
        print("\n\n".join(f"{mark}\n\n{text}" for mark, text in report.tables(study).items()))


def measured(folder: pathlib.Path, effort: Effort, place: Place, workers: int) -> Study:
    """All lines of this effort; what is not in the folder's files is measured and added to them."""
    files = _files(folder)
    lines = {kind: ledger.load(kind, path) for kind, path in files.items()}
    done = {jobs.job_of(line) for kind in lines for line in lines[kind] if _is_of(line, effort)}
    todo = [job for job in [*jobs.attacks(), *jobs.trainings(), *jobs.ceilings()] if job not in done]
    with tqdm(total=len(todo), desc="study", unit="line") as bar:
        for line in ledger.work(jobs.measure, todo, (effort, place), workers):
            lines[type(line)].append(line)
            jobs.save(lines[type(line)], files[type(line)])
            bar.update()
    return Study(*[[line for line in lines[kind] if _is_of(line, effort)] for kind in files])


def kept(folder: pathlib.Path, effort: Effort = FULL) -> Study:
    """What the folder's files have of this effort; nothing is measured."""
    return Study(
        *[[line for line in ledger.load(kind, path) if _is_of(line, effort)] for kind, path in _files(folder).items()]
    )


def _files(folder: pathlib.Path) -> dict[type, pathlib.Path]:
    return {Row: folder / "privacy.csv", Cost: folder / "accuracy.csv", Ceilings: folder / "ceilings.csv"}


def _is_of(line: Line, effort: Effort) -> bool:
    """Ceilings and accuracies take no effort, and accuracies no folder."""
    if isinstance(line, Row):
        return line.effort() == effort
    return isinstance(line, Cost) or line.images == effort.images
