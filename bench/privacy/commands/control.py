"""The positive control: how well single images are rebuilt from what a client sends without a defense."""

import argparse
import pathlib
import statistics
import time

import torch

from bench.privacy.attacker.inversion import Search, invert, progress_bar
from bench.privacy.attacker.knowledge import naive
from bench.privacy.attacker.problem import posed_by
from bench.privacy.client import defenses
from bench.privacy.images import PHOTO_CROPS, photo_crop, read
from bench.privacy.study import metrics, scenes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, help="folder with CIFAR-10 test images, as parquet")
    parser.add_argument("--images", type=int, default=3, help="of CIFAR-10; the photos are three")
    parser.add_argument("--iterations", type=int, default=250, help="steps of one attack")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # more are no faster at this size, and slow everything down on a busy machine
    images = {name: photo_crop(name) for name in PHOTO_CROPS}
    if options.data is not None:
        pixels = read(options.data, "test", torch.device("cpu")).images[: options.images]
        images = {f"CIFAR-10, {n}": image.float() / 255 for n, image in enumerate(pixels)}
    start = time.perf_counter()
    scores = rebuild(list(images.values()), options.iterations)
    seconds = (time.perf_counter() - start) / len(images)
    for name, score in zip(images, scores, strict=True):
        print(f"{name:12}  {score.psnr:5.1f} dB  SSIM {score.ssim:.2f}")
    print(f"{'median':12}  {statistics.median(score.psnr for score in scores):5.1f} dB  {seconds:.1f} s an image")


def rebuild(images: list[torch.Tensor], iterations: int) -> list[metrics.Score]:
    """Attacks the gradient of each image [channels, height, width] alone, all at once."""
    scene, search = scenes.one_image(), Search(iterations=iterations)
    releases = [defenses.none(scene.model, image[None], torch.tensor([3]), 0) for image in images]
    problems = [posed_by(release, naive) for release in releases]
    with progress_bar(search, "attack") as progress:
        found = invert(scene.model, problems, images[0].shape, search=search, progress=progress)
    return [metrics.compare(rebuilt, image[None])[0] for rebuilt, image in zip(found.images, images, strict=True)]
