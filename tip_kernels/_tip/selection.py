"""Which channels a TIP has selected: what it hands to a call as scores and ratio, and how it says so afterwards."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .._distributed.sharing import Sharing
from .._op.plan import Tensors, select_count
from .._runtime.tracing import is_dry_run
from .bands import HighBands
from .layout import Layout


class Choice(NamedTuple):
    """Scores by index, of the conv kernels at ``indices``, and the ratio: one for all, or one by index."""

    indices: list[int]
    scores: list[torch.Tensor | None]
    ratio: float | list[float]


class Selection:
    """Chooses by the scores that ``sharing`` has; a kernel without scores has all of its channels selected.

    Args:
        layout: the model's.
        sharing: has the scores.
        bands: kernels without a high band have no channel selected.
        ratio: share of channels to select.
        only_measured: whether scores come from ``measure`` only, which must then come before the first call.
    """

    def __init__(self, layout: Layout, sharing: Sharing, bands: HighBands, ratio: float, only_measured: bool) -> None:
        self._layout = layout
        self._sharing = sharing
        self._bands = bands
        self._ratio = ratio
        self._only_measured = only_measured
        self._warned = False

    def choose(self, tensors: Tensors, convs: Sequence[int]) -> Choice:
        """For a call for ``tensors``, by index, the conv kernels among which are at ``convs``.

        Raises:
            RuntimeError: measured scores are wanted, and none have been; or see :class:`Sharing`.
        """
        known = self._sharing.scores(tensors, convs)
        scores: list[torch.Tensor | None] = [None] * len(tensors)
        present, unknown = [], []
        for index in convs:
            tensor = tensors[index]
            if tensor is None:
                continue
            present.append(index)
            score = None if is_dry_run() else known.get(index)
            if score is None:
                unknown.append(index)
                score = torch.zeros(self._layout.channels[index], dtype=torch.float32, device=tensor.device)
            elif score.device != tensor.device:  # an update may lie elsewhere than the model
                score = score.to(tensor.device)
            scores[index] = score
        if not unknown or self._ratio in (0, 1) or is_dry_run():
            return Choice(present, scores, self._ratio)
        if self._only_measured and not known:
            raise RuntimeError(
                "expected measure(images, labels) with public images before the first perturb call, because TIP was "
                "built with scores='public'; got no scores"
            )
        self._warn_unknown([self._layout.names[index] for index in unknown])
        ratio = [self._ratio] * len(tensors)
        for index in unknown:
            ratio[index] = 1.0
        return Choice(present, scores, ratio)

    def selected(self, choice: Choice) -> dict[str, torch.Tensor]:
        """The selected channels, bool [C_out] by the names of the kernels."""
        found = {}
        for index in choice.indices:
            score = choice.scores[index]
            assert score is not None  # every kernel of a choice has one
            ratio = choice.ratio[index] if isinstance(choice.ratio, list) else choice.ratio
            is_empty = self._bands.is_empty(self._layout.kernel_sizes[index])
            found[self._layout.names[index]] = _highest(score, 0 if is_empty else select_count(ratio, len(score)))
        return found

    def _warn_unknown(self, names: list[str]) -> None:
        if self._warned:
            return
        self._warned = True
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"no Grad-CAM scores for {', '.join(names[:3])}{more}: all channels are perturbed",
            RuntimeWarning,
            stacklevel=3,
        )


def _highest(score: torch.Tensor, count: int) -> torch.Tensor:
    """The mask of the ``count`` highest scores, by the op's rule."""
    selected = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    # NaN sorts as the highest, and a stable sort keeps the lower of two equal channels first.
    selected[score.sort(descending=True, stable=True).indices[:count]] = True
    return selected
