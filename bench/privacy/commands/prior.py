"""What the trained denoiser is worth as a prior, on images that it was not trained on.

Prints the PSNR of its denoising beside that of the best linear denoiser (Wiener's, with the mean and the full
covariance of the training images) and of none, at several noise levels, and how close samples of an image's class come
to it without any message: the control for attacks with this prior. With --data on CIFAR-10's test images; without, on
the photos that the study attacks.
"""

import argparse
import pathlib

import torch
from tqdm import tqdm

from bench.pages import publish
from bench.privacy.images import MORE_CROPS, PHOTO_CROPS, Labeled, photo_crop, read
from bench.privacy.prior import settings, worth
from bench.privacy.prior.denoiser import Denoiser
from bench.privacy.prior.wiener import Wiener
from bench.privacy.trained import weights
from bench.privacy.trained.data import training_images

DENOISING = "denoising by the prior"
"""The mark of the table in a page."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--images", type=int, default=500, help="to denoise; default 500")
    parser.add_argument("--clients", type=int, default=20, help="images to meet samples of their class; default 20")
    parser.add_argument("--samples", type=int, default=16, help="a class; default 16")
    parser.add_argument("--width", type=int, default=settings.Settings.width, help="of the net; default %(default)s")
    parser.add_argument("--page", type=pathlib.Path, help=f"Markdown file with marks '{DENOISING}' for the table")


@torch.no_grad()
def run(options: argparse.Namespace) -> None:
    chosen = settings.of_data(options.data, width=options.width)
    try:
        denoiser, state = Denoiser.trained(chosen), weights.read(chosen)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    held_out = unseen(options.data)[: options.images]
    images = held_out.images.float() / 255
    methods = methods_of(denoiser, options.data, classes=chosen.classes > 0)
    with tqdm(total=len(methods) * len(worth.NOISE) * -(-len(images) // 100), desc="denoising", unit="batch") as bar:
        found = worth.denoising({n: counted(method, bar) for n, method in methods.items()}, images, held_out.labels)
    text = worth.table(found)
    if options.page:
        publish(options.page, DENOISING, text)
    print(f"{len(images)} images; the net after {state['steps']:,} steps of {chosen.batch} images\n\n{text}\n")
    clients = images[: options.clients], held_out.labels[: options.clients]
    alone = worth.alone(denoiser, *clients, options.samples)
    print(
        f"{len(clients[0])} images, {options.samples} samples a class, no message; median PSNR: mean of the samples "
        f"{alone.mean:.1f} dB, one sample {alone.typical:.1f} dB, the closest one {alone.closest:.1f} dB (SSIM "
        f"{alone.ssim_closest:.2f})"
    )


def unseen(folder: pathlib.Path | None) -> Labeled:
    """Test images of the folder, or for None the photos that are attacked."""
    if folder:
        return read(folder, "test", torch.device("cpu"))
    photos = torch.stack([photo_crop(name) for name in PHOTO_CROPS | MORE_CROPS])
    return Labeled((255 * photos).round().byte(), torch.zeros(len(photos), dtype=torch.int64))


def methods_of(denoiser: Denoiser, folder: pathlib.Path | None, classes: bool) -> dict[str, worth.Method]:
    """The denoisers to compare."""
    wiener = Wiener(training_images(folder).images)
    methods: dict[str, worth.Method] = {
        "none": lambda noisy, std, labels: noisy,
        "Wiener": lambda noisy, std, labels: wiener.denoise(noisy, std),
        "flow": lambda noisy, std, labels: denoiser.denoise(noisy, std),
    }
    if classes:
        methods["flow, class known"] = denoiser.denoise
    return methods


def counted(method: worth.Method, bar: tqdm) -> worth.Method:
    """The method, which moves the bar at each call."""

    def call(noisy: torch.Tensor, std: float, labels: torch.Tensor) -> torch.Tensor:
        bar.update()
        return method(noisy, std, labels)

    return call
