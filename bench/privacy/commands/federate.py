"""Federated training under each defense: what TIP, APG and DP cost in accuracy.

FedAvg (McMahan et al. 2017) with the settings of TIP's authors (arXiv 2602.11633) as defaults. Without --data it runs
on scikit-learn's handwritten digits. Writes NAME.csv and NAME.png in bench/privacy/results, and after each round a
checkpoint in build/federated, from which --resume goes on. Everything random, the noise too, follows from the seed, the
round and the client, so a resumed run is the run that was not interrupted (up to what a GPU does not repeat).
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator

import torch

from bench import paths
from bench.pages import publish
from bench.privacy.federated import curves
from bench.privacy.federated.protect import DEFENSES
from bench.privacy.federated.rounds import training
from bench.privacy.federated.settings import Settings
from bench.privacy.images import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--rounds", type=int, default=1000, help="default 1000")
    parser.add_argument("--defenses", default=",".join(DEFENSES), help="some of %(default)s")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--name", help="of the results; default: federated-DATA-MODEL-PARTITION")
    parser.add_argument("--page", type=pathlib.Path, help="Markdown file with marks of that name for the table")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints")
    for field in dataclasses.fields(Settings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            choices=field.metadata["choices"],
            help=f"{field.metadata['help']}; default {field.default}",
        )


def run(options: argparse.Namespace) -> None:
    names = options.defenses.split(",")
    unknown = set(names) - set(DEFENSES)
    if unknown:
        raise SystemExit(f"expected --defenses from {', '.join(DEFENSES)}, got {', '.join(sorted(unknown))}")
    settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
    data = "cifar10" if options.data else "digits"
    name = options.name or f"federated-{data}-{settings.model}-{settings.partition}"
    command = " ".join(_command(options, settings))
    if settings.model == "small":
        torch.set_num_threads(1)  # more are no faster for so small a net, and the figures do not depend on them
    train, test = load(options.data, options.device)
    results = paths.PRIVACY_RESULTS / name
    found: dict[str, curves.Curve] = {}
    for defense in names:
        checkpoint = paths.CHECKPOINTS / f"{name}-{defense}.pt"
        if not options.resume:
            checkpoint.unlink(missing_ok=True)
        for curve in training(defense, train, test, options.rounds, settings, checkpoint):
            found[defense] = curve
            curves.save(found, results.with_name(f"{name}.csv"), command)
        curves.draw(found, results.with_name(f"{name}.png"), command)
    table = curves.table(found)
    if options.page:
        publish(options.page, name, table)
    print(f"{table}\n\nin {results}.csv and .png")


def _command(options: argparse.Namespace, settings: Settings) -> Iterator[str]:
    """What was run, in words; without the machine's paths and device."""
    yield "python -m bench.privacy federate"
    if options.data:
        yield "--data FOLDER"
    yield f"--rounds {options.rounds}"
    if options.defenses != ",".join(DEFENSES):
        yield f"--defenses {options.defenses}"
    if options.name:
        yield f"--name {options.name}"
    yield from settings.changed()
