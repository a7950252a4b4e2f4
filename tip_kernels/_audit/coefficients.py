"""The coefficients of a message, parameter by parameter, and the noise that a defense adds to each of them.

They are what the defense adds its noise to: those of the real Fourier basis of each conv kernel
(:func:`tip_kernels.spectrum.real_basis`), and the numbers of all other parameters.
"""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import nn

from .. import spectrum
from .._tip.layout import Layout, has_kernels
from ..defense import TIP


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """Those of one parameter, [C, M, K]: K coefficients of each of the M kernels of C channels.

    A parameter that is no conv kernel is one channel of M numbers.

    Attributes:
        name: the parameter's.
        transposed: whether its first two axes are M and C.
        basis: orthonormal, float64 [K, K] by taps and coefficients; None for a parameter that is no conv kernel.
        radii: frequency of each coefficient, [K], 0 for the mean of a kernel and 1 for the highest.
        std: of the noise, float64 [2, K]: of other channels, and of selected ones. Of what arrives weakened it is
            that of the noise by what is left, infinite if nothing is.
        selected: bool [C].
        norm_weights: what multiplies them in the norm that is clipped, float64 [K] or []; None for 1.
    """

    name: str
    transposed: bool
    basis: torch.Tensor | None
    radii: torch.Tensor
    std: torch.Tensor
    selected: torch.Tensor
    norm_weights: torch.Tensor | None = None

    def of(self, grad: torch.Tensor) -> torch.Tensor:
        """The coefficients of a gradient of the parameter's shape, [C, M, K]."""
        if self.basis is None:
            return grad.reshape(1, -1, 1)
        channels_first = grad.transpose(0, 1) if self.transposed else grad
        kernels = channels_first.reshape(len(self.selected), -1, len(self.radii))
        return kernels @ self.basis.to(kernels)

    def std_by_channel(self) -> torch.Tensor:
        """Noise of each coefficient, [C, 1, K]."""
        return self.std[self.selected.long()].unsqueeze(1)

    def bands(self) -> list[tuple["Band", torch.Tensor]]:
        """Each kind of coefficient, and which of them are of it, bool [C, 1, K]."""
        found: dict[Band, torch.Tensor] = {}
        for is_selected in (False, True):
            channels = self.selected == is_selected
            for k, std in enumerate(self.std[int(is_selected)].tolist()):
                radius = None if self.basis is None else round(self.radii[k].item(), 6)
                band = Band(self.name, self._group(is_selected), radius, std)
                if band not in found:
                    found[band] = torch.zeros(len(channels), 1, len(self.radii), dtype=torch.bool, device="cpu")
                found[band][:, 0, k] |= channels
        return [(band, which) for band, which in found.items() if which.any()]

    def _group(self, is_selected: bool) -> str:
        if self.basis is None or not self.selected.any():
            return "all"
        return "selected" if is_selected else "others"


@dataclasses.dataclass(frozen=True)
class Band:
    """Coefficients of one parameter, group of channels, frequency and noise."""

    parameter: str
    channels: str
    radius: float | None
    std: float


def under_tip(defense: TIP, selected: Mapping[str, torch.Tensor]) -> dict[str, Coefficients]:
    """By the settings of a TIP, where it selects these channels; by the names of the parameters that are trained.

    With ``shares``, the noise of the ``honest`` clients together, or of this one alone if nobody says how many are.
    """
    settings, mechanism, layout = defense._settings, defense._mechanism, defense._layout
    honest = math.sqrt(settings["honest"] or 1)
    floors = mechanism.floor_std.named()
    found = {}
    for index, name in enumerate(layout.parameter_names):
        slot = layout.all.slots[index]
        if not slot.holder[slot.key].requires_grad:
            continue
        kernel_size = layout.kernel_sizes.get(index)
        weights = mechanism.norm_weights(name)
        if kernel_size is None:
            found[name] = dataclasses.replace(_plain(name, floors[name] * honest), norm_weights=weights)
            continue
        basis, d = spectrum.real_basis(kernel_size, mechanism.bands.mask(kernel_size).cpu())
        std = mechanism.stds(name, kernel_size) * honest
        std[1, :d] = _by_what_is_left(std[1, :d], settings["keep"])
        channels = selected[name].cpu()
        radii = spectrum.column_radii(basis, kernel_size)
        found[name] = Coefficients(name, index in layout.transposed, basis, radii, std, channels, weights)
    return found


def under_noise(model: nn.Module, std: float) -> dict[str, Coefficients]:
    """Under the same noise on every number of a gradient; by the names of the parameters that are trained."""
    layout = Layout(model) if has_kernels(model) else None
    kernels = {} if layout is None else layout.kernel_sizes
    found = {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        if layout is None or index not in kernels:
            found[name] = _plain(name, std)
            continue
        basis, _ = spectrum.real_basis(kernels[index], spectrum.radial_mask(kernels[index], 0.0))
        stds = torch.full((2, len(basis)), std, dtype=torch.float64, device="cpu")
        none = torch.zeros(layout.channels[index], dtype=torch.bool, device="cpu")
        radii = spectrum.column_radii(basis, kernels[index])
        found[name] = Coefficients(name, index in layout.transposed, basis, radii, stds, none)
    return found


def _plain(name: str, std: float) -> Coefficients:
    """Of a parameter that is no conv kernel."""
    stds = torch.full((2, 1), std, dtype=torch.float64, device="cpu")
    none = torch.zeros(1, dtype=torch.bool, device="cpu")
    return Coefficients(name, False, None, torch.zeros(1, dtype=torch.float64, device="cpu"), stds, none)


def _by_what_is_left(std: torch.Tensor, keep: float) -> torch.Tensor:
    """Noise on a signal that is weakened first: of ``keep=0`` nothing is left, without noise as well.

    What float32 rounding leaves of it then is not counted.
    """
    return std / keep if keep > 0 else torch.full_like(std, math.inf)
