"""What a TIP does to a message by its settings: the amounts of noise by name, the clipping, and what they guarantee."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from .._op.call import Options, PreparedCall, prepare
from .._op.plan import Tensors
from .._runtime.tracing import real_tensors
from .amount import Amount
from .bands import HighBands
from .layout import Layout
from .shape import Shape

_ROUNDING = 2.0**-12
"""What clipping by the noise gives for rounding, as a part of the square of a kernel's norm."""


class Mechanism:
    """The settings of :class:`tip_kernels.TIP` for one model.

    Args:
        layout: the model's.
        settings: the arguments of a TIP by name.

    Raises:
        TypeError, ValueError, RuntimeError: a setting that ``perturb_`` refuses.
    """

    def __init__(self, layout: Layout, settings: Mapping[str, Any]) -> None:
        self.layout = layout
        chosen = {name: settings[name] for name in Options._fields if name in settings}
        self.options = Options(**{**chosen, "std": 0.0, "floor_std": 0.0})  # these two by the device of a call
        self.ratio: float = settings["ratio"]
        self.sent_names = layout.names if settings["buffers"] == "send" else layout.parameter_names
        self._shares, self._honest = settings["shares"], settings["honest"]
        kernels = [layout.names[index] for index in layout.all.convs]
        self.bands = HighBands(settings["cutoff"], settings["masks"], float(settings["keep"]))
        self.shape = None if settings["spectrum"] is None else Shape(layout, settings, self.bands)
        std, floor_std = settings["std"], settings["floor_std"]
        names = ("std", "floor_std")
        if self.shape is not None:
            std = floor_std = self.shape.amounts
            names = ("spectrum", "spectrum")
        self.std = Amount(names[0], std, layout.names, kernels, self._shares)
        self.floor_std = Amount(names[1], floor_std, layout.names, layout.parameter_names, self._shares)
        self._norm_weights: list[float | list[float] | None] | None = None
        self.has_met = False  # whether all ranks of a call share key and scores before it is prepared
        self._is_public = settings["scores"] == "public"
        self._check()
        if settings["clip_by"] == "noise":  # weights are made of what has been checked
            with real_tensors():
                self._norm_weights = self._find_norm_weights()
            self._check()

    def prepare(
        self,
        tensors: Tensors,
        scores: Tensors,
        ratio: float | list[float],
        device: torch.device,
        names: tuple[str, ...],
    ) -> PreparedCall:
        """A call for tensors by index, on ``device``; raises as ``perturb_`` does."""
        std, floor_std = self.std.on(device, len(names)), self.floor_std.on(device, len(names))
        options = self.options._replace(ratio=ratio, std=std, floor_std=floor_std, names=names)
        if self.shape is not None:
            options = options._replace(amplitudes=self.shape.amplitudes(len(tensors)))
        if self._norm_weights is not None:
            options = options._replace(norm_weights=self._norm_weights[: len(tensors)])
        return prepare(tensors, scores, options, self.has_met)

    def noise_multiplier(self) -> float:
        """See :meth:`tip_kernels.TIP.noise_multiplier`."""
        if not self._is_public:
            raise ValueError("expected scores='public', got 'private': the choice of channels tells of private data")
        max_grad_norm = self.options.max_grad_norm
        if max_grad_norm is None:
            raise ValueError("expected max_grad_norm to be a number, got None: nothing bounds what one message tells")
        if self._shares > 1 and self._honest is None:
            raise ValueError(
                f"expected honest to say how many of the {self._shares} shares of the noise are surely in every sum, "
                "got None"
            )
        least = math.inf
        amounts, floors = self.least_amounts()
        for name in self.sent_names:
            if name in floors:
                if floors[name] == 0:
                    raise ValueError(f"expected a floor_std above 0 for all that is sent, got 0 ({name})")
                least = min(least, floors[name])
        for name, kernel_size in self.targets():
            if amounts[name] == 0:
                raise ValueError(f"expected a std above 0 for every high band, got 0 ({name})")
            least = min(least, amounts[name] / self._left(kernel_size))
        return least * math.sqrt(self._honest or 1) / max_grad_norm

    def least_amounts(self) -> tuple[dict[str, float], dict[str, float]]:
        """By name the least noise that ``std`` and that ``floor_std`` give any coefficient of a message."""
        if self.shape is None:
            return self.std.named(), self.floor_std.named()
        share = math.sqrt(self._shares)
        least = {name: (std / share, floor_std / share) for name, (std, floor_std) in self.shape.least.items()}
        return {name: both[0] for name, both in least.items()}, {name: both[1] for name, both in least.items()}

    def stds(self, name: str, kernel_size: tuple[int, ...]) -> torch.Tensor:
        """The noise of each coefficient of a conv kernel, float64 [2, K]: in other channels and in selected ones.

        In the order of the columns of its ``real_basis``, as one client adds it.
        """
        std, floor = self.std.named()[name], self.floor_std.named()[name]
        if self.shape is not None and name in self.shape.columns:
            return self.shape.columns[name] * (std / self.shape.amounts[name])  # the one is by shares
        stds = torch.full((2, math.prod(kernel_size)), floor, dtype=torch.float64, device="cpu")
        stds[1, : self.bands.dimension(kernel_size)] = std
        return stds

    def norm_weights(self, name: str) -> torch.Tensor | None:
        """What multiplies a parameter's coefficients in the norm that is clipped, float64 [K] or []; None for 1."""
        weights = None if self._norm_weights is None else self._norm_weights[self.layout.names.index(name)]
        return None if weights is None else torch.tensor(weights, dtype=torch.float64, device="cpu")

    def _find_norm_weights(self) -> list[float | list[float] | None]:
        """By index the least noise of all by the least of each coefficient, whichever channels are selected.

        With them the norm is bounded in units of the noise, up to a factor, so that the least noise is the noise
        multiplier of all. That the weights do not follow the selection keeps it out of the factor that clips, and lets
        them hold for a sum in which others have selected other channels.
        """
        least = {name: self._least_noise(name) for name in self.sent_names if name in self.floor_std.named()}
        for name, noise in least.items():
            if noise.min() == 0:
                raise ValueError(f"expected noise on all that is sent beside clip_by='noise', got a std of 0 ({name})")
        smallest = min(noise.min().item() for noise in least.values())
        uneven = {name: smallest / noise for name, noise in least.items() if (noise != smallest).any()}
        weights = {name: self._with_rounding(name, weights, smallest).tolist() for name, weights in uneven.items()}
        return [weights.get(name) for name in self.layout.names]

    def _least_noise(self, name: str) -> torch.Tensor:
        """Of each coefficient of a conv kernel, float64 [K], or of a tensor, []; by what is left of what it hides."""
        kernel_size = self._with_high_band().get(name)
        if kernel_size is None:
            return torch.tensor(self.floor_std.named()[name], dtype=torch.float64, device="cpu")
        stds = self._stds_in_messages(name, kernel_size)
        stds[1:, : self.bands.dimension(kernel_size)] /= self._left(kernel_size)
        return stds.amin(0)

    def _with_rounding(self, name: str, weights: torch.Tensor, smallest: float) -> torch.Tensor:
        """Weights that bound, besides a kernel in units of its noise, what rounding moves from loud to quiet noise.

        Of a kernel of norm a in units of the noise, and b of what moves: (a + b)^2 <= (1 + t) a^2 + (1 + 1 / t) b^2.
        """
        kernel_size = self._with_high_band().get(name)
        if kernel_size is None:  # elements are rounded each by its own size, and all have the same noise
            return weights
        quietest = self._stds_in_messages(name, kernel_size).min().item()
        moved = self.bands.rounding(kernel_size) * smallest / quietest
        return ((1 + _ROUNDING) * weights.square() + (1 + 1 / _ROUNDING) * moved**2).sqrt()

    def _stds_in_messages(self, name: str, kernel_size: tuple[int, ...]) -> torch.Tensor:
        """The ``stds`` of a conv kernel, without those of selected channels where none are: [2, K] or [1, K]."""
        stds = self.stds(name, kernel_size)
        return stds if self.ratio > 0 else stds[:1]

    def _left(self, kernel_size: tuple[int, ...]) -> float:
        """At most what is left of a high band. In a sum others may have selected channels that this client has not."""
        left = self.bands.left(kernel_size)
        return left if self._shares == 1 else max(left, 1.0)

    def targets(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and kernel sizes of the conv kernels in which ``std`` noise can be."""
        return [] if self.ratio == 0 else list(self._with_high_band().items())

    def _with_high_band(self) -> dict[str, tuple[int, ...]]:
        """Kernel sizes of the conv kernels that have one, by name."""
        found = {self.layout.names[index]: self.layout.kernel_sizes[index] for index in self.layout.all.convs}
        return {name: kernel_size for name, kernel_size in found.items() if not self.bands.is_empty(kernel_size)}

    def _check(self) -> None:
        """Has ``perturb_`` check every setting on a call for the kernels themselves, which is not made."""
        layout = self.layout
        kernels: list[torch.Tensor | None] = [None] * len(layout.parameter_names)
        scores: list[torch.Tensor | None] = [None] * len(layout.parameter_names)
        for slot in layout.all.slots:
            if slot.index in layout.kernel_sizes:
                kernel = slot.holder[slot.key]
                device = kernel.device
                kernels[slot.index] = kernel.transpose(0, 1) if slot.index in layout.transposed else kernel
                scores[slot.index] = torch.empty(layout.channels[slot.index], dtype=torch.float32, device=device)
        self.prepare(kernels, scores, self.ratio, device, layout.parameter_names)
