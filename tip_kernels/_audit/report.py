"""What an audit found: pictures, ceilings, and the table of where it leaks."""

import dataclasses
import math

import torch

from .coefficients import Band
from .message import Message
from .posterior import Posterior

MOST_ROWS = 24
"""Rows of the table that an audit prints."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Coefficients of one parameter, group of channels and frequency.

    Attributes:
        parameter: its name.
        channels: ``"selected"``, ``"others"``, or ``"all"`` where none are selected.
        radius: the frequency by the highest of the kernel, 0 for its mean; None where there are no kernels.
        std: of the noise on each of them; infinite where nothing arrives (``keep=0``).
        count: how many there are; a mean, as what follows, where messages select other channels.
        leak: their part of the trace of F, over the images of a message.
        leak_error: its standard error; 0 of an exact audit.
        reveals: what pictures owe to them: how fast the mean squared error that is left of an image, summed over the
            images of a message, grows with the logarithm of the noise's variance there.
        reveals_error: its standard error.
        harm: the mean square of gradient or update there, before clipping: how much the loss minds noise there, up to a
            factor.
    """

    parameter: str
    channels: str
    radius: float | None
    std: float
    count: float
    leak: float
    leak_error: float
    reveals: float
    reveals_error: float
    harm: float


@dataclasses.dataclass(frozen=True)
class Audit:
    """What messages under a defense let an attacker see of N images, see :func:`tip_kernels.audit.audit`.

    Attributes:
        psnr: the ceiling for each image in dB, float64 ``[N]``.
        psnr_error: its error in dB: one standard error and what iterations may have left; 0 if it is exact.
        prior_psnr: what the prior's mean gets on average without any message.
        uncertainty: float64 ``[N, channels, height, width]``, the root mean square error that is left at each value;
            where it is small, the image is exposed.
        guess: the best linear guess from one simulated message, as large. It is not clamped to [0, 1].
        leak: rows of the table, in the order of the parameters.
        exact_std: the largest std that stood for no noise at all; 0 if all coefficients have noise.
        method: ``"exact"`` or ``"iterative"``, that which was used.
    """

    psnr: torch.Tensor
    psnr_error: torch.Tensor
    prior_psnr: float
    uncertainty: torch.Tensor
    guess: torch.Tensor
    leak: list[Row]
    exact_std: float
    method: str

    def shape_gain(self) -> float:
        """How many times less the noise would cost in its best shape by bands, at the same ceiling.

        To first order around the noise that was audited, see docs/audit.md; :meth:`tip_kernels.Spectrum.fit` finds the
        shape. Of bands that neither hide nor cost anything, and where nothing arrives, it says nothing.
        """
        pairs = [(row.count * row.harm, row.reveals * row.std**2) for row in self.leak if math.isfinite(row.std)]
        costs, hides = (sum(values) for values in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
        best = sum(math.sqrt(cost * hide) for cost, hide in pairs) ** 2
        return costs * hides / best if best > 0 else 1.0

    def __str__(self) -> str:
        low, high, mean = self.psnr.min().item(), self.psnr.max().item(), self.psnr.mean().item()
        lines = [
            f"ceiling {mean:.1f} dB, {low:.1f} to {high:.1f} over {len(self.psnr)} images, "
            f"{self.prior_psnr:.1f} without a message"
            + (f"; error up to {self.psnr_error.max().item():.2f} dB" if self.psnr_error.any() else "")
        ]
        leaks, reveals = (sum(getattr(row, name) for row in self.leak) or 1.0 for name in ("leak", "reveals"))
        shown = sorted(self.leak, key=lambda row: -row.reveals)[:MOST_ROWS]
        width = max((len(row.parameter) for row in shown), default=0)
        lines.append(f"{'parameter':{width}}  channels  frequency       std  reveals    leak      harm")
        for row in shown:
            radius = "" if row.radius is None else f"{row.radius:.2f}"
            lines.append(
                f"{row.parameter:{width}}  {row.channels:8}  {radius:>9}  {row.std:8.2g}  "
                f"{row.reveals / reveals:7.1%}  {row.leak / leaks:6.1%}  {row.harm:8.2e}"
            )
        if len(self.leak) > len(shown):
            lines.append(f"and {len(self.leak) - len(shown)} rows that reveal less")
        lines.append(f"in its best shape by these bands the noise would cost {self.shape_gain():.2f} times less")
        return "\n".join(lines)


class Tally:
    """Adds up the table over messages, whose channels may differ."""

    def __init__(self) -> None:
        self._sums: dict[Band, list[float]] = {}
        self._messages = 0

    def add(self, message: Message, posterior: Posterior) -> None:
        """Counts one message."""
        self._messages += 1
        counts = message.by_band(torch.ones_like(message.squares))
        leaks = (posterior.leak, posterior.leak_errors.square())
        reveals = (posterior.reveals, posterior.reveals_errors.square())
        columns = (counts, *leaks, *reveals, message.by_band(message.squares))
        for band, *values in zip(message.bands, *(column.tolist() for column in columns), strict=True):
            before = self._sums.setdefault(band, [0.0] * len(values))
            self._sums[band] = [a + b for a, b in zip(before, values, strict=True)]

    def rows(self) -> list[Row]:
        """Means over the messages."""
        messages = self._messages
        return [
            Row(
                band.parameter, band.channels, band.radius, band.std,
                count=count / messages, leak=leak / messages, leak_error=leak_variance**0.5 / messages,
                reveals=reveals / messages, reveals_error=variance**0.5 / messages, harm=squares / max(count, 1.0),
            )
            for band, (count, leak, leak_variance, reveals, variance, squares) in self._sums.items()
        ]  # fmt: skip
