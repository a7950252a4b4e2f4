"""TIP and its rivals behind one interface: a client's batch in, what it sends out.

A defence is called as ``defence(model, images, labels, seed)`` and returns a :class:`Release`; the model is left as
it was. All clip the whole gradient first, so that their noise levels compare; to ``CLIP``, unless the norm adapts. A
*maker* gives a defence for the noise's standard deviation, which :func:`at_energy` and :func:`as_published` choose.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

import tip_kernels as tip
from bench.privacy.attacks import Gradient, client_gradient, update_as_gradient
from tip_kernels import calibration, spectrum

CLIP = 1.0
EPSILON, DELTA = 5.0, 1e-5
"""Of the paper's experiments (arXiv 2602.11633, section 5)."""


class Release(NamedTuple):
    """What a client sends, and what an attacker who knows the defence knows of it.

    Args:
        gradient: in the order of ``model.parameters()``.
        noise_std: for each parameter the standard deviation of the noise in its coefficients, of a shape that
            broadcasts to [C, M, K]; infinite where nothing of the gradient is left.
        bases: for each parameter the [K, K] basis of those coefficients, or None for the taps themselves.
        noise_energy: the expected squared norm of all the noise in ``gradient``.
        unsmooth: undoes a smoothing of gradient and noise together, where there was one.
    """

    gradient: Gradient
    noise_std: list[torch.Tensor]
    bases: list[torch.Tensor | None]
    noise_energy: float = 0.0
    unsmooth: Callable[[Gradient], Gradient] | None = None


Defence = Callable[[nn.Module, torch.Tensor, torch.Tensor, int], Release]
Maker = Callable[[float], Defence]


def at_energy(make: Maker, rms: float) -> Defence:
    """The defence whose noise has the expected squared norm of noise of std ``rms`` on every coordinate of the model.

    The noise of every maker here is proportional to its std, so one release with std 1 tells the factor.
    """

    def defence(model, images, labels, seed):
        unit = make(1.0)(model, images, labels, seed).noise_energy
        std = rms * math.sqrt(sum(p.numel() for p in model.parameters()) / unit)
        return make(std)(model, images, labels, seed)

    return defence


def as_published(make: Maker) -> Defence:
    """The defence with the paper's std for one gradient of a batch (arXiv 2602.11633, section 4).

    Its formula for an update of several local steps, divided by their number and the learning rate.
    """

    def defence(model, images, labels, seed):
        sensitivity = calibration.local_update_sensitivity(1, 1.0, CLIP, len(images))
        beta = calibration.classical_gaussian_std(EPSILON, DELTA, sensitivity)
        return make(beta)(model, images, labels, seed)

    return defence


def none(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int) -> Release:
    """Clipping only."""
    return _uniform(_clip(client_gradient(model, images, labels)), 0.0)


def local_steps(steps: int, lr: float) -> Defence:
    """No noise, but several SGD steps on the batch, sent as one update and read as a gradient by the attacker."""

    def defence(model, images, labels, seed):
        local = copy.deepcopy(model)
        optimizer = torch.optim.SGD(local.parameters(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(local(images), labels).backward()
            optimizer.step()
        update = [
            (after - before).detach() for before, after in zip(model.parameters(), local.parameters(), strict=True)
        ]
        return _uniform(_clip(update_as_gradient(update, lr, steps)), 0.0)

    return defence


def gaussian(std: float) -> Defence:
    """Clipping and Gaussian noise on every coordinate, as in DP-SGD (Abadi et al. 2016) with one record a batch."""

    def defence(model, images, labels, seed):
        return _uniform(_noised(_clip(client_gradient(model, images, labels)), std, seed), std)

    return defence


def smoothed_gaussian(std: float, sigma: float = 1.0) -> Defence:
    """DP with Laplacian smoothing: (I - sigma L)^-1 of the clipped and noised gradient (Wang, arXiv 2005.00218).

    L is the discrete Laplacian of the ring of all the model's coordinates, so one FFT solves it. ``std`` is before it.
    """

    def defence(model, images, labels, seed):
        noised = _noised(_clip(client_gradient(model, images, labels)), std, seed)
        sent = laplacian_solve(noised, sigma)
        variance = std**2 * _laplacian(sum(g.numel() for g in sent), sigma).pow(-2).mean().item()
        return _uniform(sent, math.sqrt(variance))._replace(unsmooth=lambda g: laplacian_apply(g, sigma))

    return defence


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
        release = _uniform(_noised(_clip(clean, self.clip), std, seed), std)
        self._follow(_norm(clean).item(), seed)
        return release

    def _follow(self, norm: float, seed: int) -> None:
        noise = self._bit_std * torch.randn((), generator=torch.Generator().manual_seed(~seed)).item()
        self.clip *= math.exp(-self._rate * (float(norm <= self.clip) + noise - self._quantile))


def pruning(share: float, by_magnitude: bool) -> Defence:
    """Sets a share of each tensor's coordinates to zero: the smallest, or random ones (Wei & Liu, arXiv 2305.06473)."""

    def defence(model, images, labels, seed):
        generator = torch.Generator().manual_seed(seed)
        sent, noise = [], []
        for g in _clip(client_gradient(model, images, labels)):
            rank_by = g.abs().flatten() if by_magnitude else torch.rand(g.numel(), generator=generator)
            gone = torch.zeros(g.numel(), dtype=torch.bool)
            gone[rank_by.argsort()[: round(share * g.numel())]] = True
            sent.append(g.masked_fill(gone.view_as(g), 0.0))
            noise.append(_coefficients(torch.zeros_like(g).masked_fill(gone.view_as(g), torch.inf)))
        return Release(sent, noise, [None] * len(sent))

    return defence


def grad_cam_noise(std: float) -> Defence:
    """APG as TIP's authors run it: noise on some conv kernels, weighted by Grad-CAM (arXiv 2602.11633, section 5).

    The kernels are the last of each residual block; of nets without such blocks, the last conv of each resolution. An
    output channel has ``std`` times its score by that of its layer's highest, which is this study's choice: their code
    for the weights is not public.
    """

    def defence(model, images, labels, seed):
        clean = _clip(client_gradient(model, images, labels))
        weights = channel_weights(model, images, labels)
        generator = torch.Generator().manual_seed(seed)
        sent, noise, energy = [], [], 0.0
        for (name, _), g in zip(model.named_parameters(), clean, strict=True):
            level = std * weights[name].view(-1, 1, 1) if name in weights else torch.zeros(1, 1, 1)
            drawn = torch.randn(_coefficients(g).shape, generator=generator)
            sent.append(g + (level * drawn).view_as(g))
            noise.append(level)
            energy += _energy(level, g)
        return Release(sent, noise, [None] * len(sent), energy)

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
        model.zero_grad()
        noise, bases, energy = [], [], 0.0
        for name, g in zip(names, sent, strict=True):
            basis, high = _basis(g.shape[2:], cutoff) if name in selected else (None, 0)
            bases.append(basis)
            level = torch.full((*_coefficients(g).shape[:1], 1, 1 if basis is None else len(basis)), floor_std)
            if name in selected:
                level[selected[name], :, :high] = std
            energy += _energy(level, g)
            if name in selected and not keep:
                level[selected[name], :, :high] = torch.inf
            noise.append(level)
        return Release(list(sent), noise, bases, energy)

    return defence


def published_targeted(ratio: float, beta: float) -> Defence:
    """TIP with the paper's noise ``beta`` on the unnormalised spectrum; all the model's kernels have one size."""

    def defence(model, images, labels, seed):
        (taps,) = {p[0, 0].numel() for p in model.parameters() if p.dim() > 2}
        return targeted(ratio, calibration.spectrum_std(beta, taps))(model, images, labels, seed)

    return defence


def laplacian_solve(gradient: Gradient, sigma: float) -> Gradient:
    """Solves (I - sigma L) x = gradient for x, over all its tensors as one ring."""
    return _filter(gradient, _laplacian(sum(g.numel() for g in gradient), sigma).reciprocal())


def laplacian_apply(gradient: Gradient, sigma: float) -> Gradient:
    """(I - sigma L) gradient: undoes :func:`laplacian_solve`."""
    return _filter(gradient, _laplacian(sum(g.numel() for g in gradient), sigma))


def _laplacian(size: int, sigma: float) -> torch.Tensor:
    """The eigenvalues of I - sigma L by frequency, all of the DFT's: float64 [size]."""
    return 1 + 2 * sigma * (1 - torch.cos(2 * torch.pi * torch.arange(size, dtype=torch.float64) / size))


def _filter(gradient: Gradient, response: torch.Tensor) -> Gradient:
    flat = torch.cat([g.flatten() for g in gradient])
    spectrum_of = torch.fft.rfft(flat.double()) * response[: len(flat) // 2 + 1]
    filtered = torch.fft.irfft(spectrum_of, n=len(flat)).to(flat.dtype)
    parts = filtered.split([g.numel() for g in gradient])
    return [part.view_as(g) for part, g in zip(parts, gradient, strict=True)]


def channel_weights(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Grad-CAM of the class logits by the names of the kernels that APG noises: [C], 1 for each layer's highest."""
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    logits = model(images)
    for handle in handles:
        handle.remove()
    last = last_convs(model, {name: output.shape[2:] for name, output in outputs.items()})
    slopes = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), [outputs[name] for name in last])
    scores = [tip.channel_saliency(slope) for slope in slopes]
    return {
        f"{name}.weight": score / score.max().clamp(min=torch.finfo().tiny)
        for name, score in zip(last, scores, strict=True)
    }


def last_convs(model: nn.Module, resolutions: dict[str, torch.Size]) -> list[str]:
    """The names of the last conv of each residual block, or without such blocks, of each resolution.

    A block is a module other than a ``Sequential`` and the whole model that has several convs of its own; convs of its
    shortcut, a module within it, do not count.

    Args:
        model: the net.
        resolutions: output size by the names of its convs, in the order of their use.
    """
    blocks = {}
    for name in resolutions:
        parent, _, _ = name.rpartition(".")
        if parent and not isinstance(model.get_submodule(parent), nn.Sequential):
            blocks.setdefault(parent, []).append(name)
    last = [names[-1] for names in blocks.values() if len(names) > 1]
    return last or list({size: name for name, size in resolutions.items()}.values())


def _norm(gradient: Gradient) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradient]).norm()


def _clip(gradient: Gradient, norm: float = CLIP) -> Gradient:
    factor = (norm / _norm(gradient)).clamp(max=1.0)
    return [g * factor for g in gradient]


def _noised(gradient: Gradient, std: float, seed: int) -> Gradient:
    generator = torch.Generator().manual_seed(seed)
    return [g + std * torch.randn(g.shape, generator=generator) for g in gradient]


def _uniform(gradient: Gradient, std: float) -> Release:
    noise = [torch.full((1, 1, 1), std) for _ in gradient]
    return Release(gradient, noise, [None] * len(gradient), std**2 * sum(g.numel() for g in gradient))


def _energy(level: torch.Tensor, tensor: torch.Tensor) -> float:
    """Expected squared norm of noise whose std by coefficient broadcasts to the tensor's [C, M, K]."""
    return level.square().expand(_coefficients(tensor).shape).sum().item()


def _coefficients(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter-shaped tensor as [C, M, K]."""
    if tensor.dim() > 2:
        return tensor.flatten(2)
    return tensor.view(len(tensor), -1, 1)


def _basis(kernel_size: torch.Size, cutoff: float) -> tuple[torch.Tensor, int]:
    basis, high = spectrum.real_basis(tuple(kernel_size), spectrum.radial_mask(tuple(kernel_size), cutoff))
    return basis.float(), high
