"""The search in a generator's latents, then in its features, stage by stage (GIFD, Fang et al. 2023, algorithm 1).

It climbs to the highest density of what it searches in: first of latents, then of moves of one stage's features after
the other, each from where the one before ended. Moves keep within an L1 ball, and cost what they did in training. Later
stages explain more of the message, noise included: the paper takes the stage with the lowest loss, but under noise that
is the last one whatever it makes up. Here the stages compete on a part of the message that no search has seen.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.attacker.climbing import climb
from bench.privacy.attacker.inversion import Progress, Reconstruction, Search, best_start
from bench.privacy.attacker.likelihood import Likelihood, Part
from bench.privacy.attacker.posterior import Posterior, by_problem, starts
from bench.privacy.attacker.priors import Density, Prior
from bench.privacy.client.release import Release
from bench.privacy.generator.network import Decoder


class Plan(NamedTuple):
    """How a search goes.

    Args:
        radius: of the ball: the mean absolute move, in units of the training's, which had 0.8.
        lr: Adam's step size for moves; that for latents is the search's.
        hot: where the annealing of the latents' search starts, see ``Posterior.level``.
        first: share of the steps that go to the latents; the stages divide the others.
        withheld: share of the message by which the stage is chosen; 0: the one with the lowest loss.
    """

    radius: float = 0.2
    lr: float = 0.05
    hot: float = 3.0
    first: float = 0.4
    withheld: float = 0.1


class Latents(Prior):
    """The decoder's images as they are without any move."""

    name = "generator"

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def features(self, z: torch.Tensor) -> torch.Tensor:
        """Of stage 0: [P, B, channels, side, side]."""
        return self.decoder.start(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    def images(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder.finish(self.features(z).flatten(0, 1), 0).unflatten(0, z.shape[:2])

    def cost(self, z: torch.Tensor) -> torch.Tensor:
        return z.square().flatten(1).sum(1) / 2

    def mean(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, len(self.decoder.components), device=self.decoder.components.device)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, len(self.decoder.components), generator=generator).to(self.decoder.components.device)


class Moves(Density):
    """Of one stage's features; latents are the moves.

    Args:
        decoder: whose features they are.
        stage: number of the stage.
        center: the features that are moved [P, B, channels, side, side].
        radius: see :class:`Plan`.
    """

    def __init__(self, decoder: Decoder, stage: int, center: torch.Tensor, radius: float) -> None:
        self.decoder, self.stage, self.center, self.radius = decoder, stage, center, radius

    def features(self, z: torch.Tensor) -> torch.Tensor:
        """After the moves."""
        return self.decoder.moved(self.center, self.stage, z)

    def images(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder.finish(self.features(z).flatten(0, 1), self.stage).unflatten(0, z.shape[:2])

    def cost(self, z: torch.Tensor) -> torch.Tensor:
        return z.square().flatten(1).sum(1) / 2

    def refine(self, z: torch.Tensor, level: float) -> torch.Tensor:
        return within_l1(z.flatten(2), self.radius * z[0, 0].numel()).view_as(z)


def within_l1(rows: torch.Tensor, radius: float) -> torch.Tensor:
    """The points nearest to [..., M] whose absolute values sum to the radius or less (Duchi et al. 2008, figure 1)."""
    sizes = rows.abs()
    falling = sizes.sort(-1, descending=True).values
    counts = torch.arange(1, rows.shape[-1] + 1, device=rows.device)
    thresholds = (falling.cumsum(-1) - radius) / counts
    last = (falling > thresholds).sum(-1, keepdim=True) - 1
    return rows.sign() * (sizes - thresholds.gather(-1, last).clamp(min=0)).clamp(min=0)


def invert_by_features(
    model: nn.Module,
    releases: Sequence[Release],
    *,
    decoder: Decoder,
    plan: Plan = Plan(),  # noqa: B008 - a NamedTuple is immutable
    search: Search = Search(),  # noqa: B008 - a NamedTuple is immutable
    batch_size: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Reconstruction:
    """Attacks every release from every start, as one batched search.

    Args:
        model: the global model with the parameters that the client used.
        releases: of one defense; all that is known of it is in them.
        decoder: of images of the client's shape, on that device.
        plan: see there.
        search: steps in all; ``lr`` for latents; starts: the latents' mean, then random draws by the seed.
        batch_size: images behind each release.
        device: of the search.
        progress: called after each step with the losses [A, restarts] under the noise of that step.

    Returns:
        Of each start the image of its best stage; of the starts the one that is best by the same measure, the losses:
        half the squared residuals of what was withheld, or of the whole message.
    """
    message = Likelihood(model, releases, search.restarts, batch_size, device)
    draw = torch.Generator().manual_seed(search.seed)
    withheld = (torch.rand(message.std.shape[1], generator=draw) < plan.withheld).to(device)
    judge = Part(message, withheld) if plan.withheld else message
    z = starts(Latents(decoder), batch_size, search).repeat(len(releases), 1, 1)
    found = by_stage(Part(message, ~withheld), decoder, z, plan, search, by_problem(progress, search.restarts))
    with torch.no_grad():
        losses = torch.stack([judge.residuals(images).square().sum(1) / 2 for images in found])
    best = losses.argmin(0)
    rows = torch.arange(len(best), device=device)
    return best_start(torch.stack(found)[best, rows].clamp(0, 1), losses[best, rows], search.restarts)


def by_stage(
    message: Likelihood | Part, decoder: Decoder, z: torch.Tensor, plan: Plan, search: Search, progress: Progress
) -> list[torch.Tensor]:
    """The images [P, B, channels, height, width], not cut, of the latents found from z, then of each stage's moves."""
    first, *others = divided(search.iterations, plan.first, len(decoder.stages))
    latents = Latents(decoder)
    z = climb(Posterior(message, latents, plan.hot), z, search._replace(iterations=first), progress)
    with torch.no_grad():
        features, images = latents.features(z), [latents.images(z)]
    for stage, steps in enumerate(others):
        moves = Moves(decoder, stage, features, plan.radius)
        start = torch.zeros_like(features)
        z = climb(Posterior(message, moves, 0.0), start, search._replace(iterations=steps, lr=plan.lr), progress)
        with torch.no_grad():
            images.append(moves.images(z))
            if stage < len(others) - 1:
                features = decoder.advance(moves.features(z).flatten(0, 1), stage).unflatten(0, z.shape[:2])
    return images


def divided(steps: int, first: float, stages: int) -> list[int]:
    """The steps of the latents and of each stage, which sum to all."""
    ends = [round(steps * (first + (1 - first) * k / stages)) for k in range(stages + 1)]
    return [ends[0], *(end - start for start, end in itertools.pairwise(ends))]
