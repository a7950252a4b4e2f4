"""One attack on one photo: prints how close the rebuilt image comes and saves it beside the original."""

import argparse
import pathlib

import torch

from bench.privacy import figures, images
from bench.privacy.attacker.inversion import Search, invert, progress_bar
from bench.privacy.attacker.problem import SMOOTHING, posed_by
from bench.privacy.study import metrics, scenes
from bench.privacy.study.cases import EQUAL, cases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    rows = cases()[EQUAL]
    names = sorted({name for case in rows.values() for name in case.attackers()})
    parser.add_argument("--defense", choices=list(rows), default="TIP 0.3", help="as in the study's first table")
    parser.add_argument("--attacker", choices=names, default="naive", help="some know one kind of defense only")
    parser.add_argument("--photo", choices=list(images.PHOTO_CROPS | images.MORE_CROPS), default="flower")
    parser.add_argument("--smoothing", type=float, default=SMOOTHING)
    parser.add_argument("--iterations", type=int, default=250, help="steps of signed Adam")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("attack.png"))


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # see bench.privacy.commands.control
    case = cases()[EQUAL][options.defense]
    known = case.attackers()
    if options.attacker not in known:
        raise SystemExit(f"expected --attacker from {', '.join(known)} for {options.defense}, got {options.attacker}")
    scene, original = scenes.one_image(), images.photo_crop(options.photo)[None]
    release = case.defense(scene.model, original, torch.tensor([3]), 1)
    problem = posed_by(release, known[options.attacker], options.smoothing)
    search = Search(iterations=options.iterations)
    with progress_bar(search, "attack") as progress:
        found = invert(
            scene.model, [problem], original.shape[1:], search=search, bases=release.bases, progress=progress
        )
    rebuilt = found.images[0]
    (score,) = metrics.compare(rebuilt, original)
    picture = figures.side_by_side([original[0], rebuilt[0]], ["original", "rebuilt"], (5.2, 2.9))
    figures.save(picture, options.output)
    print(f"{options.defense}, {options.attacker}: {score.psnr:.1f} dB, SSIM {score.ssim:.2f}; see {options.output}")
