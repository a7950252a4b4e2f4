"""What a model is made of, by name, as FedAvg averages it."""

import torch
from torch import nn

Update = dict[str, torch.Tensor]
"""New minus old tensors of a model, by name."""


def state(model: nn.Module) -> Update:
    """Parameters and floating buffers: what FedAvg averages. No defense here touches batch-norm statistics."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def copied(tensors: Update) -> Update:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assign(model: nn.Module, tensors: Update) -> None:
    model.load_state_dict(tensors, strict=False)
