"""Which channels a TIP would select for a message, found on a copy of it and of its model."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from ..defense import TIP
from ..saliency import undisturbed

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Channels:
    """The channels by the scores that a TIP has now, or else by those of each message's own backward pass.

    Args:
        defense: stays as it is, and so does its model.
        loss: of the model's outputs and labels.
    """

    def __init__(self, defense: TIP, loss: Loss) -> None:
        self._loss = loss
        self._copy = copy.deepcopy(defense)
        scores = defense.scores()
        if scores:
            self._copy.set_scores(scores)
        self._are_known = bool(scores) or defense._settings["scores"] == "public"

    def selected(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Bool [C_out] by the names of the conv kernels that are trained.

        Raises:
            RuntimeError: the scores are public, and none have been measured.
        """
        model = self._copy.model
        if not self._are_known:
            self._copy.reset()
            _backward(model, self._loss, images, labels)
        self._copy._cam.collect()
        layout, selection = self._copy._layout, self._copy._selection
        tensors: list[torch.Tensor | None] = [p if p.requires_grad else None for p in model.parameters()]
        return selection.selected(selection.choose(tensors, layout.all.convs))


def _backward(model: nn.Module, loss: Loss, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Runs the backward pass in which hooks see the activations' gradients, and keeps none of the parameters'."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with undisturbed(model):
        torch.autograd.grad(loss(model(images), labels), trained, allow_unused=True)
