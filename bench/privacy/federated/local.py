"""A client's work between two messages: SGD on its own images."""

import torch
from torch import nn

from bench.privacy.federated.settings import Settings
from bench.privacy.images import Labeled


def train_locally(model: nn.Module, data: Labeled, shuffle: torch.Generator, settings: Settings) -> int:
    """A client's work: SGD on its images with clipped gradients. Returns the number of steps."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
    steps = 0
    for _ in range(settings.local_epochs):
        for chosen in torch.randperm(len(data.labels), generator=shuffle).split(settings.batch):
            batch = data[chosen.to(data.labels.device)]
            images = augmented(batch.images, shuffle) if settings.augment else batch.images
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(normalized(images)), batch.labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            steps += 1
    return steps


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 of mean about 0 and variance about 1."""
    return (images.float() / 255 - 0.5) / 0.25


def augmented(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Each image mirrored or not, and moved by up to four pixels, with black where nothing was."""
    count, _, height, width = images.shape
    flip, top, left = (torch.randint(high, (count,), generator=draw).to(images.device) for high in (2, 9, 9))
    images = torch.where(flip.bool().view(-1, 1, 1, 1), images.flip(3), images)
    padded = nn.functional.pad(images, (4, 4, 4, 4)).movedim(1, 3)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    row = top.view(-1, 1, 1) + torch.arange(height, device=images.device).view(1, -1, 1)
    column = left.view(-1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, -1)
    return padded[image, row, column].movedim(3, 1)
