"""What is attacked: nets, and the photos of clients."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy import images, nets


class Scene(NamedTuple):
    """What is attacked.

    Args:
        model: the global model.
        tuning: clients' batches, [B, channels, height, width] each, that the attacker may try its settings on.
        scored: batches that it is scored on.
        labels: int64 [B], of every batch; the attacker reads them off the release.
        device: where attacks run; all else is on the CPU.
    """

    model: nn.Module
    tuning: Sequence[torch.Tensor]
    scored: Sequence[torch.Tensor]
    labels: torch.Tensor
    device: str = "cpu"


def one_image() -> Scene:
    """Single photos, and the small net with random weights."""
    torch.manual_seed(0)
    tuning, *scored = (images.photo_crop(name)[None] for name in sorted(images.PHOTO_CROPS))
    return Scene(nets.small_conv_net(channels=3, size=32), [tuning], scored, torch.tensor([3]))


def one_image_trained() -> Scene:
    """The same with trained weights."""
    return one_image()._replace(model=trained_conv_net())


def four_images() -> Scene:
    """A batch of four photos of four classes."""
    tuning, scored = ("courtyard", "leaves", "leaf", "bud"), ("flower", "pagoda", "tree", "bush")
    batches = [torch.stack([images.photo_crop(name) for name in names]) for names in (tuning, scored)]
    return one_image()._replace(tuning=batches[:1], scored=batches[1:], labels=torch.tensor([0, 3, 5, 8]))


def trained_conv_net(epochs: int = 5, batch_size: int = 64, lr: float = 0.1) -> nn.Sequential:
    """The net that is attacked, after some training on digits enlarged to its 32x32 pixels in three channels."""
    pixels, labels, _, _ = images.digits()
    torch.manual_seed(0)
    model = nets.small_conv_net(channels=3, size=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=shuffle).split(batch_size):
            optimizer.zero_grad()
            large = nn.functional.interpolate(pixels[batch], size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1)
            nn.functional.cross_entropy(model(large), labels[batch]).backward()
            optimizer.step()
    return model
