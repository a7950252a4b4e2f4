"""Images by their posterior density: a message's likelihood under its noise, times a prior of images.

Methods move the prior's latents, from several starts as one batch, and are annealed: noise louder than the true one is
assumed at first, under which few optima are left, and the true one at the end. ``climbing`` and ``gauss_newton`` look
for the highest density, ``sampling`` for the mean.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.attacker.inversion import Progress, Reconstruction, Search
from bench.privacy.attacker.likelihood import Likelihood, Part
from bench.privacy.attacker.priors import Density, Prior
from bench.privacy.client.release import Release


class Posterior:
    """The negative logarithm of the density of P latents, each beside its own message."""

    cooling = 0.7
    """The share of a search after which the true noise is assumed."""

    def __init__(self, likelihood: Likelihood | Part, prior: Density, hot: float) -> None:
        self.likelihood, self.prior = likelihood, prior
        self._quiet = likelihood.std.amin(1)
        self._loud = torch.maximum(hot * likelihood.signal, self._quiet)

    def level(self, share: float) -> torch.Tensor:
        """Of the noise that is assumed [P], after a share of the search: falls geometrically to the quietest true one.

        It starts at ``hot`` times what a clean gradient has in a coefficient, about.
        """
        cooled = min(share / self.cooling, 1.0)
        return self._loud ** (1 - cooled) * self._quiet**cooled

    def refine(self, z: torch.Tensor, share: float) -> torch.Tensor:
        """What the prior makes of latents after a step at this share of the search."""
        return self.prior.refine(z, max(0.0, 1 - share / self.cooling))

    def residuals(self, z: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        """See :meth:`Likelihood.residuals`: [P, D]."""
        return self.likelihood.residuals(self.prior.images(z), level)

    def loss(self, z: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        """[P], up to a constant; of a level of 0 under the true noise."""
        return self.residuals(z, level).square().sum(1) / 2 + self.prior.cost(z)


class Method(NamedTuple):
    """How to get from starts to images.

    Args:
        move: from starts z to images [P, B, channels, height, width], not cut, and their losses [P].
        choose: of images and losses of all starts and the number of starts of a problem.
    """

    move: Callable[[Posterior, torch.Tensor, Search, Progress], tuple[torch.Tensor, torch.Tensor]]
    choose: Callable[[torch.Tensor, torch.Tensor, int], Reconstruction]


def invert_posterior(
    model: nn.Module,
    releases: Sequence[Release],
    *,
    prior: Prior,
    method: Method,
    hot: float = 10.0,
    search: Search = Search(),  # noqa: B008 - a NamedTuple is immutable
    batch_size: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Reconstruction:
    """Attacks every release from every start, as one batched search.

    Args:
        model: as of ``inversion.invert``.
        releases: of one defense; all that is known of it is in them.
        prior: of images, on that device.
        method: ``climbing.ADAM``, ``gauss_newton.GAUSS_NEWTON`` or ``sampling.HAMILTONIAN``.
        hot: where the annealing starts, see :meth:`Posterior.level`; 0 for none.
        search: steps, each as much work as one of Adam; ``lr`` as the method takes it; starts: the prior's mean, then
            random draws of it by the seed.
        batch_size: images behind each release.
        device: of the search.
        progress: called after each step with the losses [A, restarts] under the noise of that step.

    Returns:
        Images cut to [0, 1]; of the starts as the method chooses, by the loss under the true noise.
    """
    posterior = Posterior(Likelihood(model, releases, search.restarts, batch_size, device), prior, hot)
    z = starts(prior, batch_size, search).repeat(len(releases), *[1] * (prior.mean(1).dim()))

    images, losses = method.move(posterior, z, search, by_problem(progress, search.restarts))
    return method.choose(images.clamp(0, 1), losses, search.restarts)


def by_problem(progress: Progress | None, restarts: int) -> Progress:
    """What is called with the losses [P] of all starts, and calls ``progress``, if there is one, with [A, restarts]."""

    def report(losses: torch.Tensor) -> None:
        if progress is not None:
            progress(losses.view(-1, restarts))

    return report


def starts(prior: Prior, batch: int, search: Search) -> torch.Tensor:
    """Of one problem, as many as the search asks for: the prior's mean and random draws of it by the seed."""
    generator = torch.Generator().manual_seed(search.seed)
    draws = [prior.draw(batch, generator) for _ in range(search.restarts - 1)]
    return torch.stack([prior.mean(batch), *draws])
