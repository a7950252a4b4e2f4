"""Which channels a TIP would select for a message, found on a copy of it and of its model."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch

from ..defense import TIP
from ..saliency import undisturbed
from .substitution import unwrapped

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class LocalSteps(NamedTuple):
    """What a client does before it sends an update: so many steps of SGD, each on all images of the message."""

    steps: int
    lr: float


class Channels:
    """The channels by the scores that a TIP has now, or else by those of each message's own backward passes.

    Args:
        defense: stays as it is, and so does its model.
        loss: of the model's outputs and labels.
        local: the client's steps; None for a gradient.

    Attributes:
        model: the copy.
    """

    def __init__(self, defense: TIP, loss: Loss, local: LocalSteps | None = None) -> None:
        self._loss, self._local = loss, local
        self._copy = copy.deepcopy(defense)
        self.model = self._copy.model
        scores = defense.scores()
        if scores:
            self._copy.set_scores(scores)
        self._are_known = bool(scores) or defense._settings["scores"] == "public"

    def selected(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Bool [C_out] by the names of the conv kernels that are trained.

        Raises:
            RuntimeError: the scores are public, and none have been measured.
        """
        if not self._are_known:
            self._copy.reset()
            self._train(images, labels)
        self._copy._cam.collect()
        layout, selection = self._copy._layout, self._copy._selection
        tensors: list[torch.Tensor | None] = [p if p.requires_grad else None for p in self.model.parameters()]
        return selection.selected(selection.choose(tensors, layout.all.convs))

    def _train(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Goes through the backward passes in which hooks see the activations' gradients; weights are put back."""
        model = self.model
        trained: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in trained] if self._local else []
        with undisturbed(model):
            for _ in range(self._local.steps if self._local else 1):
                loss = self._loss(unwrapped(model)(images), labels)
                grads = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
                if self._local:
                    with torch.no_grad():
                        torch._foreach_sub_(trained, torch._foreach_mul(grads, self._local.lr))
        if self._local:
            with torch.no_grad():
                torch._foreach_copy_(trained, before)
