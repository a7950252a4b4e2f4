"""The picture of Grad-CAM scores: channel by channel of each layer, those that are selected marked."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from .._tip.selection import Choice
from ..defense import TIP
from .drawing import HIGH, OTHER, Path, new_figure, rows_height, saved, show_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_scores(
    scores: TIP | Mapping[str, torch.Tensor],
    selected: Mapping[str, torch.Tensor] | None = None,
    path: Path = None,
) -> "Figure":
    """The scores of every channel, a line for each conv kernel, by the largest of its layer.

    Orange channels above the line are selected, blue ones below it are not.

    Args:
        scores: a TIP, which has scores between a backward pass or :meth:`tip_kernels.TIP.measure` and the perturb call
            that uses them; or real ``[C_out]`` by the names of conv kernels, as :meth:`tip_kernels.TIP.scores` gives.
        selected: bool ``[C_out]`` by the same names, as :meth:`tip_kernels.TIP.selected` gives after a call. Of a TIP
            None is what its next call would select of these scores.
        path: where to save it, in the format of its ending; None does not.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError, ValueError: a TIP that has no scores; scores and no ``selected`` beside them; or tensors of other
            shapes, dtypes, names, or with numbers that are not finite.
        RuntimeError: the TIP is closed.
    """
    if isinstance(scores, TIP):
        defense, scores = scores, scores.scores()
        if not scores:
            raise ValueError(
                "expected a TIP that has scores, got one without: a backward pass or measure() gives them, and a "
                "perturb call uses them up"
            )
        selected = _next_selected(defense, scores) if selected is None else selected
    _check(scores, selected)
    assert selected is not None  # checked above
    figure = new_figure(8, rows_height(len(scores)))
    axis = figure.add_subplot()
    notes = []
    for place, (name, given) in enumerate(scores.items()):
        score, chosen = given.detach().cpu().double(), selected[name].cpu()
        largest = score.abs().max().item()
        shares = score / (largest or 1.0)
        for marked, color, shift in ((chosen, HIGH, -0.15), (~chosen, OTHER, 0.15)):
            heights = [place + shift] * int(marked.sum())
            axis.plot(shares[marked].tolist(), heights, "|", color=color, markersize=10, markeredgewidth=1.5)
        notes.append(f"{int(chosen.sum())} of {len(chosen)}, largest {largest:.2g}")
    show_rows(axis, list(scores), notes, "selected, score")
    axis.set_xlabel("Grad-CAM score by the largest of its layer: orange is selected, blue is not")
    return saved(figure, path)


def _next_selected(defense: TIP, scores: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What its next call would select of the kernels that have scores."""
    names = defense._layout.names
    by_index = [scores.get(name) for name in names]
    indices = [index for index, score in enumerate(by_index) if score is not None]
    return defense._selection.selected(Choice(indices, by_index, defense._settings["ratio"]))


def _check(scores: Mapping[str, torch.Tensor], selected: Mapping[str, torch.Tensor] | None) -> None:
    if not isinstance(scores, Mapping) or not scores:
        raise TypeError(f"expected scores to be a TIP or a mapping by kernel, got {type(scores).__name__}")
    if selected is None:
        raise ValueError("expected selected beside scores by name, got None: they do not tell the ratio")
    for name, score in scores.items():
        if not isinstance(score, torch.Tensor) or score.dim() != 1 or not len(score) or score.is_complex():
            raise TypeError(f"expected scores to be real tensors [C_out], got {_text(score)} ({name})")
        if not score.isfinite().all():
            raise ValueError(f"expected finite scores, got {int((~score.isfinite()).sum())} that are not ({name})")
        chosen = selected.get(name)
        if not isinstance(chosen, torch.Tensor) or chosen.dtype != torch.bool or chosen.shape != score.shape:
            raise ValueError(f"expected selected of shape {tuple(score.shape)}, bool, got {_text(chosen)} ({name})")


def _text(value: object) -> str:
    return f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
