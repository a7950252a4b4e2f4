"""How far attackers get on single images under Gaussian noise, image by image: by matching gradients and by priors.

Each chooses its setting on images that are not scored. With --data on CIFAR-10's test images, its training images being
what the attackers know of images; without, on photos. Beside them stands the ceiling: the error that is left on average
over images of the Gaussian prior where the gradient is linear in them.
"""

import argparse
import pathlib
import statistics

import torch
from tqdm import tqdm

from bench.privacy.attacker.inversion import Search
from bench.privacy.attacker.knowledge import naive
from bench.privacy.client import defenses
from bench.privacy.generator import settings as generator_settings
from bench.privacy.images import read
from bench.privacy.prior import settings as prior_settings
from bench.privacy.study import attacks, evaluate, flow, generator, scenes
from bench.privacy.study.ceiling import ceiling
from bench.privacy.study.scenes import Scene

TUNED_ON = slice(40, 43)
"""Of CIFAR-10's test images; the scored ones are the first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--images", type=int, default=8, help="of CIFAR-10, at most 40; default %(default)s")
    parser.add_argument(
        "--noise", type=float, default=0.02, help="std by clipping norm; 0 for none; default %(default)s"
    )
    parser.add_argument("--iterations", type=int, default=200, help="steps of one attack; default %(default)s")
    parser.add_argument("--restarts", type=int, default=1, help="starts of one attack; default %(default)s")
    parser.add_argument("--attacker", action="append", help="only this one, or these if given several times")
    parser.add_argument("--no-ceiling", action="store_true", help="leave it out: it takes longest")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # see bench.privacy.commands.control
    scene = scenes.one_image() if options.data is None else cifar(options.data, options.images)
    defense = defenses.gaussian(options.noise) if options.noise else defenses.none
    search = Search(iterations=options.iterations, restarts=options.restarts)
    known = {
        "cosine + TV": attacks.by_cosine(naive),
        "L-BFGS": attacks.by_lbfgs(naive),
        **attacks.by_name(options.data),
        **flow.by_name(options.data),
        **generator.by_name(options.data),
    }
    names = options.attacker or [name for name in known if has_what_it_needs(name, options.data)]
    if set(names) - set(known):
        raise SystemExit(f"expected --attacker from {'; '.join(known)}, got {'; '.join(names)}")
    print(f"noise {options.noise:g}, {options.iterations} steps, {options.restarts} starts; PSNR in dB, image by image")
    for name in tqdm(names, unit="attacker", leave=False):
        setting = evaluate.best_setting(scene, defense, known[name], search)
        tries = evaluate.score(scene, defense, known[name], scene.scored, [1], [setting], search)
        text = " ".join(f"{number:g}" for number in setting)
        tqdm.write(_line(f"{name} ({text})", [one.chosen[0].psnr for one in tries]))
        tqdm.write(_line("    SSIM", [one.chosen[0].ssim for one in tries], 2))
    if not options.no_ceiling:
        tqdm.write(_line("ceiling, linearized", ceilings(scene, defense, options.data)))


def has_what_it_needs(name: str, data: pathlib.Path | None) -> bool:
    """Whether weights that it needs have been trained."""
    needed = {
        **dict.fromkeys(flow.by_name(data), prior_settings.of_data(data)),
        **dict.fromkeys(generator.by_name(data), generator_settings.of_data(data)),
    }
    return name not in needed or needed[name].file().exists()


def cifar(data: pathlib.Path, count: int) -> Scene:
    """The scene of single photos with CIFAR-10's test images in their place."""
    images = read(data, "test", torch.device("cpu")).images.float() / 255
    return scenes.one_image()._replace(tuning=images[TUNED_ON].split(1), scored=images[:count].split(1))


def ceilings(scene: Scene, defense, data: pathlib.Path | None) -> list[float]:
    """Of the scored images."""
    prior = attacks.gaussian(data, scene, ())
    messages = [defense(scene.model, image, scene.labels, 1) for image in scene.scored]
    return [
        ceiling(scene.model, message, prior, image)
        for message, image in zip(tqdm(messages, "ceiling", leave=False), scene.scored, strict=True)
    ]


def _line(name: str, values: list[float], digits: int = 1) -> str:
    each = " ".join(f"{value:5.{digits}f}" for value in values)
    return f"{name:42} median {statistics.median(values):5.{digits}f}   {each}"
