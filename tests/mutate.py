"""Changes the Python sources one place at a time, and lists the changes that no test notices.

    python -m tests.mutate                           # every mutant
    python -m tests.mutate --sample 200 --seed 1     # some, drawn at random

Two processes took 14 s for each mutant when other work shared two cores (219 in 25 minutes), so all of them take hours.
Many survivors change nothing but speed, and must be looked at one by one.

tests/mutation.toml says what is changed and which tests must notice. Each process works in a copy of its own, in
build/mutation, where its session stays: ``cr-html`` and ``cosmic-ray dump`` read it. The Python that runs the tests is
the first on PATH.
"""

import argparse
import collections
import pathlib
import random
import shutil
import subprocess
import sys

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPIES = ROOT / "build" / "mutation"
NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
CONFIG = "tests/mutation.toml"
SESSION = "session.sqlite"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="number of mutants to draw, all if absent")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    shutil.rmtree(COPIES, ignore_errors=True)
    copies = [prepared_copy(job) for job in range(arguments.jobs)]
    _tool(copies[0], "cosmic-ray", "baseline", CONFIG).check_returncode()  # or every mutant would look noticed
    for job, copy in enumerate(copies):
        with use_db(copy / SESSION) as session:
            keep_share(session, arguments.sample, arguments.seed, job, arguments.jobs)
    running = [subprocess.Popen([_path_of("cosmic-ray"), "exec", CONFIG, SESSION], cwd=copy) for copy in copies]
    codes = [process.wait() for process in running]
    report([copy / SESSION for copy in copies])
    return int(any(codes))


def prepared_copy(job: int) -> pathlib.Path:
    """A copy of the tree with a session of all mutants."""
    copy = COPIES / str(job)
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    _tool(copy, "cosmic-ray", "init", CONFIG, SESSION).check_returncode()
    _tool(copy, "cr-filter-operators", SESSION, CONFIG).check_returncode()
    return copy


def keep_share(session: WorkDB, sample: int | None, seed: int, job: int, jobs: int) -> None:
    """Skips what is not drawn or belongs to another process."""
    pending = sorted(session.pending_work_items, key=_name)
    drawn = random.Random(seed).sample(pending, len(pending) if sample is None else sample)
    kept = {item.job_id for item in drawn[job::jobs]}
    skipped = [item.job_id for item in pending if item.job_id not in kept]
    session.set_multiple_results(skipped, WorkResult(output="not drawn", worker_outcome=WorkerOutcome.SKIPPED))


def report(sessions: list[pathlib.Path]) -> None:
    """Prints the mutants that survived and a count for each file."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for path in sessions:
        with use_db(path, WorkDB.Mode.open) as session:
            for item, result in sorted(session.completed_work_items, key=lambda done: _name(done[0])):
                if result.worker_outcome == WorkerOutcome.SKIPPED:
                    continue
                outcome = result.test_outcome.value if result.test_outcome else result.worker_outcome.value
                counts[str(item.mutations[0].module_path)][outcome] += 1
                if result.test_outcome != TestOutcome.KILLED:
                    print(f"\n{outcome}: {_name(item)}\n{result.diff}")
    print()
    for path, found in sorted(counts.items()):
        print(path, *(f"{outcome} {number}" for outcome, number in sorted(found.items())))


def _name(item: WorkItem) -> tuple[str, tuple[int, int], str, int]:
    mutation = item.mutations[0]
    return str(mutation.module_path), mutation.start_pos, mutation.operator_name, mutation.occurrence


def _tool(folder: pathlib.Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([_path_of(name), *arguments], cwd=folder)


def _path_of(tool: str) -> str:
    """A command of Cosmic Ray, which is installed beside this Python."""
    return str(pathlib.Path(sys.executable).with_name(tool))


if __name__ == "__main__":
    sys.exit(main())
