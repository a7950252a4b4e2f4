"""The search whose prior is a flow: half-quadratic splitting with annealed noise, or posterior sampling.

A run follows noise levels of the pixels downward. At each the denoiser guesses the image behind its noisy point, and
the message corrects the guess: a Gauss-Newton step on the message's likelihood beside a Gaussian around the guess. Then
noise is put back for the next level. This is DiffPIR (Zhu et al. 2023, algorithm 1), but in the place of one number for
the denoiser's error there is, for each frequency, what a Gaussian's denoiser would leave. Where the correction is drawn
from that Gaussian given the message instead of being its mean, the runs are samples of the posterior, as in DAPS (Zhang
et al. 2025, algorithm 1). Either way the mean of several runs is nearer to the image than one of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from bench.privacy.attacker.gauss_newton import conjugate_gradients
from bench.privacy.attacker.inversion import Reconstruction, best_start
from bench.privacy.attacker.likelihood import Likelihood
from bench.privacy.attacker.priors import Operator
from bench.privacy.client.release import Release
from bench.privacy.prior.denoiser import Denoiser, levels
from bench.privacy.prior.spectral import SpectralGaussian
from bench.privacy.prior.time import SPREAD

Progress = Callable[[torch.Tensor], None]


class Plan(NamedTuple):
    """How a run goes.

    Args:
        first: noise level of the pixels that it begins with.
        last: the lowest.
        count: of levels.
        solver: iterations of conjugate gradients at each.
        fresh: share of the noise that is drawn anew at each level; 0 follows the flow, 1 forgets the way.
        trust: factor on the std of the Gaussian around the denoiser's guess.
        heat: 0 takes the mean of the correction, 1 draws it.
        by_class: whether the message's labels are classes of the denoiser's images.
        seed: of all noise.
    """

    first: float = 2.0
    last: float = 0.01
    count: int = 15
    solver: int = 10
    fresh: float = 1.0
    trust: float = 1.3
    heat: float = 0.0
    by_class: bool = True
    seed: int = 0


def invert_by_flow(
    model: nn.Module,
    releases: Sequence[Release],
    *,
    denoiser: Denoiser,
    spread: SpectralGaussian,
    plan: Plan = Plan(),  # noqa: B008 - a NamedTuple is immutable
    runs: int = 8,
    batch_size: int = 1,
    progress: Progress | None = None,
    labels: Sequence[torch.Tensor] | None = None,
) -> Reconstruction:
    """Attacks every release by several runs.

    Args:
        model: the global model with the parameters that the client used.
        releases: of one defense; all that is known of it is in them.
        denoiser: of images of the client's shape.
        spread: see :func:`sampled`.
        plan: of each run.
        runs: for each release.
        batch_size: images behind each.
        progress: called after each level with the images of the runs.
        labels: int64 [batch_size] of each release, where they are known or ``labels.read_labels`` found them.

    Returns:
        As ``images`` the mean of the runs, or where a batch has two images of a class, which runs may have in any
        order, the run that fits its message best. Losses are half the squared residuals of that run.
    """
    message = Likelihood(model, releases, runs, batch_size, labels=labels)
    found = sampled(message, denoiser, spread, plan, progress)
    with torch.no_grad():
        losses = message.residuals(found).square().sum(1) / 2
    chosen = best_start(found, losses, runs)
    classes = message.labels.view(-1, runs, batch_size)[:, 0]
    apart = torch.tensor([len(row.unique()) == batch_size for row in classes])
    images = torch.where(apart.view(-1, 1, 1, 1, 1), chosen.tries.mean(1), chosen.images)
    return chosen._replace(images=images)


def sampled(
    message: Likelihood,
    denoiser: Denoiser,
    spread: SpectralGaussian,
    plan: Plan = Plan(),  # noqa: B008 - a NamedTuple is immutable
    progress: Progress | None = None,
) -> torch.Tensor:
    """One run for each row of the message's labels.

    Args:
        message: of P candidates with B images each.
        denoiser: of images of that shape.
        spread: the Gaussian whose uncertainty stands for that of the denoiser.
        plan: of the run.
        progress: called after each level with the images so far.

    Returns:
        [P, B, channels, height, width], cut to [0, 1].
    """
    draw = torch.Generator().manual_seed(plan.seed)
    labels = message.labels.flatten() if plan.by_class and denoiser.classes else None
    shape = (*message.labels.shape, *denoiser.shape)
    steps = levels(plan.first, plan.last, plan.count).tolist()
    noisy = 0.5 + steps[0] * torch.randn(shape, generator=draw)
    for std, following in zip(steps, [*steps[1:], 0.0], strict=True):
        with torch.no_grad():
            guess = denoiser.denoise(noisy.flatten(0, 1), std, labels).view(shape)
        heat = plan.heat if following else 0.0  # the last correction is kept as it is
        image = Correction(message, guess, root_at(spread, std, plan.trust), heat, draw).solve(plan.solver)
        kept, fresh = (noisy - image) / std, torch.randn(shape, generator=draw)
        noisy = image + following * ((1 - plan.fresh) ** 0.5 * kept + plan.fresh**0.5 * fresh)
        if progress is not None:
            progress(image)
    return image.clamp(0, 1)


def root_at(spread: SpectralGaussian, std: float, trust: float) -> Operator:
    """The root of the covariance that the Gaussian leaves of images behind noise of that std, as an operator."""
    level = (std / SPREAD) ** 2
    scale = trust * SPREAD * (spread.variance * level / (spread.variance + level)).sqrt()
    return lambda white: spread.synthesize(white.flatten(0, 1) * scale).view_as(white)


class Correction:
    """The best compromise of a guess with its message: the least sum of squares of residuals and latents.

    A latent is a step from the guess in units of the root of its covariance. With a heat of 1, residuals and latents
    are compared with draws of what they are distributed like; for linear messages the minimum is then a sample of the
    Gaussian given the message.

    Args:
        message: of P candidates.
        guess: [P, B, channels, height, width].
        root: of its covariance.
        heat: factor on the draws.
        draw: where they come from.
    """

    def __init__(
        self, message: Likelihood, guess: torch.Tensor, root: Operator, heat: float, draw: torch.Generator
    ) -> None:
        self._message, self._guess, self._root = message, guess, root
        self._shift = heat * torch.randn(message.observed.shape, generator=draw)
        self._center = heat * torch.randn(guess.shape, generator=draw)

    def solve(self, iterations: int) -> torch.Tensor:
        """The image after one Gauss-Newton step, or the best part of it."""
        start = torch.zeros_like(self._guess)
        return self._image(self._descended(start, self._gauss_newton(start, iterations)))

    def _image(self, latent: torch.Tensor) -> torch.Tensor:
        return self._guess + self._root(latent)

    def _residuals(self, latent: torch.Tensor) -> torch.Tensor:
        return self._message.residuals(self._image(latent)) + self._shift

    def _gauss_newton(self, latent: torch.Tensor, iterations: int) -> torch.Tensor:
        latent = latent.requires_grad_()
        with torch.enable_grad():
            found = self._residuals(latent)
            # The residuals' Jacobian times a direction is the gradient, by these weights, of its transpose times them.
            weights = torch.zeros_like(found, requires_grad=True)
            (pulled,) = torch.autograd.grad(found, latent, weights, create_graph=True)

        def curved(direction: torch.Tensor) -> torch.Tensor:
            (pushed,) = torch.autograd.grad(pulled, weights, direction, retain_graph=True)
            return torch.autograd.grad(found, latent, pushed, retain_graph=True)[0] + direction

        (slope,) = torch.autograd.grad(found, latent, found.detach(), retain_graph=True)
        return conjugate_gradients(curved, self._center - latent.detach() - slope, iterations)

    @torch.no_grad()
    def _descended(self, latent: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """The best of the points at 1, 1/2, 1/4 and 1/8 of the step, or none of it, for each candidate."""
        best, lowest = latent, self._cost(latent)
        for share in (1, 1 / 2, 1 / 4, 1 / 8):
            value = self._cost(latent + share * step)
            better = value < lowest
            best = torch.where(better.view(-1, 1, 1, 1, 1), latent + share * step, best)
            lowest = torch.where(better, value, lowest)
        return best

    def _cost(self, latent: torch.Tensor) -> torch.Tensor:
        return self._residuals(latent).square().sum(1) + (latent - self._center).square().flatten(1).sum(1)
