"""The positive control: how well single images are rebuilt from what a client sends without a defence."""

import argparse
import pathlib
import statistics
import time

import torch
from tqdm import tqdm

from bench.privacy import attackers, attacks, defenses, evaluate, metrics, tasks
from bench.privacy.images import read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, help="folder with CIFAR-10 test images, as parquet")
    parser.add_argument("--images", type=int, default=3, help="of CIFAR-10; the photos are three")
    parser.add_argument("--iterations", type=int, default=250, help="steps of one attack")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # more are no faster at this size, and slow everything down on a busy machine
    images = {name: tasks.photo_crop(name) for name in tasks.PHOTO_CROPS}
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
    scene = evaluate.one_image()
    problems = []
    for image in images:
        seen = attackers.naive(defenses.none(scene.model, image[None], scene.labels, 0))
        problems.append(attacks.Attack(seen.gradient, attacks.recover_labels(*seen.gradient[-2:])))
    with tqdm(total=iterations, desc="attack", unit="step", leave=False) as bar:
        found = attacks.invert(
            scene.model,
            problems,
            images[0].shape,
            search=attacks.Search(iterations=iterations),
            progress=lambda _: bar.update(),
        )
    return [metrics.compare(rebuilt, image[None])[0] for rebuilt, image in zip(found.images, images, strict=True)]
