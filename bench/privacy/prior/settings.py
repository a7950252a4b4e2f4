"""What decides which weights a prior has, and the name of the file that they are in."""

import dataclasses
import hashlib
import json
import os
import pathlib

VERSION = 1
"""To be raised whenever the same settings would give other weights, so that no file of before is used."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained on what.

    Args:
        data: ``"cifar10"`` (the images of a folder) or ``"photos"`` (crops of scikit-learn's).
        channels: of the images.
        size: their side.
        classes: of the images; 0 for none.
        width: of the U-Net.
        batch: images a step.
        lr: Adam's step size, reached after ``WARM_UP`` steps; it falls as one over the root of the steps later on.
        drop: share of images whose class is hidden from the net, which so learns to do without.
        seed: of everything random.
    """

    data: str = "cifar10"
    channels: int = 3
    size: int = 32
    classes: int = 10
    width: int = 32
    batch: int = 64
    lr: float = 2e-3
    drop: float = 0.2
    seed: int = 0

    def fingerprint(self) -> str:
        """Of all the settings and the version of the code behind them: 12 hexadecimal digits."""
        facts = json.dumps({"version": VERSION, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    def file(self) -> pathlib.Path:
        """Where the training is kept."""
        return cache() / f"prior-{self.data}-{self.fingerprint()}.pt"


def cache() -> pathlib.Path:
    """The folder for what is made once, outside the repository: TIP_KERNELS_CACHE, or ``~/.cache/tip_kernels``."""
    return pathlib.Path(os.environ.get("TIP_KERNELS_CACHE") or pathlib.Path.home() / ".cache" / "tip_kernels")


def of_data(folder: pathlib.Path | None, **changes) -> Settings:
    """For the images of a folder, or for None the photos, whose crops have no classes."""
    return Settings(**changes) if folder else Settings(data="photos", classes=0, **changes)
