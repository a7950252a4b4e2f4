"""TIP and its rivals behind one interface: a client's batch in, what it sends out.

A defence is called as ``defence(model, images, labels, seed)`` and returns a :class:`Release`; the model is left as
it was. All clip the whole gradient to ``CLIP`` first, so that their noise levels compare.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

import tip_kernels as tip
from bench.privacy.attacks import Gradient, client_gradient
from tip_kernels import spectrum

CLIP = 1.0


class Release(NamedTuple):
    """What a client sends, and what an attacker who knows the defence knows of it.

    Args:
        gradient: in the order of ``model.parameters()``.
        noise_std: for each parameter the standard deviation of the noise in its coefficients, of a shape that
            broadcasts to [C, M, K]; infinite where nothing of the gradient is left.
        bases: for each parameter the [K, K] basis of those coefficients, or None for the taps themselves.
    """

    gradient: Gradient
    noise_std: list[torch.Tensor]
    bases: list[torch.Tensor | None]


Defence = Callable[[nn.Module, torch.Tensor, torch.Tensor, int], Release]


def none(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int) -> Release:
    """Clipping only."""
    return _uniform(_clipped(model, images, labels), 0.0)


def gaussian(std: float) -> Defence:
    """Clipping and Gaussian noise on every coordinate, as in DP-SGD (Abadi et al. 2016) with one record a batch."""

    def defence(model, images, labels, seed):
        generator = torch.Generator().manual_seed(seed)
        clean = _clipped(model, images, labels)
        return _uniform([g + std * torch.randn(g.shape, generator=generator) for g in clean], std)

    return defence


def pruning(share: float, by_magnitude: bool) -> Defence:
    """Sets a share of each tensor's coordinates to zero: the smallest, or random ones (Wei & Liu, arXiv 2305.06473)."""

    def defence(model, images, labels, seed):
        generator = torch.Generator().manual_seed(seed)
        sent, noise = [], []
        for g in _clipped(model, images, labels):
            rank_by = g.abs().flatten() if by_magnitude else torch.rand(g.numel(), generator=generator)
            gone = torch.zeros(g.numel(), dtype=torch.bool)
            gone[rank_by.argsort()[: round(share * g.numel())]] = True
            sent.append(g.masked_fill(gone.view_as(g), 0.0))
            noise.append(_coefficients(torch.zeros_like(g).masked_fill(gone.view_as(g), torch.inf)))
        return Release(sent, noise, [None] * len(sent))

    return defence


def targeted(ratio: float, std: float, floor_std: float = 0.0, cutoff: float = 0.5, keep: float = 1.0) -> Defence:
    """TIP."""

    def defence(model, images, labels, seed):
        model.zero_grad()
        settings = {"ratio": ratio, "cutoff": cutoff, "std": std, "floor_std": floor_std, "keep": keep}
        with tip.TIP(model, **settings, max_grad_norm=CLIP, rng=tip.NoiseRNG.from_seed(seed)) as protector:
            nn.functional.cross_entropy(model(images), labels).backward()
            protector.perturb_gradients()
            selected = protector.selected()
        names, sent = zip(*((name, p.grad.clone()) for name, p in model.named_parameters()), strict=True)
        noise, bases = [], []
        for name, g in zip(names, sent, strict=True):
            basis, high = _basis(g.shape[2:], cutoff) if name in selected else (None, 0)
            bases.append(basis)
            level = torch.full((*_coefficients(g).shape[:1], 1, 1 if basis is None else len(basis)), floor_std)
            if name in selected:
                level[selected[name], :, :high] = std if keep else torch.inf
            noise.append(level)
        return Release(list(sent), noise, bases)

    return defence


def _clipped(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Gradient:
    gradient = client_gradient(model, images, labels)
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    return [g * (CLIP / norm).clamp(max=1.0) for g in gradient]


def _uniform(gradient: Gradient, std: float) -> Release:
    return Release(gradient, [torch.full((1, 1, 1), std) for _ in gradient], [None] * len(gradient))


def _coefficients(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter-shaped tensor as [C, M, K]."""
    if tensor.dim() > 2:
        return tensor.flatten(2)
    return tensor.view(len(tensor), -1, 1)


def _basis(kernel_size: torch.Size, cutoff: float) -> tuple[torch.Tensor, int]:
    basis, high = spectrum.real_basis(tuple(kernel_size), spectrum.radial_mask(tuple(kernel_size), cutoff))
    return basis.float(), high
