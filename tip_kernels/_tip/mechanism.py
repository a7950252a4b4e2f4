"""What a TIP does to a message by its settings: the amounts of noise by name, the clipping, and what they guarantee."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from .._op.call import Options, PreparedCall, prepare
from .._op.plan import Tensors
from .amount import Amount
from .bands import HighBands
from .layout import Layout
from .shape import Shape


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
        self.shape = None if settings["spectrum"] is None else Shape(layout, settings)
        std, floor_std = settings["std"], settings["floor_std"]
        names = ("std", "floor_std")
        if self.shape is not None:
            std = floor_std = self.shape.amounts
            names = ("spectrum", "spectrum")
        self.std = Amount(names[0], std, layout.names, kernels, self._shares)
        self.floor_std = Amount(names[1], floor_std, layout.names, layout.parameter_names, self._shares)
        self.bands = HighBands(settings["cutoff"], settings["masks"], float(settings["keep"]))
        self.has_met = False  # whether all ranks of a call share key and scores before it is prepared
        self._is_public = settings["scores"] == "public"
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
            left = self.bands.left(kernel_size)
            # In a sum others may have selected channels that this client has not, which it sends as they are.
            least = min(least, amounts[name] / (left if self._shares == 1 else max(left, 1.0)))
        return least * math.sqrt(self._honest or 1) / max_grad_norm

    def least_amounts(self) -> tuple[dict[str, float], dict[str, float]]:
        """By name the least noise that ``std`` and that ``floor_std`` give any coefficient of a message."""
        if self.shape is None:
            return self.std.named(), self.floor_std.named()
        share = math.sqrt(self._shares)
        least = {name: (std / share, floor_std / share) for name, (std, floor_std) in self.shape.least.items()}
        return {name: both[0] for name, both in least.items()}, {name: both[1] for name, both in least.items()}

    def targets(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and kernel sizes of the conv kernels in which ``std`` noise can be."""
        if self.ratio == 0:
            return []
        found = [(self.layout.names[index], self.layout.kernel_sizes[index]) for index in self.layout.all.convs]
        return [(name, kernel_size) for name, kernel_size in found if not self.bands.is_empty(kernel_size)]

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
