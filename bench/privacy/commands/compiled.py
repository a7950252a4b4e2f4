"""Whether torch.compile pays for the attackers: a step of the MAP attacker, eager and compiled, in turns (a minute)."""

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable

import torch

from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.posterior import Posterior
from bench.privacy.study import scenes
from bench.privacy.study.attacks import gaussian
from bench.privacy.study.cases import cases
from bench.privacy.study.evaluate import released

Step = Callable[[], None]
DEFENSES = ("DP", "DP, batch norm", "DP, ResNet", "DP, batch of 16")
SEEDS = (1, 2)
"""Of the noise, and one start, as in the study."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--steps", type=int, default=20, help="of each; default %(default)s")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # as in the study
    torch.compiler.config.force_disable_caches = True  # each shape is compiled once in a study
    for name in DEFENSES:
        posterior, latents = _attack(name, options.data)
        eager, compiled = _step(posterior.loss, latents), _step(torch.compile(posterior.loss, dynamic=False), latents)
        eager()
        start = time.perf_counter()  # part of it is in other processes
        compiled()
        compiling = time.perf_counter() - start
        times: dict[str, list[float]] = {"eager": [], "compiled": []}
        for _ in range(options.steps):
            times["eager"].append(_seconds(eager))
            times["compiled"].append(_seconds(compiled))
        shown = ", ".join(f"{which} {1e3 * statistics.median(found):.1f} ms" for which, found in times.items())
        print(f"{name}, {len(latents)} candidates: {shown} of CPU time a step; compiling {compiling:.1f} s")


def _attack(name: str, data: pathlib.Path | None) -> tuple[Posterior, torch.Tensor]:
    """What the study's attackers climb for all its scored images and seeds, and random latents of them."""
    case = next(rows[name] for rows in cases().values() if name in rows)
    scene: scenes.Scene = case.scene(data)
    prior = gaussian(data, scene, ())
    releases = [released(scene, case.defense, batch, seed) for batch in scene.scored for seed in SEEDS]
    likelihood = Likelihood(scene.model, releases, batch_size=scene.batch_size)
    generator = torch.Generator().manual_seed(0)
    latents = torch.stack([prior.draw(scene.batch_size, generator) for _ in releases])
    return Posterior(likelihood, prior, hot=10.0), latents


def _step(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], latents: torch.Tensor) -> Step:
    """Computes the losses and their gradient."""
    level = torch.full((len(latents),), 0.05)

    def step() -> None:
        z = latents.clone().requires_grad_()
        loss(z, level).sum().backward()  # type: ignore[no-untyped-call]

    return step


def _seconds(step: Step) -> float:
    """Of CPU time."""
    start = time.process_time()
    step()
    return time.process_time() - start
