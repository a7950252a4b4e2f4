"""Trains the denoiser that attackers may use as their prior: a small U-Net, by flow matching.

On CIFAR-10's training images, by class, or without --data on crops of scikit-learn's photos. The training is kept in
~/.cache/tip_kernels (the environment variable TIP_KERNELS_CACHE names another folder) once a minute, in a file that is
named for its settings. The same command goes on with a training that was stopped, and with more --minutes with one that
had ended.
"""

import argparse

from bench.privacy.prior.settings import Settings, of_data
from bench.privacy.prior.training import Training
from bench.privacy.trained import command
from bench.privacy.trained.data import training_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser, Settings)


def run(options: argparse.Namespace) -> None:
    chosen = of_data(options.data, **command.changes(options, Settings))
    command.go_on(Training(training_images(options.data), chosen), options)
