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
from bench.privacy.study import attacks, evaluate, scenes, with_priors
from bench.privacy.study.ceiling import limits_of
from bench.privacy.study.scenes import Scene


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--images", type=int, default=8, help="that are attacked, at most; default %(default)s")
    parser.add_argument(
        "--noise", type=float, default=0.02, help="std by clipping norm; 0 for none; default %(default)s"
    )
    parser.add_argument("--iterations", type=int, default=200, help="steps of one attack; default %(default)s")
    parser.add_argument("--restarts", type=int, default=1, help="starts of one attack; default %(default)s")
    parser.add_argument("--attacker", action="append", help="only this one, or these if given several times")
    parser.add_argument("--no-ceiling", action="store_true", help="leave it out: it takes longest")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # see bench.privacy.commands.control
    scene = scenes.one_image(options.data)
    scene = scene._replace(scored=scene.scored[: options.images])
    defense = defenses.gaussian(options.noise) if options.noise else defenses.none
    search = Search(iterations=options.iterations, restarts=options.restarts)
    priors, lacking = with_priors.by_name(options.data), with_priors.missing(options.data)
    known = {"cosine + TV": attacks.by_cosine(naive), "L-BFGS": attacks.by_lbfgs(naive), **priors}
    names = options.attacker or [name for name in known if name not in lacking]
    if set(names) - set(known):
        raise SystemExit(f"expected --attacker from {'; '.join(known)}, got {'; '.join(names)}")
    unready = [reason for name, reason in lacking.items() if name in names]
    if unready:
        raise SystemExit("\n".join(unready))
    for reason in [] if options.attacker else lacking.values():
        print(f"left out: {reason}")
    print(f"noise {options.noise:g}, {options.iterations} steps, {options.restarts} starts; PSNR in dB, image by image")
    for name in tqdm(names, unit="attacker", leave=False):
        found = evaluate.outcome(scene, defense, known[name], search)
        text = " ".join(f"{number:g}" for number in found.setting)
        tqdm.write(_line(f"{name} ({text})", found.psnr))
        tqdm.write(_line("    SSIM", found.ssim, 2))
    if not options.no_ceiling:
        tqdm.write(_line("ceiling, linearized", ceilings(scene, defense, options.data)))


def ceilings(scene: Scene, defense, data: pathlib.Path | None) -> list[float]:
    """Of the scored images."""
    batches = tqdm(scene.scored, "ceiling", leave=False)
    return limits_of(scene, defense, attacks.gaussian(data, scene, ()), batches).ceiling.tolist()


def _line(name: str, values: list[float], digits: int = 1) -> str:
    each = " ".join(f"{value:5.{digits}f}" for value in values)
    return f"{name:42} median {statistics.median(values):5.{digits}f}   {each}"
