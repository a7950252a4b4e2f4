"""What is attacked: nets, and the images of clients.

A scene is a function of the folder with CIFAR-10; for None it has photos that come with scikit-learn, which are few and
have no classes: a label of their own choosing stands for one.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy import images, nets

SCORED, TUNED_ON = slice(0, 20), slice(40, 46)
"""Of CIFAR-10's test images: the scored ones, and those that attackers' settings and attackers are chosen on."""

PHOTOS, PHOTOS_TUNED_ON = ("flower", "pagoda", "tree", "bush"), ("courtyard", "leaves", "leaf", "bud")
"""Without CIFAR-10."""


class Batch(NamedTuple):
    """Images [B, channels, height, width] in [0, 1] of one client, and their classes int64 [B]."""

    images: torch.Tensor
    labels: torch.Tensor


class Scene(NamedTuple):
    """What is attacked.

    Args:
        model: the global model.
        tuning: clients' batches, that an attacker may try its settings on.
        scored: batches that it is scored on, of the same size.
        device: where attacks run; all else is on the CPU.
    """

    model: nn.Module
    tuning: Sequence[Batch]
    scored: Sequence[Batch]
    device: str = "cpu"

    @property
    def batch_size(self) -> int:
        """Images behind each message."""
        return len(self.scored[0].labels)

    @property
    def image_shape(self) -> torch.Size:
        """(channels, height, width)."""
        return self.scored[0].images.shape[1:]


MakeScene = Callable[[pathlib.Path | None], Scene]


def one_image(data: pathlib.Path | None = None) -> Scene:
    """Single images, and the small net with random weights."""
    return _scene(partial(nets.small_conv_net, channels=3, size=32), data)


def one_image_trained(data: pathlib.Path | None = None) -> Scene:
    """The same with trained weights."""
    return _fewer(one_image(data)._replace(model=trained_conv_net(data)))


def relu(data: pathlib.Path | None = None) -> Scene:
    """ReLU for tanh."""
    return _fewer(_scene(partial(nets.small_conv_net, channels=3, size=32, activation=nn.ReLU), data))


def batch_norm(data: pathlib.Path | None = None) -> Scene:
    """With batch norms in training mode: of a single image they take its own mean and variance."""
    return _fewer(_scene(partial(nets.small_conv_net, channels=3, size=32, batch_norm=True), data))


def resnet(data: pathlib.Path | None = None) -> Scene:
    """A small ResNet, in training mode too."""
    return _fewer(_scene(partial(nets.small_resnet, channels=3), data), 3)


def four_images(data: pathlib.Path | None = None) -> Scene:
    """Batches of four."""
    return _scene(partial(nets.small_conv_net, channels=3, size=32), data, batch_size=4)


def sixteen_images(data: pathlib.Path | None = None) -> Scene:
    """A batch of sixteen."""
    return _scene(partial(nets.small_conv_net, channels=3, size=32), data, batch_size=16)


def large_image(data: pathlib.Path | None = None) -> Scene:
    """Photos of 64x64 pixels, whatever the folder has."""
    return _scene(partial(nets.small_conv_net, channels=3, size=64), None, size=64)


def trained_conv_net(
    data: pathlib.Path | None, epochs: int = 5, batch_size: int = 64, lr: float = 0.1
) -> nn.Sequential:
    """The net that is attacked, after some training on 5,000 images of the folder, or on digits enlarged to 32x32."""
    pixels, labels = _enlarged_digits() if data is None else _training_images(data)
    torch.manual_seed(0)
    model = nets.small_conv_net(channels=3, size=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
    return model


def _scene(make_net: Callable[[], nn.Module], data: pathlib.Path | None, batch_size: int = 1, size: int = 32) -> Scene:
    torch.manual_seed(0)
    tuning, scored = _photos(size, mirrored=batch_size > 4) if data is None else _cifar(data, batch_size)
    return Scene(make_net(), _batches(tuning, batch_size), _batches(scored, batch_size))


def _fewer(scene: Scene, scored: int = 8) -> Scene:
    """For the worlds that are there to be compared with the first: fewer images."""
    return scene._replace(tuning=scene.tuning[:3], scored=scene.scored[:scored])


def _enlarged_digits() -> Batch:
    pixels, labels, _, _ = images.digits()
    return Batch(nn.functional.interpolate(pixels, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1), labels)


def _training_images(data: pathlib.Path, count: int = 5000) -> Batch:
    training = images.read(data, "train", torch.device("cpu"))[:count]
    return Batch(training.images.float() / 255, training.labels)


def _batches(all_images: Batch, size: int) -> list[Batch]:
    """Whole ones; images that are left over are left out."""
    pixels, labels = all_images
    if len(labels) < size:
        raise ValueError(f"expected at least {size} images for a batch, got {len(labels)}")
    whole = len(labels) // size * size
    return [Batch(*pair) for pair in zip(pixels[:whole].split(size), labels[:whole].split(size), strict=True)]


def _photos(size: int, mirrored: bool) -> tuple[Batch, Batch]:
    tuning, scored = (
        torch.stack([images.photo_crop(name, size) for name in names]) for names in (PHOTOS_TUNED_ON, PHOTOS)
    )
    if mirrored:
        tuning, scored = (
            torch.cat([photos, photos.flip(2), photos.flip(3), photos.flip(2, 3)]) for photos in (tuning, scored)
        )
    return Batch(tuning, _made_up(len(tuning))), Batch(scored, _made_up(len(scored)))


def _made_up(count: int) -> torch.Tensor:
    return (3 + torch.arange(count)) % 10


@functools.cache
def _cifar(data: pathlib.Path, batch_size: int) -> tuple[Batch, Batch]:
    """As many as in the constants above, or as fill two batches to be scored and one for tuning."""
    test = images.read(data, "test", torch.device("cpu"))
    first, last = TUNED_ON.start, TUNED_ON.stop
    tuning = test[first : max(last, first + batch_size)]
    scored = test[: min(max(SCORED.stop, 2 * batch_size), first)]
    return Batch(tuning.images.float() / 255, tuning.labels), Batch(scored.images.float() / 255, scored.labels)
