"""What decides which weights a net has, and the name of the file that they are in."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained on what; each kind of net adds its own.

    Args:
        data: ``"cifar10"`` (the images of a folder) or ``"photos"`` (crops of scikit-learn's).
        batch: images a step.
        lr: Adam's step size, reached after some steps; it falls as one over the root of the steps later on.
        seed: of everything random.
    """

    KIND: ClassVar[str]
    """What the net is, in the names of its file and of the command that trains it."""
    VERSION: ClassVar[int]
    """To be raised whenever the same settings would give other weights, so that no file of before is used."""
    OPTIONS: ClassVar[tuple[str, ...]]
    """The settings that are options of the command."""
    MINUTES: ClassVar[float]
    """Of training, unless the command says otherwise."""
    LEAST: ClassVar[int]
    """Steps of training without which its attackers are too weak to judge a defense by."""

    data: str = "cifar10"
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0

    def fingerprint(self) -> str:
        """Of all the settings and the version of the code behind them: 12 hexadecimal digits."""
        facts = json.dumps({"version": self.VERSION, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    def file(self) -> pathlib.Path:
        """Where the training is kept."""
        return cache() / f"{self.KIND}-{self.data}-{self.fingerprint()}.pt"


def cache() -> pathlib.Path:
    """The folder for what is made once, outside the repository: TIP_KERNELS_CACHE, or ``~/.cache/tip_kernels``."""
    return pathlib.Path(os.environ.get("TIP_KERNELS_CACHE") or pathlib.Path.home() / ".cache" / "tip_kernels")
