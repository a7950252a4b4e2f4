"""Gradient inversion: rebuilding a client's images from the gradient it sent.

The attacker holds the model, its parameters and the gradient, and searches for images whose own gradient looks
like the one it saw: by cosine similarity, total variation and signed Adam (:func:`invert`, Geiping et al. 2020) or by
squared distance and L-BFGS (:func:`invert_lbfgs`, DLG, Zhu et al. 2019). What it knows of a defense is in the weights
of its :class:`problem.Problem`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from bench.privacy.attacker.matching import Bases, Matcher, Objective, cosine_distance, squared_distance
from bench.privacy.attacker.problem import Problem


class Search(NamedTuple):
    """How an attacker searches.

    Args:
        iterations: steps of Adam or of L-BFGS.
        lr: Adam's first step size; L-BFGS searches along a line instead.
        restarts: random starts.
        seed: of those starts.
    """

    iterations: int = 600
    lr: float = 0.1
    restarts: int = 1
    seed: int = 0


class Reconstruction(NamedTuple):
    """What came of A problems.

    Args:
        images: [A, B, channels, height, width] in [0, 1], of the starts with the lowest loss.
        losses: [A], theirs.
        tries: [A, restarts, B, channels, height, width], of every start.
    """

    images: torch.Tensor
    losses: torch.Tensor
    tries: torch.Tensor


Progress = Callable[[torch.Tensor], None]


@contextlib.contextmanager
def progress_bar(search: Search, text: str, leave: bool = False) -> Iterator[Progress]:
    """What to hand to :func:`invert` as ``progress``, for a bar of the steps; ``leave``: it stays when it is full."""
    with tqdm(total=search.iterations, desc=text, unit="step", leave=leave) as bar:
        yield lambda _losses: bar.update()


def invert(
    model: nn.Module,
    problems: Sequence[Problem],
    image_shape: Sequence[int],
    *,
    search: Search = Search(),  # noqa: B008 - a NamedTuple is immutable
    objective: Objective = cosine_distance,
    bases: Bases = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Attacks every problem from every random start, as one batched optimization.

    Args:
        model: the global model with the parameters that the client used, in the client's mode: a batch norm in
            training mode normalizes each candidate's batch by its own statistics.
        problems: A gradients of this model, with B labels each.
        image_shape: (channels, height, width).
        search: steps, starts and seed.
        objective: the matching loss.
        bases: of the coefficients that the problems' weights speak of.
        progress: called after each step with the losses [A, restarts].

    Returns:
        The best start of each problem, chosen by its loss.
    """
    observed = Matcher(model, problems, search.restarts, bases)
    labels = torch.stack([problem.labels for problem in problems]).repeat_interleave(search.restarts, 0)
    smoothing = torch.tensor([problem.smoothing for problem in problems], device=labels.device)
    smoothing = smoothing.repeat_interleave(search.restarts)

    def loss(images: torch.Tensor) -> torch.Tensor:  # [P, B, *image_shape] -> [P]
        return observed.distance(objective, images, labels) + smoothing * total_variation(images)

    starts = _random_starts(len(problems), labels.shape[1], image_shape, search).to(labels.device)
    images, losses = _signed_adam(loss, starts, search, progress)
    return best_start(images, losses, search.restarts)


def invert_lbfgs(
    model: nn.Module,
    problems: Sequence[Problem],
    image_shape: Sequence[int],
    *,
    search: Search = Search(iterations=300),  # noqa: B008 - a NamedTuple is immutable
    objective: Objective = squared_distance,
    bases: Bases = None,
    progress: Progress | None = None,
    max_norm: float = math.inf,
) -> Reconstruction:
    """Attacks every problem from every random start by L-BFGS, one after the other (DLG, Zhu et al. 2019).

    The images are free while the search runs and cut to [0, 1] at its end. The net has to be twice differentiable:
    with ReLU the matching loss is nearly flat almost everywhere. Arguments and result as of :func:`invert`, but the
    images have the dtype of the gradients, ``search.lr`` is not used, and ``progress`` is called once a start, with its
    loss [1, 1]. Distances depend on the scale, unlike cosines: ``max_norm`` is what the client clipped its gradient to,
    and the candidates' are clipped alike.
    """
    images, losses = [], []
    for problem in problems:
        observed = Matcher(model, [problem], 1, bases, max_norm)
        for start in _random_starts(1, len(problem.labels), image_shape, search):

            def loss(images: torch.Tensor, problem=problem, observed=observed) -> torch.Tensor:
                distance = observed.distance(objective, images, problem.labels[None])
                return distance + problem.smoothing * total_variation(images)

            found, value = _lbfgs(loss, start[None].to(problem.gradient[0]), search.iterations)
            images.append(found)
            losses.append(value)
            if progress is not None:
                progress(value.view(1, 1))
    return best_start(torch.cat(images), torch.cat(losses), search.restarts)


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbors, down plus across: [P, B, channels, height, width] -> [P]."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs()
    across = (images[..., :, 1:] - images[..., :, :-1]).abs()
    return down.flatten(1).mean(1) + across.flatten(1).mean(1)


def _random_starts(count: int, batch: int, image_shape: Sequence[int], search: Search) -> torch.Tensor:
    """Uniform images [count * restarts, batch, *image_shape]; every problem gets the same ones."""
    generator = torch.Generator().manual_seed(search.seed)
    starts = torch.rand(search.restarts, batch, *image_shape, generator=generator)
    return starts.repeat(count, *[1] * (starts.dim() - 1))


def _signed_adam(loss, images: torch.Tensor, search: Search, progress) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam on the signs of the gradient, within [0, 1], with a step size that falls as half a cosine."""
    images = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=search.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, search.iterations)
    for _ in range(search.iterations):
        losses = loss(images)
        (images.grad,) = torch.autograd.grad(losses.sum(), images)
        images.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        if progress is not None:
            progress(losses.detach().view(-1, search.restarts))
    with torch.no_grad():
        return images.detach(), loss(images)


def _lbfgs(loss, images: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """L-BFGS with strong Wolfe line searches and the 100 last steps in memory; stops early where nothing moves."""
    images = images.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [images], max_iter=iterations, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(images).sum()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        found = images.detach().clamp(0, 1)
        return found, loss(found)


def best_start(images: torch.Tensor, losses: torch.Tensor, restarts: int) -> Reconstruction:
    """Of problems times restarts, as many rows, each problem's start with the lowest loss."""
    losses = losses.view(-1, restarts)
    tries = images.view(*losses.shape, *images.shape[1:])
    rows, best = torch.arange(len(losses), device=losses.device), losses.argmin(1)
    return Reconstruction(tries[rows, best], losses[rows, best], tries)
