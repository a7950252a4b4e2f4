"""The posterior without matrices: products by the Jacobian, conjugate gradients and random probes, for large images."""

import math
from collections.abc import Callable

import torch

from .message import Message
from .posterior import Posterior, Progress, by_probes, random_signs
from .prior import ImagePrior

TOLERANCE = 1e-3
"""Iterations end where what they may have left of a probe's mean squared error is this share of it."""


def iterative_posterior(
    message: Message,
    prior: ImagePrior,
    noise: torch.Tensor,
    probes: int,
    iterations: int,
    chunk: int,
    generator: torch.Generator,
    progress: Progress,
) -> Posterior:
    """By conjugate gradients on M = I + L' F L, the posterior's precision in the prior's coordinates.

    - The trace of P over an image is the mean of v' P v over random signs v there (Hutchinson 1989).
    - Its diagonal is the mean square of samples of the posterior, L M^-1 (L' A' e + f) with e and f from N(0, I).
    - The posterior mean solves one system more.

    Iterations err in one direction and by a known amount: b' z_k grows towards b' M^-1 b, and the rest is
    r' M^-1 r <= r' r, with the residual r, because M >= I.

    Args:
        message: A is its Jacobian, with F = A'A.
        prior: of each of the N images, which are independent.
        noise: of one simulated message, [size].
        probes: signs for each image, and samples.
        iterations: at most.
        chunk: products at once.
        generator: draws signs and samples.
        progress: told what share of the work is done, at most.
    """
    images = message.images
    count = len(images)

    def precision(latents: torch.Tensor) -> torch.Tensor:
        seen = message.pull(message.push(prior.spread(latents), chunk), chunk).double()
        return latents + prior.gather(seen)

    def squares(directions: torch.Tensor) -> torch.Tensor:  # of products by A, [N, probes, bands]
        found = [message.by_band(message.push(part, chunk).square()) for part in directions.split(chunk)]
        return torch.cat(found).view(count, probes, -1)

    signs = random_signs(images, probes, generator).flatten(0, 1)
    leak, leak_errors = by_probes(squares(signs))
    rows = [prior.gather(signs)]
    sampled = message.pull(_normals((probes, message.size), images, generator), chunk).double()
    rows.append(prior.gather(sampled) + _normals((probes, count, prior.latents), images, generator).double())
    centered = images.double() - prior.mean.to(images.device)
    fisher_centered = message.pull(message.push(centered.unsqueeze(0), chunk) + noise.to(images), chunk).double()
    rows.append(prior.gather(fisher_centered))
    right = torch.cat(rows)  # [.., N, latents]
    solved, rests = conjugate_gradients(precision, right, TOLERANCE, iterations, progress)

    values = images[0].numel()
    quadratic = (right * solved).flatten(1).sum(1)[: count * probes].view(count, probes)
    rest = rests[: count * probes].view(count, probes).mean(1)
    means = quadratic.mean(1)
    errors = quadratic.std(1) / math.sqrt(probes) + rest
    reveals, reveals_errors = by_probes(squares(prior.spread(solved[: count * probes])) / values)
    samples = prior.spread(solved[count * probes : -1])
    return Posterior(
        means / values,
        errors / values,
        samples.square().mean(0).sqrt(),
        prior.mean.to(images.device) + prior.spread(solved[-1]),
        leak,
        leak_errors,
        reveals,
        reveals_errors,
    )


def conjugate_gradients(
    apply: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    tolerance: float,
    most: int,
    progress: Progress,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves M z = b for rows b [m, ...] by a symmetric M >= I (Hestenes and Stiefel 1952).

    Returns:
        (z, squared norms of the residuals [m]). A row ends where its residual's is ``tolerance`` of b' z, or after
        ``most`` iterations.
    """
    shape = right.shape
    right = right.flatten(1)
    solved = torch.zeros_like(right)
    residual = right.clone()
    direction = right.clone()
    squares = residual.square().sum(1)
    active = squares > 0
    for iteration in range(most):
        rows = active.nonzero().squeeze(1)
        if len(rows) == 0:
            break
        along = direction[rows]
        applied = apply(along.view(-1, *shape[1:])).flatten(1)
        step = (squares[rows] / (along * applied).sum(1)).unsqueeze(1)
        solved[rows] += step * along
        residual[rows] -= step * applied
        now = residual[rows].square().sum(1)
        direction[rows] = residual[rows] + (now / squares[rows]).unsqueeze(1) * along
        squares[rows] = now
        active[rows] = now > tolerance * (right[rows] * solved[rows]).sum(1)
        progress((iteration + 1) / most)
    return solved.view(shape), squares


def _normals(shape: tuple[int, ...], images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=images.dtype, device="cpu").to(images.device)
