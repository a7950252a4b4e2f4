"""What decides which weights a generator has."""

import dataclasses
import pathlib

from bench.privacy.trained import settings


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Beside those of every net:

    Args:
        latent: numbers that an image begins as.
        width: hidden channels of the finest stage; the others have multiples of it.
        size: side of the images, a multiple of 8.
        detail: std in pixels of what the net need not explain; the less, the more the features tell of an image.
    """

    KIND = "generator"
    VERSION = 2
    OPTIONS = ("latent", "width", "batch", "lr", "seed")
    MINUTES = 20.0
    LEAST = 300

    latent: int = 128
    width: int = 16
    lr: float = 1e-3
    size: int = 32
    detail: float = 0.05


def of_data(folder: pathlib.Path | None, **changes) -> Settings:
    """For the images of a folder, or for None the photos."""
    return Settings(data="cifar10" if folder else "photos", **changes)
