"""What each defense does to the update that a client is about to send."""

from collections.abc import Callable

import torch
from torch import nn

import tip_kernels as tip
from bench.privacy.client.grad_cam import channel_weights
from bench.privacy.federated.local import normalized
from bench.privacy.federated.settings import Settings
from bench.privacy.federated.state import Update
from bench.privacy.images import Labeled

Protect = Callable[[nn.Module, Update, Labeled, float, int, Settings], None]
"""Changes an update in place; called with the client's model and images, the noise ``beta`` and a seed."""


def no_defense(model: nn.Module, update: Update, data: Labeled, beta: float, seed: int, settings: Settings) -> None:
    """Sends the update as it is."""


def targeted(model: nn.Module, update: Update, data: Labeled, beta: float, seed: int, settings: Settings) -> None:
    """TIP, as its authors run it: Grad-CAM of a batch of the client's own images, no floor."""
    kernels = {name: p for name, p in model.named_parameters() if p.dim() == 4}
    std = {name: tip.calibration.spectrum_std(beta, kernel[0, 0].numel()) for name, kernel in kernels.items()}
    with tip.TIP(model, ratio=settings.ratio, std=std, rng=tip.NoiseRNG.from_seed(seed)) as defense:
        defense.measure(normalized(data.images), data.labels)
        defense.perturb_update(update)


def attention(model: nn.Module, update: Update, data: Labeled, beta: float, seed: int, settings: Settings) -> None:
    """APG: noise on the last convolution of each residual block, the more the higher a channel's Grad-CAM score."""
    generator = torch.Generator(data.images.device).manual_seed(seed)
    for name, weight in channel_weights(model.eval(), normalized(data.images), data.labels).items():
        noise = torch.randn(update[name].shape, generator=generator, device=update[name].device)
        update[name] += beta * weight.view(-1, 1, 1, 1) * noise


def gaussian(model: nn.Module, update: Update, data: Labeled, beta: float, seed: int, settings: Settings) -> None:
    """DP: the same noise on every parameter."""
    tensors = [update[name] for name, _ in model.named_parameters()]
    unscored = [None] * len(tensors)
    tip.perturb_(tensors, unscored, ratio=0.0, std=0.0, floor_std=beta, rng=tip.NoiseRNG.from_seed(seed))


DEFENSES: dict[str, Protect] = {"none": no_defense, "tip": targeted, "apg": attention, "dp": gaussian}


def noise(steps: int, settings: Settings) -> float:
    """The authors' ``beta`` (arXiv 2602.11633, section 4): the classical Gaussian mechanism on a local update.

    They clip the gradient of a batch, for which the sensitivity of the formula does not hold: it is no guarantee.
    """
    moved = tip.calibration.local_update_sensitivity(steps, settings.lr, settings.clip, settings.batch)
    return tip.calibration.classical_gaussian_std(settings.epsilon, settings.delta, moved)
