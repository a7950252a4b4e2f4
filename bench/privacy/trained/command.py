"""What the commands that train a net have in common: it goes on where it was, and is kept once a minute."""

import argparse
import os
import pathlib

import torch

from bench.privacy.trained import weights
from bench.privacy.trained.settings import Settings
from bench.privacy.trained.training import Training, keep, train


def add_arguments(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    """Where the images are, how long, and the settings' options."""
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument(
        "--minutes", type=float, default=settings.MINUTES, help=f"of training in all; default {settings.MINUTES:g}"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one for each core")
    for name in settings.OPTIONS:
        default = getattr(settings, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")


def changes(options: argparse.Namespace, settings: type[Settings]) -> dict[str, float]:
    """The settings among the options."""
    return {name: getattr(options, name) for name in settings.OPTIONS}


def go_on(training: Training, options: argparse.Namespace) -> None:
    """Trains for what is left of the minutes."""
    torch.set_num_threads(options.threads)
    file = training.settings.file()
    if file.exists():
        training.restore(weights.read(training.settings))
    for _loss in train(training, options.minutes):
        keep(training, file)
    last = f", loss {training.losses[-1][1]:.4f}" if training.losses else ""
    print(f"{training.steps} steps, {training.seconds / 60:.0f} minutes{last}; in {file}")
