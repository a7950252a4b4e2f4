"""Trains the generator that an attacker may search: a small decoder, as a ladder of Gaussians.

On CIFAR-10's training images, or without --data on crops of scikit-learn's photos. The training is kept as that of
train-prior is.
"""

import argparse

from bench.privacy.generator.settings import Settings, of_data
from bench.privacy.generator.training import Training
from bench.privacy.trained import command
from bench.privacy.trained.data import training_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser, Settings)


def run(options: argparse.Namespace) -> None:
    chosen = of_data(options.data, **command.changes(options, Settings))
    command.go_on(Training(training_images(options.data), chosen), options)
