"""What TIP adds to a training step, item by item: ResNet-18, 32 images of 32x32 pixels, two threads.

    python -m bench.speed.loop [--repeats 60] [--threads 2] [--page docs/performance.md]

Loops with more and more of TIP take turns, a step at a time, each with a model of its own, in another order each time.
What an item adds is the median, over the repeats, of the difference between the steps with it and without, since what
disturbs the machine disturbs both. The noise's own call, which is what an attached TIP does in the optimizer's step, is
timed directly as well. 60 repeats are 370 steps, four minutes where a step takes 0.6 s.
"""

import argparse
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

import tip_kernels as tip
from bench import pages
from bench.privacy.nets import resnet18
from bench.speed import report

BATCH, SIZE, CLASSES = 32, 32, 10
STD, FLOOR, NORM = 1e-3, 1e-4, 1.0
Batch = tuple[torch.Tensor, torch.Tensor]


class Item(NamedTuple):
    """A loop with one thing more than the ``below``: TIP's settings, or None without it."""

    below: str | None
    settings: dict[str, Any] | None = None
    attached: bool = True


ALONE, LAST = "training step alone", "floor"
ITEMS = {
    ALONE: Item(None),
    "scores by hooks": Item(ALONE, {}, attached=False),
    "noise": Item("scores by hooks", {}),
    "clipping": Item("noise", {"max_grad_norm": NORM}),
    LAST: Item("clipping", {"max_grad_norm": NORM, "floor_std": FLOOR}),
}
PROTECTED = "protect(), with a budget in a file"


class Loop:
    """A model in training, and what TIP does to it.

    Args:
        model: in training mode; of its own.
        batch: what each step trains on.
        protect: attaches what is measured to the optimizer.
    """

    def __init__(self, model: nn.Module, batch: Batch, protect: Callable[[nn.Module, torch.optim.Optimizer], Any]):
        self._model = model
        self._images, self._labels = batch
        self._optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        self._began = 0
        self.calls: list[float] = []  # milliseconds between our two hooks, around those of a TIP
        self._optimizer.register_step_pre_hook(lambda *_: self._begin())
        self.protected = protect(model, self._optimizer)
        self._optimizer.register_step_pre_hook(lambda *_: self._end())

    def step(self) -> float:
        """Trains one step, and returns its milliseconds."""
        start = time.perf_counter_ns()
        self._optimizer.zero_grad()
        nn.functional.cross_entropy(self._model(self._images), self._labels).backward()
        self._optimizer.step()
        return (time.perf_counter_ns() - start) / 1e6

    def _begin(self) -> None:
        self._began = time.perf_counter_ns()

    def _end(self) -> None:
        self.calls.append((time.perf_counter_ns() - self._began) / 1e6)


class Figures(NamedTuple):
    """Of one loop, milliseconds: the steps, and the calls in them; in the order of the repeats."""

    steps: list[float]
    calls: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=pathlib.Path, help="page that has the table")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(loops(lambda: resnet18(3), pathlib.Path(folder)), given.repeats)
    machine = report.device_name(torch.device("cpu"))
    text = (
        f"{machine}, torch {torch.__version__}, {given.threads} threads, {given.repeats} repeats:\n\n{table(figures)}"
    )
    print(text)
    if given.page:
        pages.publish(given.page, "loop", text)


def loops(make: Callable[[], nn.Module], folder: pathlib.Path, channels: int = 3) -> dict[str, Loop]:
    """By name, one for each item, and one as ``protect`` makes it; budgets lie in the folder."""
    draw = torch.Generator().manual_seed(0)
    batch = torch.rand(BATCH, channels, SIZE, SIZE, generator=draw), torch.arange(BATCH) % CLASSES
    made = {name: Loop(make(), batch, attach_by(item)) for name, item in ITEMS.items()}
    target = {"epsilon": 8.0, "delta": 1e-3, "rounds": 10_000, "public": batch, "buffers": "withhold"}
    path = folder / "budget.json"
    made[PROTECTED] = Loop(make(), batch, lambda *parts: tip.protect(*parts, **target, path=path))
    return made


def attach_by(item: Item) -> Callable[[nn.Module, torch.optim.Optimizer], tip.TIP | None]:
    """What makes a TIP with the settings of an item, if it has some."""

    def attach(model: nn.Module, optimizer: torch.optim.Optimizer) -> tip.TIP | None:
        if item.settings is None:
            return None
        defense = tip.TIP(model, std=STD, **item.settings)
        if item.attached:
            defense.attach(optimizer)
        return defense

    return attach


def measure(made: dict[str, Loop], repeats: int) -> dict[str, Figures]:
    """Each repeat takes a step of every loop, in an order of its own; two steps before them warm up."""
    order = random.Random(0)
    for loop in made.values():
        loop.step()
        loop.step()
        loop.calls.clear()
    steps: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(repeats):
        for name in order.sample(list(made), len(made)):
            steps[name].append(made[name].step())
    return {name: Figures(steps[name], loop.calls) for name, loop in made.items()}


def table(figures: dict[str, Figures]) -> str:
    """In Markdown: what each item adds to a step, in per cent of the step alone."""
    alone = statistics.median(figures[ALONE].steps)
    lines = ["| | step, ms | adds | in all | the call, ms |", "|---|---|---|---|---|"]
    for name, (steps, calls) in figures.items():
        below = ITEMS[name].below if name in ITEMS else ALONE
        adds = in_all = call = ""
        if below is not None:
            in_all = f"{_median_difference(steps, figures[ALONE].steps) / alone:.1%}"
            call = f"{statistics.median(calls):.1f}"
            adds = f"{_median_difference(steps, figures[below].steps) / alone:.1%}" if name in ITEMS else ""
        lines.append(f"| {name} | {statistics.median(steps):.0f} | {adds} | {in_all} | {call} |".replace("%", " %"))
    return "\n".join(lines)


def _median_difference(steps: list[float], others: list[float]) -> float:
    return statistics.median(step - other for step, other in zip(steps, others, strict=True))


if __name__ == "__main__":
    main()
