"""Spectra for the study of whether a shape of the noise pays: fitted to the attacked net, and kept.

For each noise level a spectrum without and with Grad-CAM's channels whose ceiling, by audits of public images, is that
of plain noise of this level. ``python -m bench.privacy utility`` trains with them.
"""

import argparse
import pathlib

import torch
from tqdm import tqdm

import tip_kernels as tip
from bench.privacy.commands.options import numbers
from bench.privacy.study import shapes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=pathlib.Path, required=True, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10"
    )
    parser.add_argument("--noise", type=numbers, default="0.02,0.1", help="by clipping norm; default %(default)s")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # see bench.privacy.commands.control
    wanted = [(ratio, noise) for noise in options.noise for ratio in shapes.RATIOS.values()]
    for ratio, noise in tqdm(wanted, desc="shape", unit="spectrum"):
        path = shapes.file(ratio, noise)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shapes.fit(ratio, noise, options.data).save(path)
        tqdm.write(f"ratio {ratio:g}, as plain noise of {noise:g}: {tip.Spectrum.load(path)!r}")
    for name, net in shapes.nets(options.data).items():
        for noise in options.noise:
            found = shapes.gains(net, noise, options.data)
            print(
                f"{name}, plain noise of {noise:g}: the best shape would cost {found.ceiling:.3f} times less at the "
                f"same ceiling, {found.trace:.2f} at the same trace of F"
            )
