"""A server that alters the model before it sends it out, so that images lie open in a gradient.

The convolutions pass the picture on to a linear layer with ReLU. A row of that layer has as gradient the sum of the
images that activate it, each times its bias's gradient: where one image alone does, the quotient is the image.

- **Bins** (Fowl et al., arXiv 2110.13057): all rows measure brightness and differ in their thresholds, so what two
  neighbors differ by is the images between their thresholds.
- **Traps** (Boenisch et al., arXiv 2112.02918): rows are random and so scaled that few images activate one.

Both are made as loud as the clipping of the whole gradient allows: the layer's outputs are tiny and the head's weights
large, so that nearly all of the gradient is in the rows.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.attacker.spectral import Spectral
from bench.privacy.client.release import Release

PASSED_ON = 4
"""Layers before the linear one: two convolutions and their ReLUs."""
SMALL, LARGE = 1e-4, 30.0
"""Of the rows and of the head's weights: predictions stay uniform, and the gradient is in the rows."""
DEVIATIONS = 5.0
"""By which the squared norm of a difference has to exceed that of noise, to be taken for an image."""


def net(channels: int, size: int, rows: int, width: int = 8, classes: int = 10) -> nn.Sequential:
    """The architecture that is agreed on: two 3x3 convolutions, a linear layer and a head, with ReLU.

    Args:
        channels: of the image.
        size: its side.
        rows: of the linear layer.
        width: channels of the convolutions, as many as the image has at least.
        classes: outputs.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(width * size * size, rows), nn.ReLU(), nn.Linear(rows, classes),
    )  # fmt: skip


class Altered(NamedTuple):
    """What the server sends out and what it needs for reading.

    Args:
        model: altered.
        image_shape: (channels, height, width).
        thresholds: [rows] of the bins' brightness, ascending; None for traps.
    """

    model: nn.Sequential
    image_shape: tuple[int, int, int]
    thresholds: torch.Tensor | None


def bins(model: nn.Sequential, public: torch.Tensor) -> Altered:
    """Thresholds at the quantiles of the brightness of public images [N, channels, height, width] in [0, 1]."""
    linear, shape = _passing_pixels(model, public)
    rows, pixels = linear.out_features, public[0].numel()
    brightness = public.flatten(1).mean(1)
    thresholds = torch.quantile(brightness, torch.arange(rows) / rows)
    with torch.no_grad():
        linear.weight[:, :pixels] = SMALL / pixels
        linear.bias.copy_(-SMALL * thresholds)
    return Altered(model, shape, thresholds)


def traps(model: nn.Sequential, public: torch.Tensor, share: float = 0.04, seed: int = 0) -> Altered:
    """Random rows, half of whose weights are negative and so scaled that about a share of public images activate each.

    Boenisch et al. have one scale for all rows; here each has what public images ask for.
    """
    linear, shape = _passing_pixels(model, public)
    rows, pixels = linear.out_features, public[0].numel()
    draw = torch.Generator().manual_seed(seed)
    size = torch.randn(rows, pixels, generator=draw).abs()
    negative = torch.rand(rows, pixels, generator=draw).argsort(1) < pixels // 2
    flat = public.flatten(1)
    up, down = flat @ size.masked_fill(negative, 0).T, flat @ size.masked_fill(~negative, 0).T
    scale = torch.quantile(up / down.clamp(min=1e-6), 1 - share, dim=0)
    with torch.no_grad():
        linear.weight[:, :pixels] = SMALL / pixels * torch.where(negative, -scale[:, None] * size, size)
        linear.bias.zero_()
    return Altered(model, shape, None)


def _passing_pixels(model: nn.Sequential, public: torch.Tensor) -> tuple[nn.Linear, tuple[int, int, int]]:
    """Alters convolutions and head in place: the first channels are the picture, and no image has a gradient of 0."""
    channels, height, width = public.shape[1:]
    first, second, linear, head = model[0], model[2], model[PASSED_ON + 1], model[-1]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for channel in range(channels):
            first.weight[channel, channel, 1, 1] = second.weight[channel, channel, 1, 1] = 1.0
        head.weight[::2], head.weight[1::2] = LARGE, -LARGE  # classes pull up and down in turn, by the same amount
    return linear, (channels, height, width)


def read(altered: Altered, release: Release, prior: Spectral | None = None) -> torch.Tensor:
    """The images that are found in a gradient: [N, channels, height, width] in [0, 1].

    Args:
        altered: the model behind the release.
        release: what the client sent, with noise of one std in the linear layer.
        prior: of images; where there is noise, the mean of what it allows for is taken (Wiener's filter).
    """
    index = [name for name, _ in altered.model.named_parameters()].index(f"{PASSED_ON + 1}.weight")
    (std,) = release.noise_std[index].unique().tolist()
    pixels = torch.Size(altered.image_shape).numel()
    rows, biases = release.gradient[index][:, :pixels].double(), release.gradient[index + 1].double()
    find = _in_bins if altered.thresholds is not None else _in_traps
    sums, scales, stds = find(rows, biases, std, altered.thresholds)
    images = (sums / scales[:, None]).view(-1, *altered.image_shape).float()
    if std and prior is not None:
        images = prior.denoised(images, (stds / scales.abs()).float())
    return images.clamp(0, 1)


Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Multiples of images [N, pixels], what they are multiplied by [N], and the std of the noise in them [N]."""


def _in_bins(rows: torch.Tensor, biases: torch.Tensor, std: float, thresholds: torch.Tensor | None) -> Found:
    """Rows between two images hold the same sum: they are averaged, and what two averages differ by is an image."""
    assert thresholds is not None
    count = len(rows)
    beyond = torch.zeros_like(rows), torch.zeros_like(biases)  # no image is brighter than the last threshold's rows
    rows, biases = torch.cat([rows, beyond[0]]), torch.cat([biases, beyond[1]])
    ends = [0, *_changes(rows, std, 0, len(rows)), len(rows)]
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    means, means_bias = (torch.stack([x[part].mean(0) for part in parts]) for x in (rows, biases))
    noise = torch.tensor([std**2 * max(count - p.start, 0) / (p.stop - p.start) ** 2 for p in parts])
    sums, scales = means[:-1] - means[1:], means_bias[:-1] - means_bias[1:]
    if std:  # its brightness, between two thresholds, tells the scale far more exactly than the noised bias
        edges = torch.tensor(ends[1:-1], dtype=torch.int64)
        around = thresholds[(edges - 1).clamp(max=count - 1)] + thresholds[edges.clamp(max=count - 1)]
        scales = sums.mean(1) / (around / 2).clamp(min=1e-3)
    return sums, scales, (noise[:-1] + noise[1:]).sqrt()


def _changes(rows: torch.Tensor, std: float, start: int, stop: int) -> list[int]:
    """Where rows change by more than noise, between start and stop: the largest change first, then on either side."""
    if stop - start < 2:
        return []
    part = rows[start:stop]
    before = torch.arange(1, len(part), dtype=part.dtype)[:, None]
    after = len(part) - before
    sums = part.cumsum(0)
    difference = sums[:-1] / before - (sums[-1] - sums[:-1]) / after
    noise = (std**2 * (1 / before + 1 / after)).sqrt().squeeze(1)
    excess = _by_noise(difference, noise, rows)
    best = int(excess.argmax())
    if excess[best] <= 1:
        return []
    change = start + best + 1
    return [*_changes(rows, std, start, change), change, *_changes(rows, std, change, stop)]


def _in_traps(rows: torch.Tensor, biases: torch.Tensor, std: float, _: torch.Tensor | None) -> Found:
    """Rows that are multiples of one another hold one image: they are added up, each as loud as it is."""
    loud = _by_noise(rows, torch.full((len(rows),), std), rows) > 1
    rows, biases = rows[loud], biases[loud]
    unit = rows / rows.norm(dim=1, keepdim=True)
    # Of two rows with the same image, noise leaves this much of the cosine, and 0.1 % is for rounding.
    share = 1 - std**2 * rows.shape[1] / rows.square().sum(1)
    alike = (unit @ unit.T).abs() > 0.999 * (share[:, None] * share).clamp(min=0).sqrt() - (0.02 if std else 0)
    groups, free = [], torch.ones(len(rows), dtype=torch.bool)
    for row in rows.norm(dim=1).argsort(descending=True).tolist():
        if free[row]:
            groups.append(alike[row] & free)
            free &= ~alike[row]
    sums, scales, stds = [], [], []
    for group in groups:
        weights = rows[group] @ unit[group][0]
        sums.append(weights @ rows[group])
        scales.append(weights @ biases[group])
        stds.append(std * weights.norm())
    if not groups:
        return rows[:0], biases[:0], biases[:0]
    return torch.stack(sums), torch.stack(scales), torch.stack(stds)


def _by_noise(values: torch.Tensor, stds: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Squared norms of [N, pixels], by what noise of stds [N] hardly ever passes and rounding to float32 neither."""
    pixels = values.shape[1]
    noise = stds.square() * (pixels + DEVIATIONS * (2 * pixels) ** 0.5)
    return values.square().sum(1) / (noise + (1e-5 * rows.norm(dim=1).max()).square())


ALTERATIONS: dict[str, Callable[[nn.Sequential, torch.Tensor], Altered]] = {"bins": bins, "traps": traps}
