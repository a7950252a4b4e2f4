"""How likely a message is under the noise that the defense is known to add, for candidate images.

A message is the clipped gradient plus Gaussian noise whose standard deviation every orthonormal coefficient has for
itself. So its likelihood is that of the residuals, each by its standard deviation, and the whole of a defense is in
those numbers: coefficients that are exact, noised and lost are all used for what they are worth. Where a client sends
the running statistics of its batch norms too, those of its batch are as many more coefficients, and exact.
"""

from collections.abc import Sequence

import torch
from torch import nn

from bench.privacy.attacker.candidates import Candidates
from bench.privacy.attacker.labels import known_labels
from bench.privacy.client.gradients import kernel_shape
from bench.privacy.client.release import Release, unsmoothed
from bench.privacy.client.statistics import Statistics

EXACT = 1e-3
"""No coefficient counts as known more exactly than this share of the root mean square of the quietest coefficients.

It stands for zero, which nothing can be divided by, and is far above the rounding of float32.
"""


class Likelihood:
    """The whitened residuals of A messages of one defense, for P = A * restarts candidates at once.

    Attributes:
        labels: int64 [P, B], known or read off the messages.
        std: [P, D], of the noise in each coefficient; at least the floor of :data:`EXACT`; infinite for what is lost.
        observed: [P, D], the coefficients of the messages: of their gradients, then of their statistics.
        signal: [P], about the root mean square of a clean gradient's coefficients: of norm of the clipping, or of the
            message if it is shorter.
    """

    def __init__(
        self,
        model: nn.Module,
        releases: Sequence[Release],
        restarts: int = 1,
        batch_size: int = 1,
        device: str = "cpu",
    ) -> None:
        self._candidates = Candidates(model, releases[0].local)
        self._bases = [None if basis is None else basis.to(device) for basis in releases[0].bases]
        plain = [unsmoothed(release) for release in releases]
        labels = [known_labels(r, batch_size) for r in plain]
        observed = torch.cat([self._coefficients([g[None].to(device) for g in r.gradient]) for r in plain])
        std = torch.stack([_flat_std(release) for release in plain]).to(device)
        self.labels = torch.stack(labels).to(device).repeat_interleave(restarts, 0)
        self.observed = observed.repeat_interleave(restarts, 0)
        self.std = _at_least_the_floor(std, observed).repeat_interleave(restarts, 0)
        norms = torch.tensor([release.max_norm for release in releases], device=device)
        self._max_norm = norms.repeat_interleave(restarts)
        self.signal = torch.minimum(self._max_norm, self.observed.norm(dim=1)) / self.observed.shape[1] ** 0.5
        self._known = _stacked(releases, restarts, device)
        if self._known is not None:
            known = self._in_units_of_the_signal(self._known)
            self.observed = torch.cat([self.observed, known], 1)
            self.std = torch.cat([self.std, (EXACT * self.signal).view(-1, 1).expand_as(known)], 1)

    def residuals(self, images: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        """[P, D] of candidates [P, B, *image_shape]: standard normal under the noise, for the client's own images.

        Half the sum of their squares is the negative logarithm of the likelihood, up to a constant.

        Args:
            images: the candidates.
            level: [P] or one number; noise as loud at least is assumed everywhere, for annealing.
        """
        sent = self._candidates.sent(images, self.labels, self._max_norm)
        coefficients = self._coefficients(sent.gradient)
        if self._known is not None:
            coefficients = torch.cat([coefficients, self._in_units_of_the_signal(sent.statistics)], 1)
        return (coefficients - self.observed) / self.annealed_std(level)

    def annealed_std(self, level: torch.Tensor | float) -> torch.Tensor:
        """[P, D]: the true one where it is above the level."""
        return torch.maximum(self.std, torch.as_tensor(level, device=self.std.device).view(-1, 1))

    def _in_units_of_the_signal(self, statistics: Statistics) -> torch.Tensor:  # [P, 2 S]
        """Means by the known standard deviations, variances by the known variances, as loud as a gradient on average.

        So noise that is assumed for annealing hides as much of them as of the gradient.
        """
        assert self._known is not None
        variance = self._known.variance + torch.finfo().eps
        parts = [statistics.mean / variance.sqrt(), statistics.variance / variance]
        return self.signal.view(-1, 1) * torch.cat(parts, 1)

    def _coefficients(self, gradients: list[torch.Tensor]) -> torch.Tensor:  # P gradients of each parameter -> [P, D]
        parts = []
        for gradient, basis in zip(gradients, self._bases, strict=True):
            part = gradient.reshape(len(gradient), *kernel_shape(gradient.shape[1:]))  # [P, C, M, K]
            parts.append((part if basis is None else part @ basis).flatten(1))
        return torch.cat(parts, 1)


class Part:
    """The likelihood of some of the numbers of the messages.

    Args:
        whole: of all of them.
        chosen: bool [D], which.
    """

    def __init__(self, whole: Likelihood, chosen: torch.Tensor) -> None:
        self._whole, self._chosen = whole, chosen
        self.std, self.signal = whole.std[:, chosen], whole.signal

    def residuals(self, images: torch.Tensor, level: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Of those alone; see :meth:`Likelihood.residuals`."""
        return self._whole.residuals(images, level)[:, self._chosen]


def _stacked(releases: Sequence[Release], restarts: int, device: str) -> Statistics | None:  # [P, S] each
    known = [release.statistics for release in releases if release.statistics is not None]
    if not known:
        return None
    return Statistics(
        *[torch.stack(part).to(device).repeat_interleave(restarts, 0) for part in zip(*known, strict=True)]
    )


def _flat_std(release: Release) -> torch.Tensor:
    return torch.cat(
        [
            std.expand(kernel_shape(g.shape)).flatten()
            for std, g in zip(release.noise_std, release.gradient, strict=True)
        ]
    )


def _at_least_the_floor(std: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    quietest = std <= std.amin(1, keepdim=True)
    rms = ((observed.square() * quietest).sum(1, keepdim=True) / quietest.sum(1, keepdim=True)).sqrt()
    return torch.maximum(std, EXACT * rms)
