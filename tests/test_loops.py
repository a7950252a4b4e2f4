"""Attached optimizers of every make, in loops that accumulate gradients or not: as perturbed by hand, once a step."""

import pytest
import torch
from torch import nn

import tip_kernels as tip

KEY = bytes(32)
STEPS = 3

MAKES = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "foreach": False}),
    "SGD foreach": (torch.optim.SGD, {"momentum": 0.9, "foreach": True}),
    "SGD fused": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "Adam": (torch.optim.Adam, {"foreach": False}),
    "Adam foreach": (torch.optim.Adam, {"foreach": True}),
    "Adam fused": (torch.optim.Adam, {"fused": True}),
    "AdamW fused": (torch.optim.AdamW, {"fused": True}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 10))


def trained(make: str, attached: bool, set_to_none: bool, parts: int) -> list[torch.Tensor]:
    """The parameters after some steps, each on the gradients of so many backward passes."""
    model = network()
    kind, options = MAKES[make]
    optimizer = kind(model.parameters(), lr=0.01, **options)
    defense = tip.TIP(model, std=0.05, floor_std=0.01, max_grad_norm=1.0, rng=tip.NoiseRNG(KEY))
    if attached:
        defense.attach(optimizer)
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=set_to_none)
        for _ in range(parts):
            images, labels = torch.rand(4, 3, 8, 8, generator=draw), torch.randint(10, (4,), generator=draw)
            (nn.functional.cross_entropy(model(images), labels) / parts).backward()
        if not attached:
            defense.perturb_gradients()
        optimizer.step()
    assert defense.rng.step == STEPS
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("parts", [1, 3], ids=["whole", "accumulated"])
@pytest.mark.parametrize("set_to_none", [True, False], ids=["none", "zeros"])
@pytest.mark.parametrize("make", MAKES)
def test_an_attached_optimizer_steps_as_by_hand(make, set_to_none, parts):
    by_hand = trained(make, False, set_to_none, parts)
    assert all(map(torch.equal, trained(make, True, set_to_none, parts), by_hand))
