"""Processes that are the ranks of a gloo group on 127.0.0.1, and stay for many jobs, since each takes seconds to start.

A job is a function of a test file; it runs on every rank at once, and what it returns or raises comes back.
"""

import datetime
import traceback
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 300  # seconds, of a collective that some rank does not take part in; a busy machine needs long to start


class Ranks:
    """``size`` processes; ``run`` gives a job to each of them, and starts new ones after a job that failed."""

    def __init__(self, size: int, folder: str) -> None:
        self._size = size
        self._folder = folder
        self._starts = 0
        self._ends: list[Any] = []
        self._processes: list[Any] = []

    def run(self, job: Any, *args: Any) -> list[Any]:
        """What the job returns on each rank; raises AssertionError with every traceback."""
        if not self._processes:
            self._start()
        for end in self._ends:
            end.send((job, args))
        results = [end.recv() if end.poll(2 * TIMEOUT) else (False, "no answer") for end in self._ends]
        failures = [f"rank {rank}: {value}" for rank, (is_fine, value) in enumerate(results) if not is_fine]
        if failures:
            self.close()
        assert not failures, "\n".join(failures)
        return [value for _, value in results]

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.kill()
            process.join()
        self._ends, self._processes = [], []

    def _start(self) -> None:
        self._starts += 1
        context = mp.get_context("spawn")
        pipes = [context.Pipe() for _ in range(self._size)]
        store = f"file://{self._folder}/{self._starts}"
        self._ends = [own for own, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, self._size, store, end), daemon=True)
            for rank, (_, end) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()


def _serve(rank: int, size: int, store: str, end: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=size, timeout=datetime.timedelta(seconds=TIMEOUT)
    )
    while True:
        job, args = end.recv()
        torch.manual_seed(rank)
        try:
            end.send((True, job(*args)))
        except BaseException:
            end.send((False, traceback.format_exc()))
