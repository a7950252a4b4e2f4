"""Lines that are measured once, in processes, and kept in a CSV file: what a stopped run need not measure again."""

import csv
import multiprocessing
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

Line = TypeVar("Line", bound=tuple)
Job, Effort = TypeVar("Job"), TypeVar("Effort")


class Figures(tuple[float, ...]):
    """Numbers in one field, apart by spaces; four digits of each are kept."""

    def __new__(cls, given: str | Iterable[float]) -> "Figures":
        numbers = given.split() if isinstance(given, str) else given
        return super().__new__(cls, (float(f"{float(number):.4g}") for number in numbers))

    def __str__(self) -> str:
        return " ".join(f"{number:g}" for number in self)


def load(kind: type[Line], path: pathlib.Path) -> list[Line]:
    """The lines of earlier runs, of a NamedTuple ``kind`` of strings, numbers and :class:`Figures`.

    Raises:
        ValueError: the file has other columns, as one of an older version.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        fields, *lines = csv.reader(file)
    if tuple(fields) != kind._fields:
        raise ValueError(f"expected {path} to have the columns {','.join(kind._fields)}, got {','.join(fields)}")
    types = kind.__annotations__.values()
    return [kind(*[read(value) for read, value in zip(types, line, strict=True)]) for line in lines]


def save(fields: Sequence[str], lines: Iterable[Sequence[Any]], path: pathlib.Path) -> None:
    """Whole or not at all, so that a stop at any time loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    with draft.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerows(lines)
    draft.replace(path)


def work(measure: Callable[[Job, Effort], Line], todo: list[Job], effort: Effort, workers: int) -> Iterator[Line]:
    """Measures the jobs in processes; yields lines as they are ready."""
    # Not forked: torch's threads do not survive it.
    pool = futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for done in futures.as_completed([pool.submit(measure, job, effort) for job in todo]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
