"""What noise costs in accuracy on CIFAR-10, and what epsilon it has.

Trains the attacked net by FedSGD under no defense, DP, and TIP 0.3 with a floor of the noise that DP has and twice as
much on what it selects; every client noises its own gradient. Each defense at each noise has its step size chosen on
validation images, then trains with seeds of its own and is scored on the test images. Prints means with 95 % intervals
over the seeds, and writes every training to utility.csv in bench/privacy/results; what is there is not trained again.
"""

import argparse
import pathlib

import torch
from tqdm import tqdm

from bench import paths
from bench.pages import publish
from bench.privacy.commands.options import numbers
from bench.privacy.study import fedsgd, noise_costs
from bench.privacy.study.cases import LEVELS
from bench.privacy.study.fedsgd import Plan

TABLE, SHAPES = "what noise costs", "shapes of the noise"
"""The marks of the tables in a page."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=pathlib.Path, required=True, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10"
    )
    parser.add_argument("--noise", type=numbers, default=list(LEVELS), help="by clipping norm; default %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="trainings that are scored; default %(default)s")
    parser.add_argument(
        "--shapes", action="store_true", help="with the fitted spectra, which `shape` makes for these noises"
    )
    parser.add_argument("--rounds", type=int, default=Plan().rounds, help="of a training; default %(default)s")
    parser.add_argument("--sampled", type=int, default=Plan().sampled, help="clients in a round; default %(default)s")
    parser.add_argument("--batch", type=int, default=Plan().batch, help="images of a client; default %(default)s")
    parser.add_argument("--clients", type=int, default=Plan().clients, help="in all; default %(default)s")
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=paths.PRIVACY_RESULTS,
        help="folder of utility.csv; default: %(default)s",
    )
    parser.add_argument("--page", type=pathlib.Path, help=f"Markdown file with marks '{TABLE}' or '{SHAPES}'")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # the figures then do not depend on the number of cores
    plan = Plan(options.rounds, options.sampled, options.batch, options.clients)
    runs = noise_costs.Runs(options.results / "utility.csv")
    asked = noise_costs.conditions(options.noise, options.shapes)
    measured = noise_costs.summaries(runs, asked, plan, options.seeds, lambda: fedsgd.images_of(options.data))
    found = []
    for summary in tqdm(measured, total=len(asked), desc="utility", unit="line"):
        found.append(summary)
        tqdm.write(f"{summary.condition.defense} {summary.condition.noise:g}: {summary.mean:.1f} %")
    text = noise_costs.markdown(found, plan.messages())
    if options.page:
        publish(options.page, SHAPES if options.shapes else TABLE, text)
    print(f"\n{text}")
