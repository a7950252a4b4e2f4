"""A model that runs with other parameters than its own for a while."""

from collections.abc import Mapping

import torch
from torch import nn


class Substitution:
    """Runs a model with other parameters, in all the places where it has them: tied ones and shared modules too.

    ``torch.func.functional_call`` does not put parameters back of a module that a model holds under two names.

    Args:
        model: a ``DistributedDataParallel`` runs as what it wraps, without a word to other ranks.
        names: of the parameters, out of ``named_parameters()``.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, object]) -> None:
        self._model = unwrapped(model)
        known = {id(parameter): name for name, parameter in model.named_parameters() if name in names}
        self._places = [
            (module._parameters, key, known[id(parameter)])
            for module in model.modules()
            for key, parameter in module._parameters.items()
            if id(parameter) in known
        ]

    def run(self, parameters: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """The outputs of the model; its own parameters are back afterwards."""
        own = [store[key] for store, key, _ in self._places]
        try:
            for store, key, name in self._places:
                store[key] = parameters[name]  # type: ignore[assignment]
            outputs: torch.Tensor = self._model(images)
        finally:
            for (store, key, _), parameter in zip(self._places, own, strict=True):
                store[key] = parameter
        return outputs


def unwrapped(model: nn.Module) -> nn.Module:
    """What a ``DistributedDataParallel`` wraps, whose own forward pass sends buffers to other ranks."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
