"""What decides which weights a prior has."""

import dataclasses
import pathlib

from bench.privacy.trained import settings


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Beside those of every net:

    Args:
        channels: of the images.
        size: their side.
        classes: of the images; 0 for none.
        width: of the U-Net.
        drop: share of images whose class is hidden from the net, which so learns to do without.
    """

    KIND = "prior"
    VERSION = 1
    OPTIONS = ("width", "batch", "lr", "seed")
    MINUTES = 60.0
    LEAST = 1000

    channels: int = 3
    size: int = 32
    classes: int = 10
    width: int = 32
    drop: float = 0.2


def of_data(folder: pathlib.Path | None, **changes) -> Settings:
    """For the images of a folder, or for None the photos, whose crops have no classes."""
    return Settings(**changes) if folder else Settings(data="photos", classes=0, **changes)
