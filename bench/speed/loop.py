"""What TIP adds to a training step, item by item: ResNet-18, 32 images of 32x32 pixels, two threads.

    python -m bench.speed.loop [--repeats 60] [--threads 2] [--page docs/performance.md]

Loops with more and more of TIP take turns, a step at a time, each with a model of its own, in another order each time.
On a CPU all that TIP does, it does in its hooks on conv layers and in its call in the optimizer's step, so these are
timed in the steps themselves. The difference of whole steps, with TIP and without, is there as a check: its median over
the repeats still scatters by some per cent. 60 repeats are 370 steps, four minutes where a step takes 0.6 s.
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
from tip_kernels._bench.machine import device_name

BATCH, SIZE, CLASSES = 32, 32, 10
STD, FLOOR, NORM = 1e-3, 1e-4, 1.0
Batch = tuple[torch.Tensor, torch.Tensor]


class Item(NamedTuple):
    """A loop with TIP's settings, or None without it."""

    settings: dict[str, Any] | None = None
    attached: bool = True


ALONE = "training step alone"
ITEMS = {
    ALONE: Item(),
    "scores": Item({}, attached=False),
    "scores and noise": Item({}),
    "and clipping": Item({"max_grad_norm": NORM}),
    "and a floor": Item({"max_grad_norm": NORM, "floor_std": FLOOR}),
}
"""Each with one thing more than the one before."""
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
        self._call, self._hooks = Stopwatch(), Stopwatch()
        self._optimizer.register_step_pre_hook(lambda *_: self._call.start())  # ours are around those of a TIP
        self.protected = protect(model, self._optimizer)
        self._optimizer.register_step_pre_hook(lambda *_: self._call.stop())
        defense = getattr(self.protected, "defense", self.protected)
        if defense is not None:
            cam = defense._cam
            cam._on_output, cam._on_grad = self._hooks.around(cam._on_output), self._hooks.around(cam._on_grad)

    def step(self) -> "Figures":
        """Trains one step."""
        step = Stopwatch()
        step.start()
        self._optimizer.zero_grad()
        nn.functional.cross_entropy(self._model(self._images), self._labels).backward()
        self._optimizer.step()
        step.stop()
        return Figures(step.read(), self._hooks.read(), self._call.read())


class Stopwatch:
    """Adds up milliseconds."""

    def __init__(self) -> None:
        self._began, self._nanoseconds = 0, 0

    def start(self) -> None:
        self._began = time.perf_counter_ns()

    def stop(self) -> None:
        self._nanoseconds += time.perf_counter_ns() - self._began

    def read(self) -> float:
        """Those since the last reading."""
        milliseconds, self._nanoseconds = self._nanoseconds / 1e6, 0
        return milliseconds

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any) -> Any:
            self.start()
            try:
                return function(*args)
            finally:
                self.stop()

        return timed


class Figures(NamedTuple):
    """Milliseconds of a step, and in it of TIP's hooks on layers and of its call in the optimizer's step."""

    step: float
    hooks: float
    call: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=pathlib.Path, help="page that has the table")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(loops(lambda: resnet18(3), pathlib.Path(folder)), given.repeats)
    machine = device_name(torch.device("cpu"))
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


def measure(made: dict[str, Loop], repeats: int) -> dict[str, list[Figures]]:
    """Each repeat takes a step of every loop, in an order of its own; two steps before them warm up."""
    order = random.Random(0)
    for loop in made.values():
        loop.step()
        loop.step()
    figures: dict[str, list[Figures]] = {name: [] for name in made}
    for _ in range(repeats):
        for name in order.sample(list(made), len(made)):
            figures[name].append(made[name].step())
    return figures


def table(figures: dict[str, list[Figures]]) -> str:
    """In Markdown: medians, and per cent of the step alone."""
    others = [f.step for f in figures[ALONE]]
    alone = statistics.median(others)
    lines = ["| | step, ms | hooks, ms | the call, ms | together | steps differ by |", "|---|---|---|---|---|---|"]
    for name, each in figures.items():
        step, hooks, call = (statistics.median(kind) for kind in zip(*each, strict=True))
        cells = ["", "", "", ""]
        if name != ALONE:
            together = statistics.median(f.hooks + f.call for f in each)
            differ = statistics.median(f.step - other for f, other in zip(each, others, strict=True))
            cells = [f"{hooks:.1f}", f"{call:.1f}", f"{100 * together / alone:.1f} %", f"{100 * differ / alone:.1f} %"]
        lines.append(f"| {name} | {step:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
