"""TIP and its rivals behind one interface: a client's batch in, what it sends out.

All clip the whole gradient first, so that their noise levels compare; to ``CLIP``, unless the norm adapts.
"""

import copy
import functools
import math

import torch
from torch import nn

import tip_kernels as tip
from bench.privacy.client import laplacian
from bench.privacy.client.grad_cam import channel_weights
from bench.privacy.client.gradients import (
    Gradient,
    LocalSteps,
    as_kernels,
    client_gradient,
    clipped,
    norm,
    trained,
    update_as_gradient,
)
from bench.privacy.client.release import CLIP, Defense, Release, evenly_noised, noise_energy
from bench.privacy.client.statistics import sent_statistics
from tip_kernels import calibration, spectrum


def none(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int) -> Release:
    """Clipping only."""
    return evenly_noised(_clipped_gradient(model, images, labels), 0.0)


def local_steps(steps: int, lr: float, std: float = 0.0) -> Defense:
    """Several SGD steps on the batch, sent as one update, which is read as a gradient: clipped, noised as by DP."""

    def defense(model, images, labels, seed):
        local = LocalSteps(steps, lr)
        after = trained(model, images, labels, local)
        update = [(new - old).detach() for old, new in zip(model.parameters(), after.parameters(), strict=True)]
        sent = _noised(clipped(update_as_gradient(update, lr, steps), CLIP), std, seed)
        return evenly_noised(sent, std)._replace(local=local)

    return defense


def with_statistics(defense: Defense) -> Defense:
    """The same, but the running statistics of the model's batch norms are sent too, as they are: as FedAvg does."""

    def also(model, images, labels, seed):
        release = defense(model, images, labels, seed)
        return release._replace(statistics=sent_statistics(model, images, labels, release.local))

    return also


def gaussian(std: float) -> Defense:
    """Clipping and Gaussian noise on every coordinate, as in DP-SGD (Abadi et al. 2016) with one record a batch."""

    def defense(model, images, labels, seed):
        return evenly_noised(_noised(_clipped_gradient(model, images, labels), std, seed), std)

    return defense


def smoothed_gaussian(std: float, sigma: float = 1.0) -> Defense:
    """DP with Laplacian smoothing: (I - sigma L)^-1 of the clipped and noised gradient (Wang, arXiv 2005.00218).

    L is the discrete Laplacian of the ring of all the model's coordinates, so one FFT solves it. ``std`` is before it.
    """

    def defense(model, images, labels, seed):
        noised = _noised(_clipped_gradient(model, images, labels), std, seed)
        sent = laplacian.solve(noised, sigma)
        variance = std**2 * laplacian.eigenvalues(sum(g.numel() for g in sent), sigma).pow(-2).mean().item()
        return evenly_noised(sent, math.sqrt(variance))._replace(
            unsmooth=lambda g: laplacian.apply(g, sigma), unsmoothed_std=std
        )

    return defense


class AdaptiveGaussian:
    """DP with adaptive clipping: noise and norm follow a quantile of the gradients' norms (arXiv 1905.03871, alg. 1).

    Each call is a round with one client, whose bit, whether its norm is within the clipping norm, is noised too.

    Args:
        std: noise in units of the clipping norm.
        quantile: gamma, the share of gradients that are not clipped.
        rate: eta_C, of the geometric update.
        bit_std: sigma_b, noise of the bit.
    """

    def __init__(self, std: float, quantile: float = 0.5, rate: float = 0.2, bit_std: float = 0.05) -> None:
        self.clip = CLIP
        self._std, self._quantile, self._rate, self._bit_std = std, quantile, rate, bit_std

    def __call__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int) -> Release:
        clean = client_gradient(model, images, labels)
        std = self._std * self.clip
        release = evenly_noised(_noised(clipped(clean, self.clip), std, seed), std)._replace(max_norm=self.clip)
        self._follow(norm(clean).item(), seed)
        return release

    def _follow(self, norm: float, seed: int) -> None:
        noise = self._bit_std * torch.randn((), generator=torch.Generator().manual_seed(~seed)).item()
        self.clip *= math.exp(-self._rate * (float(norm <= self.clip) + noise - self._quantile))


def pruning(share: float, by_magnitude: bool) -> Defense:
    """Sets a share of each tensor's coordinates to zero: the smallest, or random ones (Wei & Liu, arXiv 2305.06473)."""

    def defense(model, images, labels, seed):
        generator = torch.Generator().manual_seed(seed)
        sent, noise = [], []
        for g in _clipped_gradient(model, images, labels):
            rank_by = g.abs().flatten() if by_magnitude else torch.rand(g.numel(), generator=generator)
            gone = torch.zeros(g.numel(), dtype=torch.bool)
            gone[rank_by.argsort()[: round(share * g.numel())]] = True
            sent.append(g.masked_fill(gone.view_as(g), 0.0))
            noise.append(as_kernels(torch.zeros_like(g).masked_fill(gone.view_as(g), torch.inf)))
        return Release(sent, noise, [None] * len(sent))

    return defense


def grad_cam_noise(std: float) -> Defense:
    """APG as TIP's authors run it: noise on some conv kernels, weighted by Grad-CAM (arXiv 2602.11633, section 5).

    The kernels are the last of each residual block; of nets without such blocks, the last conv of each resolution. An
    output channel has ``std`` times its score by that of its layer's highest, which is this study's choice: their code
    for the weights is not public.
    """

    def defense(model, images, labels, seed):
        clean = _clipped_gradient(model, images, labels)
        weights = channel_weights(copy.deepcopy(model), images, labels)
        generator = torch.Generator().manual_seed(seed)
        sent, noise, energy = [], [], 0.0
        for (name, _), g in zip(model.named_parameters(), clean, strict=True):
            level = std * weights[name].view(-1, 1, 1) if name in weights else torch.zeros(1, 1, 1)
            drawn = torch.randn(as_kernels(g).shape, generator=generator)
            sent.append(g + (level * drawn).view_as(g))
            noise.append(level)
            energy += noise_energy(level, g)
        return Release(sent, noise, [None] * len(sent), energy)

    return defense


def targeted(ratio: float, std: float, floor_std: float = 0.0, cutoff: float = 0.5, keep: float = 1.0) -> Defense:
    """TIP."""
    settings = {"ratio": ratio, "cutoff": cutoff, "std": std, "floor_std": floor_std, "keep": keep}

    def defense(model, images, labels, seed):
        sent, selected = _perturbed_by_tip(model, images, labels, seed, settings)
        noise, bases, energy = [], [], 0.0
        for name, g in sent.items():
            basis, high = _basis(g.shape[2:], cutoff) if name in selected else (None, 0)
            bases.append(basis)
            level = torch.full((*as_kernels(g).shape[:1], 1, 1 if basis is None else len(basis)), floor_std)
            if name in selected:
                level[selected[name], :, :high] = std
            energy += noise_energy(level, g)
            if name in selected and not keep:
                level[selected[name], :, :high] = torch.inf
            noise.append(level)
        return Release(list(sent.values()), noise, bases, energy)

    return defense


def shaped(shape: tip.Spectrum, ratio: float, cutoff: float = 0.5, clip_by: str = "norm") -> Defense:
    """TIP with a spectrum, in units of the clipping norm. Attackers know of clipping by the norm only."""

    def defense(model, images, labels, seed):
        settings = {"ratio": ratio, "cutoff": cutoff, "spectrum": shape, "clip_by": clip_by}
        sent, selected = _perturbed_by_tip(model, images, labels, seed, settings)
        noise, bases, energy = [], [], 0.0
        stds = shape.stds
        for name, g in sent.items():
            if stds[name].dim():
                basis, _ = _basis(g.shape[2:], cutoff)
                mask = spectrum.radial_mask(tuple(g.shape[2:]), cutoff)
                columns = CLIP * shape.columns(name, tuple(g.shape[2:]), mask).float()
                level = columns[selected[name].long()].unsqueeze(1)  # [C, 1, K]
            else:
                basis, level = None, torch.full((*as_kernels(g).shape[:1], 1, 1), CLIP * stds[name].item())
            bases.append(basis)
            energy += noise_energy(level, g)
            noise.append(level)
        return Release(list(sent.values()), noise, bases, energy)

    return defense


def targeted_with_floor(floor_std: float) -> Defense:
    """TIP 0.3 with a floor, and twice as much on what it selects: beside DP of that std in the study's tables."""
    return targeted(0.3, 2 * floor_std, floor_std=floor_std)


def published_targeted(ratio: float, beta: float) -> Defense:
    """TIP with the paper's noise ``beta`` on the unnormalized spectrum; all the model's kernels have one size."""

    def defense(model, images, labels, seed):
        (taps,) = {p[0, 0].numel() for p in model.parameters() if p.dim() > 2}
        return targeted(ratio, calibration.spectrum_std(beta, taps))(model, images, labels, seed)

    return defense


def _clipped_gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Gradient:
    return clipped(client_gradient(model, images, labels), CLIP)


def _noised(gradient: Gradient, std: float, seed: int) -> Gradient:
    generator = torch.Generator().manual_seed(seed)
    return [g + std * torch.randn(g.shape, generator=generator) for g in gradient]


def _perturbed_by_tip(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int, settings: dict[str, float]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """By parameter, the gradient that TIP lets out, and the channels that it selected."""
    model = copy.deepcopy(model)
    model.zero_grad()
    with tip.TIP(model, **settings, max_grad_norm=CLIP, rng=tip.NoiseRNG.from_seed(seed)) as protector:
        nn.functional.cross_entropy(model(images), labels).backward()
        protector.perturb_gradients()
        selected = protector.selected()
    return {name: p.grad for name, p in model.named_parameters()}, selected


@functools.cache
def _basis(kernel_size: torch.Size, cutoff: float) -> tuple[torch.Tensor, int]:
    basis, high = spectrum.real_basis(tuple(kernel_size), spectrum.radial_mask(tuple(kernel_size), cutoff))
    return basis.float(), high
