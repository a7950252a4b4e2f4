"""What a person can recognize at 12, 15, 18 and 22 dB: pictures that an attacker rebuilt with about that PSNR.

CIFAR-10's test images under Gaussian noise on everything, more and more of it, rebuilt by the trained flow. For each
image and PSNR the rebuilt picture that comes closest to it is shown. Nobody chose the images or the noise seed. Beside
the picture is what it is drawn of: the images without anything around them, NAME-tiles.png, and their PSNR, NAME.csv.
"""

import argparse
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from bench import paths
from bench.privacy import figures
from bench.privacy.attacker.inversion import Search
from bench.privacy.client import defenses
from bench.privacy.study import attacks, evaluate, flow, ledger, metrics, scenes, with_priors

WANTED = (22.0, 18.0, 15.0, 12.0)
"""PSNR in dB."""
NOISE = (0.002, 0.003, 0.005, 0.007, 0.01, 0.014, 0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.25, 0.4, 0.8)
"""Standard deviations by the clipping norm, among which those pictures are looked for."""
SIDE = 32
"""Pixels of an image."""
ATTACKER, SETTING = "flow, plug-and-play", (1.3,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--images", type=int, default=6, help="the first ones of the study; default %(default)s")
    parser.add_argument("--iterations", type=int, default=800, help="steps of one attack; default %(default)s")
    parser.add_argument("--output", type=pathlib.Path, default=paths.PRIVACY_RESULTS / "recognizable.png")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # see bench.privacy.commands.control
    lacking = with_priors.missing(options.data)
    if ATTACKER in lacking:
        raise SystemExit(lacking[ATTACKER])
    scene = scenes.one_image(options.data)
    scene = scene._replace(scored=scene.scored[: options.images])
    found = rebuilt(scene, flow.by_name(options.data, by_class=options.data is not None)[ATTACKER], options.iterations)
    columns, closeness = [], []
    for number, batch in enumerate(scene.scored):
        tries = [(images[number], metrics.compare(images[number], batch.images)[0].psnr) for images in found]
        shown = [min(tries, key=lambda one, wanted=wanted: abs(one[1] - wanted)) for wanted in WANTED]
        columns.append([batch.images[0], *[image[0] for image, _ in shown]])
        closeness += [Shown(number, wanted, psnr) for wanted, (_, psnr) in zip(WANTED, shown, strict=True)]
    _save_tiles(torch.cat([torch.cat(column, 1) for column in columns], 2), _tiles(options.output))
    ledger.save(Shown._fields, [(*one[:2], f"{one.psnr:.1f}") for one in closeness], options.output.with_suffix(".csv"))
    draw(options.output, options.output)
    print(f"see {options.output}")


class Shown(NamedTuple):
    """The rebuilt picture of an image that came closest to a PSNR, in dB, and its own."""

    image: int
    wanted: float
    psnr: float


def draw(kept: pathlib.Path, path: pathlib.Path) -> None:
    """The picture, from what is kept beside ``kept``, its first place; a column for each image, the original on top."""
    closeness = ledger.load(Shown, kept.with_suffix(".csv"))
    with Image.open(_tiles(kept)) as file:
        pixels = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1) / 255
    count, wanted = pixels.shape[2] // SIDE, list(dict.fromkeys(one.wanted for one in closeness))
    captions = [f"original {number + 1}" for number in range(count)]
    for psnr in wanted:
        captions += [f"{one.psnr:.1f} dB" for one in closeness if one.wanted == psnr]
    tiles = [tile for row in pixels.split(SIDE, 1) for tile in row.split(SIDE, 2)]
    rows = 1 + len(wanted)
    figures.save(figures.grid(tiles, captions, rows, (1.2 * count, 1.42 * rows)), path)


def _tiles(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}-tiles.png")


def _save_tiles(pixels: torch.Tensor, path: pathlib.Path) -> None:
    """[3, height, width] in [0, 1]."""
    whole = pixels.clamp(0, 1).mul(255).round().byte()
    Image.fromarray(whole.permute(1, 2, 0).numpy()).save(path)


def rebuilt(scene: scenes.Scene, attack: attacks.Attack, iterations: int) -> list[torch.Tensor]:
    """For each noise level the images [A, 1, channels, height, width] of all batches."""
    found = []
    for std in NOISE:
        releases = [evaluate.released(scene, defenses.gaussian(std), batch, 1) for batch in scene.scored]
        found.append(attack.rebuild(scene, releases, [SETTING], Search(iterations=iterations)).images)
    return found
