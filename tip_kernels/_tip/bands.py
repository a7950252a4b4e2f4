"""The high bands of a model's conv kernels, and what a selected kernel keeps of its own."""

import math

import torch

from .. import spectrum
from .._op.plan import Masks


class HighBands:
    """The high band of each kernel size, by ``masks`` or ``cutoff``; ``keep`` of it is left under the noise."""

    def __init__(self, cutoff: float, masks: Masks | None, keep: float) -> None:
        self._cutoff = cutoff
        self._masks = masks or {}
        self._keep = keep

    def mask(self, kernel_size: tuple[int, ...]) -> torch.Tensor:
        """The bins of the high band, bool in ``rfftn`` layout."""
        mask = self._masks.get(kernel_size)
        return spectrum.radial_mask(kernel_size, self._cutoff) if mask is None else mask

    def is_empty(self, kernel_size: tuple[int, ...]) -> bool:
        """Whether kernels of this size have no high band, as those of 1x1."""
        return not self.mask(kernel_size).any()

    def dimension(self, kernel_size: tuple[int, ...]) -> int:
        """Of the high band: how many columns of its ``real_basis`` come first, found without making it."""
        mask = self.mask(kernel_size)
        with_conjugate = mask[..., 1 : (kernel_size[-1] + 1) // 2]  # whose partners ``rfftn`` layout leaves out
        return int(mask.sum()) + int(with_conjugate.sum())

    def left(self, kernel_size: tuple[int, ...]) -> float:
        """At most what a selected kernel keeps of its high band: ``keep``, and what rounding leaves of the rest."""
        return 1.0 if self._keep == 1 else self._keep + self.rounding(kernel_size)  # of 1 nothing is taken away

    def rounding(self, kernel_size: tuple[int, ...]) -> float:
        """At most what float32 rounding moves between the coefficients of a kernel before the noise, by its norm.

        Clipping is one rounding of each tap. Taking the band away is two products with the basis of K taps, 2 K + 8
        roundings of numbers that are at most sqrt(K) times as large as the kernel's norm.
        """
        taps = math.prod(kernel_size)
        return (1.0 if self._keep == 1 else math.sqrt(taps) * (2 * taps + 8)) * 2.0**-24
