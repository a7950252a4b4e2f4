"""A spectrum as a TIP uses it: amounts by name, and amplitudes by index."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .._op.amplitudes import Amplitudes
from .._op.plan import check_cutoff, hashable_masks
from .._runtime.tracing import real_tensors
from ..shaping import Spectrum
from .bands import HighBands
from .layout import Layout


class Shape:
    """What a :class:`tip_kernels.Spectrum` makes of the noise of one model.

    Attributes:
        amounts: by name, for ``std`` and ``floor_std``: of a kernel that has amplitudes the clipping norm, which these
            multiply; of any other tensor its noise.
        least: the least noise by name, of the coefficients that ``std`` and that ``floor_std`` is for.
        columns: of a kernel that has amplitudes its noise, float64 [2, K]: of others and of selected channels.

    Raises:
        TypeError, ValueError: no spectrum, one without some parameter or of other kernel sizes, no clipping norm, or
            what is no high band.
    """

    def __init__(self, layout: Layout, settings: Mapping[str, Any], bands: HighBands) -> None:
        given, max_grad_norm = settings["spectrum"], settings["max_grad_norm"]
        if not isinstance(given, Spectrum):
            raise TypeError(f"expected spectrum to be a tip_kernels.Spectrum, got {type(given).__name__}")
        if max_grad_norm is None:
            raise ValueError("expected max_grad_norm beside a spectrum, whose noise is in units of it, got None")
        check_cutoff(settings["cutoff"])
        hashable_masks(settings["masks"] or {})
        self.amounts: dict[str, float] = {}
        self.least: dict[str, tuple[float, float]] = {}
        self.columns: dict[str, torch.Tensor] = {}
        self._amplitudes: list[Amplitudes | None] = []
        with real_tensors():
            self._add_all(layout, given, bands, max_grad_norm)

    def _add_all(self, layout: Layout, given: Spectrum, bands: HighBands, max_grad_norm: float) -> None:
        stds = given.stds
        kernel_sizes = {layout.names[index]: size for index, size in layout.kernel_sizes.items()}
        self._check_names(stds, layout)
        for name in layout.names:
            if name not in stds:  # a buffer that is not sent
                self._amplitudes.append(None)
            elif name in kernel_sizes and stds[name].dim():
                self._add_kernel(name, given, kernel_sizes[name], bands, max_grad_norm)
            else:
                self._add_plain(name, stds[name], max_grad_norm)

    def amplitudes(self, count: int) -> Sequence[Amplitudes | None]:
        """Of the first ``count`` tensors of a call."""
        return self._amplitudes[:count]

    def _check_names(self, stds: Mapping[str, torch.Tensor], layout: Layout) -> None:
        missing = [name for name in layout.parameter_names if name not in stds]
        if missing:
            raise ValueError(f"expected the spectrum to have every parameter of the model, got none for {missing[0]!r}")
        unknown = sorted(set(stds) - set(layout.names))
        if unknown:
            raise ValueError(f"expected the spectrum to be of this model, got one with {unknown[0]!r}")

    def _add_kernel(
        self, name: str, given: Spectrum, kernel_size: tuple[int, ...], bands: HighBands, norm: float
    ) -> None:
        mask = bands.mask(kernel_size)
        if not mask.any():
            raise ValueError(
                f"expected a high band in kernels that have a spectrum, got none ({name}): lower cutoff, or give it "
                "one number"
            )
        columns = given.columns(name, kernel_size, mask)
        d = bands.dimension(kernel_size)
        others, selected = columns.tolist()
        self._amplitudes.append(Amplitudes(tuple(selected), tuple(others)))
        self.amounts[name] = norm
        self.columns[name] = norm * columns
        self.least[name] = (norm * min(selected[:d]), norm * min([*selected[d:], *others]))

    def _add_plain(self, name: str, std: torch.Tensor, norm: float) -> None:
        if std.dim():
            raise ValueError(f"expected one number in the spectrum for what is no conv kernel, got many ({name})")
        self._amplitudes.append(None)
        self.amounts[name] = norm * std.item()
        self.least[name] = (self.amounts[name], self.amounts[name])
