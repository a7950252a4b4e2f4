"""What the examples of several ranks share: scikit-learn's digits, a small net, and two processes."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn import datasets
from torch import nn

EPOCHS, BATCH, RANKS = 5, 32, 2
TEST = 400  # the last images


def on_ranks(train: Callable[..., None], *args: Any) -> None:
    """Runs ``train(*args)`` on each rank: those of torchrun, or two new processes on this machine."""
    if "RANK" in os.environ:
        _run(None, train, args, "")
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    listener = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(_run, (train, args, f"127.0.0.1:{listener.port}"), nprocs=RANKS)


def _run(rank: int | None, train: Callable[..., None], args: tuple[Any, ...], address: str) -> None:
    torch.set_num_threads(1)
    if rank is None:
        dist.init_process_group("gloo")
    else:
        host, port = address.split(":")
        store = dist.TCPStore(host, int(port))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    train(*args)
    dist.destroy_process_group()


def net() -> nn.Sequential:
    """For images of 8x8 pixels."""
    first, second = nn.Conv2d(1, 10, 3, padding=1), nn.Conv2d(10, 20, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(320, 10))


def share_of_rank() -> tuple[torch.Tensor, torch.Tensor]:
    """The training images [N, 1, 8, 8] and labels [N] of this rank, as many as of any other."""
    images, labels = _digits()
    each = (len(labels) - TEST) // dist.get_world_size()
    own = slice(each * dist.get_rank(), each * (dist.get_rank() + 1))
    return images[own], labels[own]


def batches(count: int, epoch: int) -> Iterator[torch.Tensor]:
    """Indices of the batches of an epoch."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
    yield from order.split(BATCH)


def accuracy(model: nn.Module) -> float:
    """The share of the test images that the model tells."""
    images, labels = _digits()
    with torch.no_grad():
        return float((model(images[-TEST:]).argmax(1) == labels[-TEST:]).float().mean())


def are_equal(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all ranks have the same bits."""
    own = hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).digest()
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return len(set(found)) == 1


def say(text: str) -> None:
    """Prints on the first rank."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(labels)
