"""Every figure of the README and docs/, drawn anew: ``make figures``, or ``python -m bench.figures``.

Those of measurements are drawn from the files in bench/privacy/results, without measuring anything.
"""

import argparse
import pathlib
from collections.abc import Callable
from functools import cache, partial

import torch
from tqdm import tqdm

import tip_kernels as tip
from bench import paths
from bench.privacy import figures, images, nets
from bench.privacy.client.one_kernel import one_kernel
from bench.privacy.commands import pictures, study, tune
from bench.privacy.federated import curves
from bench.privacy.study import by_defense, report, tradeoff
from bench.privacy.study.report import Study
from tip_kernels import viz

SETTINGS = {"ratio": 0.3, "std": 0.02, "max_grad_norm": 1.0}
"""Of the TIP in figures of docs/design.md: that of docs/privacy.md's first table, without a floor."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__)
    parser.add_argument(
        "--root", type=pathlib.Path, default=paths.ROOT, help="folder for them; default: this project's"
    )
    root = parser.parse_args(arguments).root
    for name, draw in tqdm(FIGURES.items(), desc="figures", unit="figure"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw(root / name)


@cache
def _study() -> Study:
    return study.kept(paths.PRIVACY_RESULTS)


def privacy(path: pathlib.Path) -> None:
    """docs/privacy.md: defenses with noise of the same energy."""
    figures.save(by_defense.draw(_study().rows, _study().costs), path)


def noise_and_accuracy(path: pathlib.Path) -> None:
    """README and docs/privacy.md: what noise on everything buys and costs."""
    figures.save(tradeoff.draw(report.points_of(_study().rows, paths.PRIVACY_RESULTS)), path)


def federated(name: str, path: pathlib.Path) -> None:
    """docs/privacy.md: accuracy over rounds."""
    found, command = curves.load(paths.PRIVACY_RESULTS / f"{name}.csv")
    curves.draw(found, path, command)


def masks(path: pathlib.Path) -> None:
    """docs/design.md: the high band of 5x5 kernels."""
    viz.plot_masks((5, 5), cutoff=0.5, path=path)


def gradient(path: pathlib.Path) -> None:
    """docs/design.md: one kernel of the attacked net's second layer, clipped, before and after a call."""
    torch.manual_seed(0)
    net = nets.small_conv_net(channels=3, size=32)
    kernel = one_kernel(net, images.photo_crop("flower")[None], torch.tensor([3]), SETTINGS, "2.weight")
    viz.plot_gradient(kernel.before, kernel.after, path=path)


def noise(path: pathlib.Path) -> None:
    """docs/design.md: what a TIP without a floor noises of the attacked net's gradient, and what it does not."""
    with tip.TIP(nets.small_conv_net(channels=3, size=32), **SETTINGS) as defense:
        viz.plot_noise(defense, path)


_RESULTS = "bench/privacy/results"
FIGURES: dict[str, Callable[[pathlib.Path], None]] = {
    f"{_RESULTS}/privacy.png": privacy,
    f"{_RESULTS}/tradeoff.png": noise_and_accuracy,
    f"{_RESULTS}/recognizable.png": partial(pictures.draw, paths.PRIVACY_RESULTS / "recognizable.png"),
    f"{_RESULTS}/tune.png": partial(tune.redraw, paths.PRIVACY_RESULTS),
    **{
        f"{_RESULTS}/{name}.png": partial(federated, name)
        for name in ("federated-cifar10-small-iid", "federated-cifar10-small-dirichlet", "federated-digits-small-iid")
    },
    "docs/pictures/masks.png": masks,
    "docs/pictures/gradient.png": gradient,
    "docs/pictures/noise.png": noise,
}
"""By their paths, as functions of where to save them."""


if __name__ == "__main__":
    main()
