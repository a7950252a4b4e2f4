"""The posterior with matrices: for images of a few thousand values."""

import torch

from .message import Message
from .posterior import Posterior, Progress, by_probes, random_signs
from .prior import ImagePrior

BLOCK = 512
"""Columns of a symmetric matrix that are computed at once."""

PROBES = 64
"""Random directions for what each band reveals, whose sum by a matrix would take as long as all the rest."""


def exact_posterior(
    message: Message,
    prior: ImagePrior,
    noise: torch.Tensor,
    chunk: int,
    generator: torch.Generator,
    progress: Progress,
) -> Posterior:
    """By the whole Jacobian and a Cholesky factor.

    In the prior's coordinates z, with x = mean + L z, the posterior's precision is I + L' F L: no smaller than 1 in any
    direction, where that of the pixels may be singular. It is R R', and P = L (R R')^-1 L'.

    Args:
        message: A is its Jacobian, with F = A'A.
        prior: of each of the N images, which are independent.
        noise: N(0, I) of one simulated message, [size].
        chunk: columns of A at once.
        generator: draws the directions for what bands reveal.
        progress: told what share of the work is done.
    """
    images = message.images
    mean = prior.mean.to(images.device)
    jacobian = _jacobian(message, chunk, progress)  # A, [size, d]
    leak = message.by_band(torch.linalg.vector_norm(jacobian, dim=1, dtype=torch.float64).square())
    seen = jacobian @ (images - mean).to(jacobian).flatten() + noise.to(jacobian)
    sensitivity = _gathered(jacobian, images, prior)  # A L, [size, latents]
    del jacobian  # as large as the sensitivity
    precision = _gram(sensitivity)
    precision.diagonal().add_(1.0)
    root = torch.linalg.cholesky(precision)
    factor = torch.block_diag(*[prior.factor().to(images.device)] * len(images))  # L of all images
    half = torch.linalg.solve_triangular(root, factor.T, upper=False)  # [latents, d], P = half' half
    variance = half.square().sum(0).view_as(images)
    latents = torch.cholesky_solve((seen @ sensitivity).double().unsqueeze(1), root)
    guess = mean + (factor @ latents).view_as(images)
    mean_squares = variance.flatten(1).mean(1)
    signs = random_signs(images, PROBES, generator).view(-1, images.numel())
    shown = sensitivity @ torch.cholesky_solve((signs @ factor).T, root).to(sensitivity)  # A P v, [size, N * probes]
    squares = message.by_band(shown.T.square()).view(len(images), PROBES, -1) / images[0].numel()
    zero = torch.zeros_like
    return Posterior(mean_squares, zero(mean_squares), variance.sqrt(), guess, leak, zero(leak), *by_probes(squares))


def _jacobian(message: Message, chunk: int, progress: Progress) -> torch.Tensor:
    images = message.images
    columns = images.numel()
    jacobian = message.squares.new_empty(message.size, columns)  # in the dtype of gradients
    for first in range(0, columns, chunk):
        indices = torch.arange(first, min(first + chunk, columns), device=images.device)
        directions = torch.nn.functional.one_hot(indices, columns).to(images).view(-1, *images.shape)
        jacobian[:, indices] = message.push(directions, chunk).T
        progress(0.8 * (first + len(indices)) / columns)  # the rest is for the matrices
    return jacobian


def _gram(matrix: torch.Tensor) -> torch.Tensor:
    """The lower triangle of B'B, float64, by blocks of columns, with what those have above the diagonal.

    float32's rounding changes it by at most about 2^-24 of its trace in any direction. Where that is nothing beside
    the prior's precision, 1, the product is in float32, which takes half of the time.
    """
    columns = matrix.shape[1]
    trace = torch.linalg.vector_norm(matrix, dtype=torch.float64).square().item()
    if matrix.dtype is torch.float32 and trace * 2.0**-24 < 1e-2:
        parts = iter([matrix])
    else:
        parts = (rows.double() for rows in matrix.split(max(1, 2**25 // columns)))
    total = torch.zeros(columns, columns, dtype=torch.float64, device=matrix.device)
    for rows in parts:
        for first in range(0, columns, BLOCK):
            last = first + BLOCK
            total[first:last, :last] += rows[:, first:last].T @ rows[:, :last]
    return total


def _gathered(rows: torch.Tensor, images: torch.Tensor, prior: ImagePrior) -> torch.Tensor:
    """Rows times L, from [n, d] to [n, N * latents]."""
    return prior.gather(rows.view(-1, *images.shape)).flatten(1)
