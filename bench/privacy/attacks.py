"""Gradient inversion: rebuilding a client's images from the gradient it sent.

The attacker holds the model, its parameters and the gradient, and searches for images whose own gradient looks
like the one it saw: by cosine similarity, total variation and signed Adam (:func:`invert`, Geiping et al. 2020) or by
squared distance and L-BFGS (:func:`invert_lbfgs`, DLG, Zhu et al. 2019). What it knows of a defence goes into
``weights``: how far it trusts each coefficient of the gradient.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

Gradient = list[torch.Tensor]
"""One tensor for each of the model's parameters, in their order."""


class Attack(NamedTuple):
    """One gradient in an attacker's hands.

    Args:
        gradient: what the client sent, in the order of ``model.parameters()``.
        labels: the images' classes, int64 [B]; see :func:`recover_labels`.
        weights: for each parameter of shape ``[C, M, *kernel_size]`` the trust in its coefficients, of a shape
            that broadcasts to ``[C, M, K]`` (M and K are 1 for a bias, K is 1 for a linear layer), or None for
            1. Zero leaves a coefficient out. None for the whole list is the naive attacker.
        tv: weight of the total variation beside the matching loss.
    """

    gradient: Gradient
    labels: torch.Tensor
    weights: Sequence[torch.Tensor | None] | None = None
    tv: float = 1e-3


class Search(NamedTuple):
    """How an attacker searches.

    Args:
        iterations: steps of Adam or of L-BFGS.
        lr: Adam's first step size; L-BFGS searches along a line instead.
        restarts: random starts.
        seed: of those starts.
    """

    iterations: int = 600
    lr: float = 0.1
    restarts: int = 1
    seed: int = 0


class Reconstruction(NamedTuple):
    """What came of A attacks.

    Args:
        images: [A, B, channels, height, width] in [0, 1], of the starts with the lowest loss.
        losses: [A], theirs.
        tries: [A, restarts, B, channels, height, width], of every start.
    """

    images: torch.Tensor
    losses: torch.Tensor
    tries: torch.Tensor


Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cosine_distance(candidate: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """One minus the cosine similarity of the rows of two [P, D] tensors (Geiping et al. 2020, eq. 4)."""
    return 1 - nn.functional.cosine_similarity(candidate, observed, dim=1)


def squared_distance(candidate: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Squared distance of the rows of two [P, D] tensors, by the observed norm (DLG, Zhu et al. 2019, eq. 4)."""
    return (candidate - observed).square().sum(1) / observed.square().sum(1)


def client_gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Gradient:
    """The gradient of the mean cross-entropy by every parameter: what a FedSGD client sends undefended."""
    loss = nn.functional.cross_entropy(model(images), labels)
    return [g.detach() for g in torch.autograd.grad(loss, list(model.parameters()))]


def update_as_gradient(update: Gradient, lr: float, steps: int) -> Gradient:
    """A FedAvg update, new minus global parameters, as the gradient that it nearly is at the global model.

    Divided by ``-lr * steps`` it is the mean gradient along the client's way, whose first was taken at the parameters
    that the attacker has.

    Args:
        update: in the order of ``model.parameters()``.
        lr: of the client's SGD.
        steps: that the client took.
    """
    return [change / (-lr * steps) for change in update]


def invert(
    model: nn.Module,
    attacks: Sequence[Attack],
    image_shape: Sequence[int],
    *,
    search: Search = Search(),  # noqa: B008 - a NamedTuple is immutable
    objective: Objective = cosine_distance,
    bases: Sequence[torch.Tensor | None] | None = None,
    progress: Callable[[torch.Tensor], None] | None = None,
) -> Reconstruction:
    """Runs every attack from every random start as one batched optimisation.

    Args:
        model: the global model with the parameters that the client used. It must treat samples apart from
            each other's statistics (no train-mode batch norm).
        attacks: A attacks on gradients of this model, with B labels each.
        image_shape: (channels, height, width).
        search: steps, starts and seed.
        objective: the matching loss.
        bases: for each parameter an orthonormal [K, K] matrix whose columns are the coefficients that ``weights``
            speak of, or None for the taps themselves.
        progress: called after each step with the losses [A, restarts].

    Returns:
        The best start of each attack, chosen by its loss.
    """
    observed = _Matcher(model, attacks, search.restarts, bases)
    labels = torch.stack([attack.labels for attack in attacks]).repeat_interleave(search.restarts, 0)
    tv = torch.tensor([attack.tv for attack in attacks], device=labels.device).repeat_interleave(search.restarts)

    def loss(images: torch.Tensor) -> torch.Tensor:  # [P, B, *image_shape] -> [P]
        return observed.distance(objective, images, labels) + tv * total_variation(images)

    starts = _random_starts(len(attacks), labels.shape[1], image_shape, search).to(labels.device)
    images, losses = _signed_adam(loss, starts, search, progress)
    return _best_start(images, losses, search.restarts)


def invert_lbfgs(
    model: nn.Module,
    attacks: Sequence[Attack],
    image_shape: Sequence[int],
    *,
    search: Search = Search(iterations=300),  # noqa: B008 - a NamedTuple is immutable
    objective: Objective = squared_distance,
    bases: Sequence[torch.Tensor | None] | None = None,
    progress: Callable[[torch.Tensor], None] | None = None,
    max_norm: float = math.inf,
) -> Reconstruction:
    """Runs every attack from every random start by L-BFGS, one after the other (DLG, Zhu et al. 2019).

    The images are free while the search runs and cut to [0, 1] at its end. The net has to be twice differentiable:
    with ReLU the matching loss is nearly flat almost everywhere. Arguments and result as of :func:`invert`, but the
    images have the dtype of the gradients, ``search.lr`` is not used, and ``progress`` is called once a start, with its
    loss [1, 1]. Distances depend on the scale, unlike cosines: ``max_norm`` is what the client clipped its gradient to,
    and the candidates' are clipped alike.
    """
    images, losses = [], []
    for attack in attacks:
        observed = _Matcher(model, [attack], 1, bases, max_norm)
        for start in _random_starts(1, len(attack.labels), image_shape, search):

            def loss(images: torch.Tensor, attack=attack, observed=observed) -> torch.Tensor:
                distance = observed.distance(objective, images, attack.labels[None])
                return distance + attack.tv * total_variation(images)

            found, value = _lbfgs(loss, start[None].to(attack.gradient[0]), search.iterations)
            images.append(found)
            losses.append(value)
            if progress is not None:
                progress(value.view(1, 1))
    return _best_start(torch.cat(images), torch.cat(losses), search.restarts)


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbours, down plus across: [P, B, channels, height, width] -> [P]."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs()
    across = (images[..., :, 1:] - images[..., :, :-1]).abs()
    return down.flatten(1).mean(1) + across.flatten(1).mean(1)


def recover_labels(head_weight: torch.Tensor, head_bias: torch.Tensor | None, batch_size: int = 1) -> torch.Tensor:
    """The classes behind a cross-entropy gradient, read off the last linear layer.

    A sample adds softmax minus one-hot to the bias gradient, and that times its features to the rows of the weight
    gradient. So of one sample's rows all are multiples of one vector, and only its own class's points the other way
    (iDLG, Zhao et al. 2020); the first singular vector finds them under pruning and noise too. For more samples
    classes are taken one by one, the most negative bias first, each giving back the 1/B it explains (LLG, Wainakh et
    al. 2021): a guess.

    Args:
        head_weight: gradient [classes, features] of the last layer's weight.
        head_bias: gradient [classes] of its bias, or None.
        batch_size: B.

    Returns:
        int64 [B], ascending.

    Raises:
        ValueError: no bias, and more than one sample or only two classes, whose rows do not tell which is which.
    """
    if batch_size == 1 and len(head_weight) > 2:
        rows = head_weight if head_bias is None else torch.cat([head_weight, head_bias[:, None]], 1)
        shares = torch.linalg.svd(rows.double(), full_matrices=False).U[:, 0]
        # Softmax minus one-hot sums to zero: the class is the negative one and outweighs the rest in the cubes.
        return (shares * -shares.pow(3).sum().sign()).argmin().view(1)
    if head_bias is None:
        raise ValueError(f"expected a bias for {batch_size} samples of {len(head_weight)} classes, got none")
    evidence = head_bias.detach().clone()
    labels = []
    for _ in range(batch_size):
        label = int(evidence.argmin())
        evidence[label] += 1 / batch_size
        labels.append(label)
    return torch.tensor(sorted(labels), device=head_weight.device)


class _Matcher:
    """The gradients of many candidate batches at once, beside the observed ones, as weighted coefficients."""

    def __init__(
        self, model: nn.Module, attacks: Sequence[Attack], restarts: int, bases, max_norm: float = math.inf
    ) -> None:
        self._max_norm = max_norm
        self._parameters = {name: p.detach() for name, p in model.named_parameters()}
        self._buffers = {name: b.detach() for name, b in model.named_buffers()}
        self._bases = bases or [None] * len(self._parameters)
        self._weights = [
            self._stack_weights([a.weights and a.weights[i] for a in attacks], restarts)
            for i in range(len(self._parameters))
        ]
        self._observed = self._weighted(
            [
                torch.stack(tensors).repeat_interleave(restarts, 0)
                for tensors in zip(*[a.gradient for a in attacks], strict=True)
            ]
        )

        def sample_loss(parameters, images, labels):
            logits = functional_call(model, (parameters, self._buffers), (images,))
            return nn.functional.cross_entropy(logits, labels)

        self._gradients = vmap(grad(sample_loss), in_dims=(None, 0, 0))

    def distance(self, objective: Objective, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The matching loss [P] of candidates [P, B, *image_shape]."""
        gradients = list(self._gradients(self._parameters, images, labels).values())
        if self._max_norm < math.inf:
            norms = torch.cat([g.flatten(1) for g in gradients], 1).norm(dim=1)
            factors = (self._max_norm / norms).clamp(max=1)
            gradients = [g * factors.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
        return objective(self._weighted(gradients), self._observed)

    def _weighted(self, gradients: Gradient) -> torch.Tensor:  # P gradients of each parameter -> [P, D]
        parts = []
        for gradient, basis, weight in zip(gradients, self._bases, self._weights, strict=True):
            part = gradient.reshape(*gradient.shape[:2], *_kernels(gradient.shape[2:]))  # [P, C, M, K]
            part = part if basis is None or weight is None else part @ basis.to(part)
            parts.append((part if weight is None else part * weight).flatten(1))
        return torch.cat(parts, 1)

    @staticmethod
    def _stack_weights(weights: Sequence[torch.Tensor | None], restarts: int) -> torch.Tensor | None:
        if all(weight is None for weight in weights):
            return None
        shaped = [torch.ones(1, 1, 1) if weight is None else weight for weight in weights]
        shape = torch.broadcast_shapes(*[weight.shape for weight in shaped])
        return torch.stack([weight.expand(shape) for weight in shaped]).repeat_interleave(restarts, 0)


def _kernels(shape_behind_channels: Sequence[int]) -> tuple[int, int]:
    """(M, K) of a parameter of shape [C, *shape_behind_channels]."""
    return (shape_behind_channels[0] if shape_behind_channels else 1), -1 if len(shape_behind_channels) > 1 else 1


def _random_starts(count: int, batch: int, image_shape: Sequence[int], search: Search) -> torch.Tensor:
    """Uniform images [count * restarts, batch, *image_shape]; every attack gets the same ones."""
    generator = torch.Generator().manual_seed(search.seed)
    starts = torch.rand(search.restarts, batch, *image_shape, generator=generator)
    return starts.repeat(count, *[1] * (starts.dim() - 1))


def _signed_adam(loss, images: torch.Tensor, search: Search, progress) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam on the signs of the gradient, within [0, 1], with a step size that falls as half a cosine."""
    images = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=search.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, search.iterations)
    for _ in range(search.iterations):
        losses = loss(images)
        (images.grad,) = torch.autograd.grad(losses.sum(), images)
        images.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        if progress is not None:
            progress(losses.detach().view(-1, search.restarts))
    with torch.no_grad():
        return images.detach(), loss(images)


def _lbfgs(loss, images: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """L-BFGS with strong Wolfe line searches and the 100 last steps in memory; stops early where nothing moves."""
    images = images.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [images], max_iter=iterations, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(images).sum()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        found = images.detach().clamp(0, 1)
        return found, loss(found)


def _best_start(images: torch.Tensor, losses: torch.Tensor, restarts: int) -> Reconstruction:
    """Of attacks times restarts, as many rows, each attack's start with the lowest loss."""
    losses = losses.view(-1, restarts)
    tries = images.view(*losses.shape, *images.shape[1:])
    rows, best = torch.arange(len(losses), device=losses.device), losses.argmin(1)
    return Reconstruction(tries[rows, best], losses[rows, best], tries)
