"""The mean of the posterior by Hamiltonian Monte Carlo (Neal 2011), which has the least squared error of all estimates.

The image of highest density is no typical one: it lacks the detail that the noise hides. A gradient depends on that
detail all the same, by its norm and the features' size, and such images come out with a false brightness. Samples of
the posterior have as much detail as photos have, and their average is free of that.
"""

import torch

from bench.privacy.attacker.inversion import Progress, Reconstruction, Search
from bench.privacy.attacker.posterior import Method, Posterior

LEAPFROGS = 8
"""Steps between two draws of the momentum, each with one gradient."""
COOLED = 0.3
"""The share of a search after which the true noise is assumed: the rest is for samples."""
BURNT = 0.4
"""The share of a search after which samples count."""
SIZED_FOR = 3.0
"""Of what a clean gradient has in a coefficient: noise that the first step size is for. Less noise, shorter steps."""
LONGER, SHORTER = 1.2, 0.5
"""What a step size is multiplied by when a sample is accepted or rejected, so that about four of five are accepted."""


def hamiltonian(
    posterior: Posterior, z: torch.Tensor, search: Search, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and losses averaged over the samples of each chain.

    ``search.lr`` is the first step size, in units of the latents. Each chain fits its own until samples count; then it
    stays, so that the samples are of the posterior.
    """
    generator = torch.Generator().manual_seed(search.seed)
    turns = max(search.iterations // LEAPFROGS, 1)
    step = z.new_full((len(z),), search.lr)
    images, losses, count = torch.zeros_like(posterior.prior.images(z)), torch.zeros_like(step), 0
    for turn in range(turns):
        share = turn / turns
        level = posterior.level(share / COOLED * posterior.cooling)
        momentum = torch.randn(z.shape, generator=generator).to(z)
        uniform = torch.rand(len(z), generator=generator).to(z)
        quiet = (level / (SIZED_FOR * posterior.likelihood.signal)).clamp(max=1)
        z, loss, accepted = _turn(posterior, z, momentum, step * quiet, level, uniform)
        if share < BURNT and turn < turns - 1:
            step = step * torch.where(accepted, LONGER, SHORTER)
        else:
            images, losses, count = images + posterior.prior.images(z).clamp(0, 1), losses + loss, count + 1
        progress(loss)
    return images / count, losses / count


def _turn(
    posterior: Posterior,
    z: torch.Tensor,
    momentum: torch.Tensor,
    step: torch.Tensor,
    level: torch.Tensor,
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A proposal by leapfrogs, and where a chain is after it; z, loss, whether it was accepted."""
    rows = (-1, *[1] * (z.dim() - 1))
    size = step.view(rows)
    slope, loss = _slope(posterior, z, level)
    before, place = loss + _energy(momentum), z
    for _ in range(LEAPFROGS):
        momentum = momentum - size / 2 * slope
        place = place + size * momentum
        slope, proposed = _slope(posterior, place, level)
        momentum = momentum - size / 2 * slope
    # Far outside, numbers overflow: what is not a number is not accepted.
    accepted = uniform.log() < before - proposed - _energy(momentum)
    return torch.where(accepted.view(rows), place, z), torch.where(accepted, proposed, loss), accepted


def _slope(posterior: Posterior, z: torch.Tensor, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = z.detach().requires_grad_()
    losses = posterior.loss(z, level)
    return torch.autograd.grad(losses.sum(), z)[0], losses.detach()


def _energy(momentum: torch.Tensor) -> torch.Tensor:
    return momentum.square().flatten(1).sum(1) / 2


def mean_of_starts(images: torch.Tensor, losses: torch.Tensor, restarts: int) -> Reconstruction:
    """Of chains from different starts, all of which sample the same posterior."""
    tries = images.view(-1, restarts, *images.shape[1:])
    return Reconstruction(tries.mean(1), losses.view(-1, restarts).mean(1), tries)


HAMILTONIAN = Method(hamiltonian, mean_of_starts)
