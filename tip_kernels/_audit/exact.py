"""The posterior with matrices: for images of a few thousand values."""

import torch

from .message import Message
from .posterior import Posterior, Progress
from .prior import ImagePrior


def exact_posterior(
    message: Message, prior: ImagePrior, noise: torch.Tensor, chunk: int, progress: Progress
) -> Posterior:
    """By the whole Jacobian and a Cholesky factor.

    In the prior's coordinates z, with x = mean + L z, the posterior's precision is I + L' F L: no smaller than 1 in any
    direction, where that of the pixels may be singular. It is R R', and P = L (R R')^-1 L'.

    Args:
        message: A is its Jacobian, with F = A'A.
        prior: of each of the N images, which are independent.
        noise: N(0, I) of one simulated message, [size].
        chunk: columns of A at once.
        progress: told what share of the work is done.
    """
    images = message.images
    jacobian = _jacobian(message, chunk, progress)  # [size, d]
    leak = message.by_band(_row_squares(jacobian))
    fisher = _gram(jacobian, leak.sum().item() * prior.variance.sum().item())  # [d, d]
    factor = _gathered(torch.eye(images.numel(), dtype=torch.float64, device=images.device), images, prior)  # L, by rows
    precision = _gathered(_gathered(fisher, images, prior).T, images, prior)  # L' F L
    precision.diagonal().add_(1.0)
    root = torch.linalg.cholesky(precision)
    half = torch.linalg.solve_triangular(root, factor.T, upper=False)  # [latents, d], P = half' half
    variance = half.square().sum(0).view_as(images)
    centered = (images - prior.mean.to(images.device)).double().flatten()
    seen = fisher @ centered + (noise.to(jacobian) @ jacobian).double()
    guess = prior.mean.to(images.device) + (half.T @ (half @ seen)).view_as(images)
    mean_squares = variance.flatten(1).mean(1)
    errors = torch.zeros_like(mean_squares)
    return Posterior(mean_squares, errors, variance.sqrt(), guess, leak, torch.zeros_like(leak))


def _jacobian(message: Message, chunk: int, progress: Progress) -> torch.Tensor:
    images = message.images
    columns = images.numel()
    jacobian = images.new_empty(message.size, columns)
    for first in range(0, columns, chunk):
        indices = torch.arange(first, min(first + chunk, columns), device=images.device)
        directions = torch.nn.functional.one_hot(indices, columns).to(images).view(-1, *images.shape)
        jacobian[:, indices] = message.push(directions, chunk).T
        progress(0.8 * (first + len(indices)) / columns)  # the rest is for the matrices
    return jacobian


def _row_squares(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64).square()


def _gram(matrix: torch.Tensor, most: float) -> torch.Tensor:
    """A'A, float64.

    float32's rounding changes L'A'AL by about 2^-24 of its trace, at most ``most``; where that is nothing beside the
    prior's precision, 1, the product is in float32, which takes half of the time.
    """
    if matrix.dtype is torch.float32 and most * 2.0**-24 < 1e-2:
        return (matrix.T @ matrix).double()
    rows = 2**25 // max(matrix.shape[1], 1)
    total = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for part in matrix.split(max(rows, 1)):
        wide = part.double()
        total.addmm_(wide.T, wide)
    return total


def _gathered(rows: torch.Tensor, images: torch.Tensor, prior: ImagePrior) -> torch.Tensor:
    """Rows L, from [n, d] to [n, N * latents]."""
    return prior.gather(rows.view(-1, *images.shape)).flatten(1)
