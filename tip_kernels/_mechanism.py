"""What a TIP does to a message by its settings: the amounts of noise by name, the clipping, and what they guarantee."""

import math
from collections.abc import Mapping

import torch

from ._amount import Amount
from ._bands import HighBands
from ._call import Options, PreparedCall, prepare
from ._layout import Layout
from ._plan import Tensors


class Mechanism:
    """The settings of :class:`tip_kernels.TIP` for one model.

    Args:
        layout: the model's.
        options: of every call; ``ratio``, ``std``, ``floor_std`` and ``names`` of it are replaced in each.
        ratio, std, floor_std: as a TIP takes them.
        sends_buffers: whether the floating buffers of an update are sent, too.
        is_public: whether the choice of channels depends on nothing private.

    Raises:
        TypeError, ValueError, RuntimeError: a setting that ``perturb_`` refuses.
    """

    def __init__(
        self,
        layout: Layout,
        options: Options,
        ratio: float,
        std: float | Mapping[str, float],
        floor_std: float | Mapping[str, float],
        *,
        sends_buffers: bool,
        is_public: bool,
    ) -> None:
        self.layout = layout
        self.options = options
        self.ratio = ratio
        self.sent_names = layout.names if sends_buffers else layout.parameter_names
        self.std = Amount("std", std, layout.names, [layout.names[index] for index in layout.all.convs])
        self.floor_std = Amount("floor_std", floor_std, layout.names, layout.parameter_names)
        self.bands = HighBands(options.cutoff, options.masks, float(options.keep))
        self._is_public = is_public
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
        return prepare(tensors, scores, options)

    def noise_multiplier(self) -> float:
        """See :meth:`tip_kernels.TIP.noise_multiplier`."""
        if not self._is_public:
            raise ValueError("expected scores='public', got 'private': the choice of channels tells of private data")
        max_grad_norm = self.options.max_grad_norm
        if max_grad_norm is None:
            raise ValueError("expected max_grad_norm to be a number, got None: nothing bounds what one message tells")
        least = math.inf
        floors = self.floor_std.named()
        for name in self.sent_names:
            if name in floors:
                if floors[name] == 0:
                    raise ValueError(f"expected a floor_std above 0 for all that is sent, got 0 ({name})")
                least = min(least, floors[name])
        amounts = self.std.named()
        for name, kernel_size in self.targets():
            if amounts[name] == 0:
                raise ValueError(f"expected a std above 0 for every high band, got 0 ({name})")
            least = min(least, amounts[name] / self.bands.left(kernel_size))
        return least / max_grad_norm

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
