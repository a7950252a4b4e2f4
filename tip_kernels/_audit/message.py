"""A message as a function of its images: gradient or update, clipped, in units of its noise; and its Jacobian."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..saliency import undisturbed
from .channels import LocalSteps, Loss
from .coefficients import Band, Coefficients
from .substitution import Substitution

EXACTNESS = 1e-3
"""Coefficients without noise count as known to this part of their root mean square."""

_SMALLEST = 1e-30  # noise of exact coefficients that are all zero, and then have no derivatives either


class Message:
    """What a client sends of some images, by a fixed model, and its Jacobian at these images.

    That is the gradient of their loss, or the update after the steps of SGD that it takes on all of them.

    Coefficients are divided by the std of their noise, so that the noise is N(0, I) and the Jacobian A has A'A for the
    Fisher information of the images. Those with infinite noise are 0. Random layers draw the same in every pass: an
    attacker is taken to know what they drew.

    Use it inside of :func:`open_message`, which puts back what passes through the model change.

    Attributes:
        size: how many coefficients there are.
        bands: the kinds of them; ``band`` has the index of each coefficient's kind, int64 [size].
        exact_std: the std that stands for none, 0 if all have noise.
        squares: of the coefficients of gradient or update as they are before clipping, [size].
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        images: torch.Tensor,
        labels: torch.Tensor,
        coefficients: Mapping[str, Coefficients],
        max_grad_norm: float | None,
        local: LocalSteps | None,
    ) -> None:
        self._loss, self._local = loss, local
        self.images, self._labels = images, labels
        self._coefficients = coefficients
        self._parameters = {n: p.detach() for n, p in model.named_parameters() if n in coefficients}
        self._model = Substitution(model, self._parameters)
        self._max_grad_norm = max_grad_norm
        self.bands, self.band = self._find_bands()
        self.size = len(self.band)
        flat = self._flat(self._checked())
        self.squares = flat.square()
        self._norm_weights = self._find_norm_weights()
        self._weights, self.exact_std = self._find_weights(flat * self._clip_factor(flat))

    def push(self, directions: torch.Tensor, chunk: int) -> torch.Tensor:
        """A v: from directions [m, N, ...] in the images to [m, size]; ``chunk`` of them are computed at once."""

        def one(direction: torch.Tensor) -> torch.Tensor:
            return torch.func.jvp(self._whitened, (self.images,), (direction,))[1]  # type: ignore[no-any-return]

        return torch.vmap(one, chunk_size=chunk, randomness="same")(directions.to(self.images))

    def pull(self, cotangents: torch.Tensor, chunk: int) -> torch.Tensor:
        """A' u: from [m, size] to [m, N, ...]."""
        back = torch.func.vjp(self._whitened, self.images)[1]

        def one(cotangent: torch.Tensor) -> torch.Tensor:
            return back(cotangent)[0]  # type: ignore[no-any-return]

        return torch.vmap(one, chunk_size=chunk)(cotangents.to(self.images))

    def by_band(self, values: torch.Tensor) -> torch.Tensor:
        """Sums of values [..., size] over the kinds of coefficients, float64 [..., bands]."""
        sums = torch.zeros(*values.shape[:-1], len(self.bands), dtype=torch.float64, device=values.device)
        return sums.index_add_(-1, self.band, values.double())

    def _whitened(self, images: torch.Tensor) -> torch.Tensor:
        flat = self._flat(self._unclipped(images))
        return flat * self._clip_factor(flat) * self._weights

    def _unclipped(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The gradient by the name of each parameter, or the update after the client's steps."""
        self._restart_random_layers()
        if self._local is None:
            return self._gradient(self._parameters, images)
        update = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}
        for _ in range(self._local.steps):
            grads = self._gradient({name: p + update[name] for name, p in self._parameters.items()}, images)
            update = {name: change - self._local.lr * grads[name] for name, change in update.items()}
        return update

    def _gradient(self, parameters: dict[str, torch.Tensor], images: torch.Tensor) -> dict[str, torch.Tensor]:
        def by_parameters(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
            loss = self._loss(self._model.run(parameters, images), self._labels)
            if not isinstance(loss, torch.Tensor) or loss.dim():
                got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
                raise ValueError(f"expected loss(outputs, labels) to be one number, got {got}")
            return loss

        grads: dict[str, torch.Tensor] = torch.func.grad(by_parameters)(parameters)
        return grads

    def _restart_random_layers(self) -> None:
        """They draw the same again; undisturbed() puts the states back, of the devices that the model uses."""
        torch.default_generator.manual_seed(0)
        device = self.images.device
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(0)

    def _checked(self) -> dict[str, torch.Tensor]:
        """Of the message itself."""
        found = self._unclipped(self.images)
        for name, values in found.items():
            if not values.isfinite().all():
                what = "gradients" if self._local is None else "updates"
                raise ValueError(f"expected finite {what}, got NaN or infinite numbers ({name})")
        return {name: values.detach() for name, values in found.items()}

    def _flat(self, grads: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([part.of(grads[name]).flatten() for name, part in self._coefficients.items()])

    def _clip_factor(self, flat: torch.Tensor) -> torch.Tensor | float:
        """As the ops clip: its derivative takes the gradient's own direction out of the Jacobian."""
        if self._max_grad_norm is None:
            return 1.0
        norm = torch.linalg.vector_norm(flat if self._norm_weights is None else flat * self._norm_weights)
        factor: torch.Tensor = (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        return factor

    def _find_bands(self) -> tuple[list[Band], torch.Tensor]:
        bands: list[Band] = []
        indices = []
        for name, part in self._coefficients.items():
            shape = part.of(self._parameters[name]).shape
            index = torch.zeros(shape, dtype=torch.int64, device="cpu")
            for band, which in part.bands():
                index[which.expand(shape)] = len(bands)
                bands.append(band)
            indices.append(index.flatten())
        return bands, torch.cat(indices).to(self.images.device)

    def _find_norm_weights(self) -> torch.Tensor | None:
        """Of each coefficient, [size]; None if all are 1."""
        if all(part.norm_weights is None for part in self._coefficients.values()):
            return None
        one = torch.ones((), dtype=torch.float64, device="cpu")
        weights = [
            (one if part.norm_weights is None else part.norm_weights).expand(self._shape_of(name)).flatten()
            for name, part in self._coefficients.items()
        ]
        return torch.cat(weights).to(self.images)

    def _shape_of(self, name: str) -> torch.Size:
        """Of the coefficients of a parameter, [C, M, K]."""
        return self._coefficients[name].of(self._parameters[name]).shape

    def _find_weights(self, clipped: torch.Tensor) -> tuple[torch.Tensor, float]:
        """One by the std of each coefficient, [size], and the std that stands for none."""
        stds = [part.std_by_channel().expand(self._shape_of(n)).flatten() for n, part in self._coefficients.items()]
        std = torch.cat(stds).to(clipped.device)
        known = clipped[(std == 0) & (clipped != 0)].double()
        if not (std == 0).any():
            return self._inverse(std, clipped), 0.0
        exact = max(EXACTNESS * math.sqrt(known.square().mean().item()), _SMALLEST) if len(known) else _SMALLEST
        return self._inverse(torch.where(std == 0, exact, std), clipped), exact

    def _inverse(self, std: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """One by it, in the dtype of the message."""
        inverse = (1 / std).to(like)
        if inverse.isinf().any():
            dtype = str(like.dtype).removeprefix("torch.")
            raise ValueError(f"expected noise by which {dtype} can divide, got a std of {std.min().item():g}")
        return inverse


@contextmanager
def open_message(
    model: nn.Module,
    loss: Loss,
    images: torch.Tensor,
    labels: torch.Tensor,
    coefficients: Mapping[str, Coefficients],
    max_grad_norm: float | None,
    local: LocalSteps | None = None,
) -> Iterator[Message]:
    """A :class:`Message`; the model's modes, buffers and the random state are as before afterwards.

    Batch norms that train keep no running statistics meanwhile: they use the batch's own, and writing running ones is
    not possible under the transforms of ``torch.func``.
    """
    with undisturbed(model):
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
                module.running_mean = module.running_var = module.num_batches_tracked = None
        yield Message(model, loss, images, labels, coefficients, max_grad_norm, local)
