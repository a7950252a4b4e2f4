"""All that decides a curve but the data and the defense."""

import dataclasses
from collections.abc import Iterator
from typing import Any


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Settings:
    """By default those of TIP's authors (arXiv 2602.11633)."""

    model: str = _option("resnet18", "the net", ("resnet18", "small"))
    partition: str = _option("iid", "images among clients; dirichlet: of parameter 0.5", ("iid", "dirichlet"))
    clients: int = _option(100, "clients in all")
    sampled: int = _option(10, "clients in a round")
    images_per_client: int = _option(0, "at most so many; 0: all")
    local_epochs: int = _option(2, "passes of a client over its images")
    batch: int = _option(32, "images in a step")
    lr: float = _option(1e-3, "step size of the clients' SGD")
    clip: float = _option(5.0, "norm to which the gradient of every step is clipped")
    epsilon: float = _option(5.0, "sets the noise, by the authors' formula")
    delta: float = _option(1e-5, "the same")
    ratio: float = _option(0.3, "share of the channels that TIP selects")
    augment: int = _option(0, "1: random flips and crops")
    seed: int = _option(0, "of everything random")

    def changed(self) -> Iterator[str]:
        """The options that are not the defaults."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                yield f"--{field.name.replace('_', '-')} {getattr(self, field.name)}"
