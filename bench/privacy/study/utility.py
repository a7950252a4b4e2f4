"""What a defense leaves of a net's accuracy."""

import pathlib
from collections.abc import Callable

import torch

from bench.privacy.client.release import Defense
from bench.privacy.images import digits
from bench.privacy.nets import small_conv_net
from bench.privacy.study import fedsgd
from bench.privacy.study.fedsgd import Plan

FIRST_LR, LR_FACTOR = 0.1, 3.0
"""Where the search for a step size begins, and how far it goes at a time."""


def accuracy(
    defense: Defense,
    epochs: int = 20,
    data: pathlib.Path | None = None,
    plan: Plan | None = None,
    seed: int = 1,
) -> float:
    """Test accuracy in percent of a small net trained by what the defense releases.

    Args:
        defense: of every batch, or with ``data`` of every client. One that changes between calls goes on changing.
        epochs: of training on digits; without meaning where there is ``data``.
        data: a folder with CIFAR-10's images for federated training, at a step size chosen on validation images by
            trainings from seed 0; None for one client with scikit-learn's digits.
        plan: of the federated training; None for the default.
        seed: of the federated training; not 0, if seed 0 shall be for the choice alone.
    """
    if data is None:
        return on_digits(defense, epochs)
    images, plan = fedsgd.images_of(data), plan or Plan()

    def validated(lr: float) -> float:
        return fedsgd.accuracy(fedsgd.trained(defense, images.train, lr, 0, plan), images.validation)

    return fedsgd.accuracy(fedsgd.trained(defense, images.train, best_lr(validated), seed, plan), images.test)


def on_digits(defense: Defense, epochs: int, batch_size: int = 64, lr: float = 0.5) -> float:
    """Test accuracy in percent of the net for digits, trained by one client."""
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(0)
    model = small_conv_net(channels=1, size=8)
    shuffle = torch.Generator().manual_seed(0)
    step = 0
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
            release = defense(model, images[batch], labels[batch], step)
            step += 1
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), release.gradient, strict=True):
                    parameter -= lr * gradient
    with torch.no_grad():
        return 100 * (model(test_images).argmax(1) == test_labels).float().mean().item()


def best_lr(validated: Callable[[float], float]) -> float:
    """The step size with the best accuracy on validation images, if accuracy has one peak over step sizes.

    Every defense is searched for alike: from ``FIRST_LR`` up or down by ``LR_FACTOR``, until the next is no better.
    """
    known: dict[int, float] = {}

    def at(power: int) -> float:
        if power not in known:
            known[power] = validated(_lr(power))
        return known[power]

    best, way = (1, 1) if at(1) > at(0) else (0, -1)
    while at(best + way) > at(best):
        best += way
    return _lr(best)


def _lr(power: int) -> float:
    return float(f"{FIRST_LR * LR_FACTOR**power:.3g}")
