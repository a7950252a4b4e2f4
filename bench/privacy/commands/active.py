"""What a server reads in closed form that alters the model before it sends it out: imprint bins and trap weights.

On photos, or with --data on CIFAR-10's test images; public images, for thresholds and for a filter against noise, are
CIFAR-10's training images or crops of photos that no client has. All defenses clip to norm 1.
"""

import argparse
import pathlib
from functools import partial
from typing import NamedTuple

import torch
from tqdm import tqdm

from bench.pages import publish
from bench.privacy import images
from bench.privacy.attacker import active, public_images
from bench.privacy.attacker.active import Altered
from bench.privacy.attacker.spectral import Spectral
from bench.privacy.client import defenses
from bench.privacy.client.noise_levels import at_energy
from bench.privacy.client.release import Defense
from bench.privacy.prior.worth import psnr

TABLE = "active server"
"""The name of the table's marks in a page."""
READ = 18.0
"""PSNR in dB above which an image counts as read."""
PUBLIC = 4000
RMS = 0.02
"""Of the noise of TIP without a floor over all coordinates, as in the study."""
FLOORS = (0.0005, 0.002, 0.01, 0.02, 0.05, 0.1)


class Outcome(NamedTuple):
    """How many images of a batch were read, and the median over all of the closest guess's PSNR in dB.

    The mean of public images is a guess too, but none that was read.
    """

    read: int
    median: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER", help="parquet files as in uoft-cs/cifar10")
    parser.add_argument("--batch", type=int, default=16, help="images in a gradient; default %(default)s")
    parser.add_argument("--rows", type=int, default=256, help="of the linear layer; default %(default)s")
    parser.add_argument("--floors", type=float, nargs="+", default=FLOORS, help="std of the noise on everything")
    parser.add_argument("--page", type=pathlib.Path, help="Markdown file with marks for the table")


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # see bench.privacy.commands.control
    shown, labels = clients(options.data, options.batch)
    public = some(public_images.public(options.data), PUBLIC)
    prior = Spectral.fitted(public)
    altered = {name: alter(active.net(3, 32, options.rows), public) for name, alter in active.ALTERATIONS.items()}
    lines = [
        "| defense | " + " | ".join(f"read by {name} | median" for name in altered) + " |",
        "|---" * (1 + 2 * len(altered)) + "|",
    ]
    for title, defense in tqdm(met(options.floors).items(), unit="defense", leave=False):
        found = [outcome(one, defense, shown, labels, prior) for one in altered.values()]
        cells = [f"{one.read} of {len(shown)} | {one.median:.1f} dB" for one in found]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    blind = closest(prior.images(prior.mean(1)[None])[0].clamp(0, 1), shown).median().item()
    lines.append("| (public mean, without a message)" + f" | | {blind:.1f} dB" * len(altered) + " |")
    table = "\n".join(lines)
    print(table)
    if options.page is not None:
        publish(options.page, TABLE, table)


def met(floors: list[float]) -> dict[str, Defense]:
    """The defenses, by what the table calls them."""
    defended: dict[str, Defense] = {"none": defenses.none}
    for ratio in (0.3, 1.0):
        defended[f"TIP {ratio}"] = at_energy(partial(defenses.targeted, ratio), RMS)
    for floor in floors:
        defended[f"TIP 0.3, floor {floor:g}"] = defenses.targeted_with_floor(floor)
        defended[f"DP {floor:g}"] = defenses.gaussian(floor)
    return defended


def outcome(
    altered: Altered, defense: Defense, shown: torch.Tensor, labels: torch.Tensor, prior: Spectral, seed: int = 1
) -> Outcome:
    """Of one message."""
    found = active.read(altered, defense(altered.model, shown, labels, seed), prior)
    blind = closest(prior.images(prior.mean(1)[None])[0].clamp(0, 1), shown)
    read = closest(found, shown) if len(found) else torch.full_like(blind, -torch.inf)
    return Outcome(int((read > READ).sum()), torch.maximum(read, blind).median().item())


def closest(guesses: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of the guess that comes closest to each image: [N]."""
    return torch.stack([psnr(guesses, image.expand_as(guesses)).max() for image in shown])


def clients(data: pathlib.Path | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 3, 32, 32] and labels: the first of CIFAR-10's test images, or quarters of the attacked photos.

    Raises:
        SystemExit: there are fewer.
    """
    if data is not None:
        test = images.read(data, "test", torch.device("cpu"))[:count]
        shown, labels = test.images.float() / 255, test.labels
    else:
        photos = torch.stack([images.photo_crop(name, 64) for name in images.PHOTO_CROPS | images.MORE_CROPS])
        quarters = photos.unfold(2, 32, 32).unfold(3, 32, 32).permute(2, 3, 0, 1, 4, 5)
        shown = quarters.reshape(-1, 3, 32, 32)[:count]
        labels = torch.arange(len(shown)) % 10
    if len(shown) < count:
        raise SystemExit(f"expected --batch of at most {len(shown)}, got {count}")
    return shown, labels


def some(public: torch.Tensor, count: int) -> torch.Tensor:
    """Random ones of them."""
    return public[torch.randperm(len(public), generator=torch.Generator().manual_seed(0))[:count]]
