"""The highest posterior density by Gauss-Newton: the residuals are linear in the latents, nearly, and squared."""

import torch

from bench.privacy.attacker.inversion import Progress, Search, best_start
from bench.privacy.attacker.posterior import Method, Posterior
from bench.privacy.attacker.priors import Operator

SOLVER_STEPS = 8
"""Conjugate gradients for each step of Gauss-Newton."""
COST = 2 * SOLVER_STEPS + 2
"""Of a step of Gauss-Newton in steps of Adam: each of the solver's has a product with the Jacobian and one with its
transpose, and beside them there are a gradient and a loss."""


def gauss_newton(
    posterior: Posterior, z: torch.Tensor, search: Search, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """Levenberg-Marquardt without matrices, for as much work as Adam has with so many iterations.

    Each step minimizes the linearized residuals' squares plus the prior's quadratic plus ``damping`` times the squared
    step, by conjugate gradients. A problem whose loss grows keeps its latents, and its damping is raised. The damping
    starts as ``search.lr``, in units of the prior's own curvature.
    """
    steps = max(search.iterations // COST, 1)
    damping = z.new_full((len(z),), search.lr)
    for step in range(steps):
        share = step / steps
        level = posterior.level(share)
        z, damping, losses = _damped_step(posterior, z, damping, level)
        z = posterior.refine(z, share)
        progress(losses)
    with torch.no_grad():
        return posterior.prior.images(z), posterior.loss(z)


def _damped_step(
    posterior: Posterior, z: torch.Tensor, damping: torch.Tensor, level: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    def residuals(z: torch.Tensor) -> torch.Tensor:
        return posterior.residuals(z, level)

    at_z, transposed = torch.func.vjp(residuals, z)
    # The product with the transposed Jacobian is linear: its own transpose, anywhere, is that with the Jacobian.
    _, forward = torch.func.vjp(lambda u: transposed(u)[0], torch.zeros_like(at_z))
    cost, slope = torch.func.vjp(posterior.prior.cost, z)
    before = at_z.square().sum(1) / 2 + cost
    gradient = transposed(at_z)[0] + slope(torch.ones_like(cost))[0]
    curvature = posterior.prior.curvature(z)

    def hessian(direction: torch.Tensor) -> torch.Tensor:
        return transposed(forward(direction)[0])[0] + curvature(direction) + _rows(damping, z) * direction

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


def _rows(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return numbers.view(-1, *[1] * (like.dim() - 1))


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(1)


GAUSS_NEWTON = Method(gauss_newton, best_start)
