"""Images of the highest posterior density: a message's likelihood under its noise, times a prior of images.

Two searches for them, both over the prior's latents, from several starts as one batch, and both annealed: noise louder
than the true one is assumed at first, under which few optima are left, and the true one at the end.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.attacker.inversion import Progress, Reconstruction, Search, best_start
from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.priors import Operator, Prior, log_spaced
from bench.privacy.client.release import Release

COOLING = 0.7
"""The share of a search after which the true noise is assumed."""


class Posterior:
    """The negative logarithm of the density of P latents, each beside its own message."""

    def __init__(self, likelihood: Likelihood, prior: Prior, hot: float) -> None:
        self.likelihood, self.prior = likelihood, prior
        self._quiet = likelihood.std.amin(1)
        self._loud = torch.maximum(hot * likelihood.signal, self._quiet)

    def level(self, share: float) -> torch.Tensor:
        """Of the noise that is assumed [P], after a share of the search: falls geometrically to the quietest true one.

        It starts at ``hot`` times what a clipped gradient has in a coefficient.
        """
        cooled = min(share / COOLING, 1.0)
        return self._loud ** (1 - cooled) * self._quiet**cooled

    def residuals(self, z: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        """See :meth:`Likelihood.residuals`: [P, D]."""
        return self.likelihood.residuals(self.prior.images(z), level)

    def loss(self, z: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        """[P], up to a constant; of a level of 0 under the true noise."""
        return self.residuals(z, level).square().sum(1) / 2 + self.prior.cost(z)


Find = Callable[[Posterior, torch.Tensor, Search, Progress | None], torch.Tensor]
"""A search: the posterior, the starts z, how long, and what to call after each step; returns what z became."""


def adam(posterior: Posterior, z: torch.Tensor, search: Search, progress: Progress | None = None) -> torch.Tensor:
    """Adam with a step size that falls as half a cosine from ``search.lr``, in units of the latents."""
    z = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=search.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, search.iterations)
    for step in range(search.iterations):
        share = step / search.iterations
        losses = posterior.loss(z, posterior.level(share))
        (z.grad,) = torch.autograd.grad(losses.sum(), z)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            z.copy_(posterior.prior.refine(z, max(0.0, 1 - share / COOLING)))
        if progress is not None:
            progress(losses.detach())
    return z.detach()


SOLVER_STEPS = 8
"""Conjugate gradients for each step of Gauss-Newton."""
COST = 2 * SOLVER_STEPS + 2
"""Of a step of Gauss-Newton in steps of Adam: each of the solver's has a product with the Jacobian and one with its
transpose, and beside them there are a gradient and a loss."""


def gauss_newton(
    posterior: Posterior, z: torch.Tensor, search: Search, progress: Progress | None = None
) -> torch.Tensor:
    """Levenberg-Marquardt without matrices, for as much work as Adam has with so many iterations.

    Each step minimizes the linearized residuals' squares plus the prior's quadratic plus ``damping`` times the squared
    step, by conjugate gradients. A problem whose loss grows keeps its latents, and its damping is raised.
    """
    steps = max(search.iterations // COST, 1)
    damping = z.new_full((len(z),), search.lr)
    for step in range(steps):
        share = step / steps
        level = posterior.level(share)
        z, damping, losses = _damped_step(posterior, z, damping, level)
        z = posterior.prior.refine(z, max(0.0, 1 - share / COOLING))
        if progress is not None:
            progress(losses)
    return z


def _damped_step(
    posterior: Posterior, z: torch.Tensor, damping: torch.Tensor, level: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    def residuals(z: torch.Tensor) -> torch.Tensor:
        return posterior.residuals(z, level)

    at_z, transposed = torch.func.vjp(residuals, z)
    cost, slope = torch.func.vjp(posterior.prior.cost, z)
    before = at_z.square().sum(1) / 2 + cost
    gradient = transposed(at_z)[0] + slope(torch.ones_like(cost))[0]
    curvature = posterior.prior.curvature(z)

    def hessian(direction: torch.Tensor) -> torch.Tensor:
        pushed = torch.func.jvp(residuals, (z,), (direction,))[1]
        return transposed(pushed)[0] + curvature(direction) + _rows(damping, z) * direction

    with torch.no_grad():
        moved = z + conjugate_gradients(hessian, -gradient, SOLVER_STEPS)
        after = posterior.loss(moved, level)
        better = after < before
        damping = torch.where(better, damping / 5, damping * 10).clamp(1e-6, 1e12)
        return torch.where(_rows(better, z), moved, z), damping, torch.where(better, after, before)


def conjugate_gradients(operator: Operator, target: torch.Tensor, steps: int) -> torch.Tensor:
    """Solves operator(x) = target for P problems at once, from zero: [P, ...]; the operator mixes no rows."""
    x, residual = torch.zeros_like(target), target
    direction, size = target, _dot(target, target)
    for _ in range(steps):
        image = operator(direction)
        length = size / _dot(direction, image).clamp(min=torch.finfo(target.dtype).tiny)
        x = x + _rows(length, x) * direction
        residual = residual - _rows(length, x) * image
        grown = _dot(residual, residual)
        direction = residual + _rows(grown / size.clamp(min=torch.finfo(target.dtype).tiny), x) * direction
        size = grown
    return x


def invert_posterior(
    model: nn.Module,
    releases: Sequence[Release],
    *,
    prior: Prior,
    find: Find = adam,
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
        find: :func:`adam` or :func:`gauss_newton`.
        hot: where the annealing starts, see :meth:`Posterior.level`; 0 for none.
        search: steps; ``lr``, Adam's step size or the first damping of Gauss-Newton; starts: the prior's mean, then
            random draws of it by the seed.
        batch_size: images behind each release.
        device: of the search.
        progress: called after each step with the losses [A, restarts] under the noise of that step.

    Returns:
        Images cut to [0, 1]; the best start of each release by the posterior's loss under the true noise.
    """
    posterior = Posterior(Likelihood(model, releases, search.restarts, batch_size, device), prior, hot)
    z = _starts(prior, batch_size, search).repeat(len(releases), *[1] * (prior.mean(1).dim()))

    def report(losses: torch.Tensor) -> None:
        if progress is not None:
            progress(losses.view(-1, search.restarts))

    z = find(posterior, z, search, report)
    with torch.no_grad():
        return best_start(prior.images(z).clamp(0, 1), posterior.loss(z), search.restarts)


def _starts(prior: Prior, batch: int, search: Search) -> torch.Tensor:
    generator = torch.Generator().manual_seed(search.seed)
    draws = [prior.draw(batch, generator) for _ in range(search.restarts - 1)]
    return torch.stack([prior.mean(batch), *draws])


def _rows(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return numbers.view(-1, *[1] * (like.dim() - 1))


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(1)
