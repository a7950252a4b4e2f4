"""What a person can recognize at 12, 15, 18 and 22 dB: pictures that an attacker rebuilt with about that PSNR.

CIFAR-10's test images under Gaussian noise on everything, more and more of it, rebuilt by the trained flow. For each
image and PSNR the rebuilt picture that comes closest to it is shown. Nobody chose the images or the noise seed.
"""

import argparse
import pathlib

import torch

from bench import paths
from bench.privacy import figures
from bench.privacy.attacker.inversion import Search
from bench.privacy.client import defenses
from bench.privacy.study import attacks, evaluate, flow, metrics, scenes, with_priors

WANTED = (22.0, 18.0, 15.0, 12.0)
"""PSNR in dB."""
NOISE = (0.002, 0.003, 0.005, 0.007, 0.01, 0.014, 0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.25, 0.4, 0.8)
"""Standard deviations by the clipping norm, among which those pictures are looked for."""
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
    pictures, captions = [], []
    for number, batch in enumerate(scene.scored):
        tries = [(images[number], metrics.compare(images[number], batch.images)[0].psnr) for images in found]
        shown = [min(tries, key=lambda one, wanted=wanted: abs(one[1] - wanted)) for wanted in WANTED]
        pictures += [batch.images[0], *[image[0] for image, _ in shown]]
        captions += ["original", *[f"{psnr:.1f} dB" for _, psnr in shown]]
    size = (1.4 * (1 + len(WANTED)), 1.6 * len(scene.scored))
    figures.save(figures.grid(pictures, captions, len(scene.scored), size), options.output)
    print(f"see {options.output}")


def rebuilt(scene: scenes.Scene, attack: attacks.Attack, iterations: int) -> list[torch.Tensor]:
    """For each noise level the images [A, 1, channels, height, width] of all batches."""
    found = []
    for std in NOISE:
        releases = [evaluate.released(scene, defenses.gaussian(std), batch, 1) for batch in scene.scored]
        found.append(attack.rebuild(scene, releases, [SETTING], Search(iterations=iterations)).images)
    return found
