"""Processes that are the ranks of a gloo group on 127.0.0.1, and stay for many jobs, since each takes seconds to start.

A job is a function of a test file; it runs on every rank at once, and what it returns or raises comes back. Below are
what jobs have in common.
"""

import contextlib
import datetime
import hashlib
import traceback
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = 300  # seconds, of a collective that some rank does not take part in; a busy machine needs long to start


@contextlib.contextmanager
def ranks_on_loopback(size, tmp_path_factory):
    """``Ranks``, and their end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("OMP_NUM_THREADS", "1")
        found = Ranks(size, str(tmp_path_factory.mktemp("store")))
        yield found
        found.close()


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


def net(seed: int = 0) -> nn.Sequential:
    """Odd sizes: four ranks have 2, 2, 1 and 0 of five channels, or 1, 1, 1 and 0 of three."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.ConvTranspose2d(5, 3, 3), nn.Conv2d(3, 7, (1, 3))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(7 * 48, 4))
    torch.manual_seed(seed + 1000 * dist.get_rank())
    return model


def backward(model: nn.Module) -> None:
    images, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 3, 1])
    nn.functional.cross_entropy(model(images), labels).backward()


def raised(function, *args) -> str:
    """The error of a call that must fail."""
    try:
        function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")


def assert_equal_everywhere(tensors) -> None:
    digest = hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()
    digests = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    assert len(set(digests)) == 1


def gathered(value):
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def ddp(model, **settings) -> DistributedDataParallel:
    return DistributedDataParallel(model, bucket_cap_mb=0.0005, **settings)
