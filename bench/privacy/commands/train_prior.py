"""Trains the denoiser that attackers may use as their prior: a small U-Net, by flow matching.

On CIFAR-10's training images, by class, or without --data on crops of scikit-learn's photos. The training is kept in
~/.cache/tip_kernels (the environment variable TIP_KERNELS_CACHE names another folder) once a minute, in a file that is
named for its settings. The same command goes on with a training that was stopped, and with more --minutes with one that
had ended.
"""

import argparse
import os
import pathlib

import torch

from bench.privacy.prior import settings, training, weights
from bench.privacy.prior.data import training_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training in all; default 60")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one for each core")
    for name in weights.OPTIONS:
        default = getattr(settings.Settings, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    chosen = settings.of_data(options.data, **{name: getattr(options, name) for name in weights.OPTIONS})
    one = training.Training(training_images(options.data), chosen)
    if chosen.file().exists():
        one.restore(weights.read(chosen))
    for _loss in training.train(one, options.minutes):
        training.keep(one, chosen.file())
    last = f", loss {one.losses[-1][1]:.4f}" if one.losses else ""
    print(f"{one.steps} steps, {one.seconds / 60:.0f} minutes{last}; in {chosen.file()}")
