"""What any attacker could see of images in a client's messages, computed from model and noise, without an attack."""

from collections.abc import Callable

import torch
from torch import nn

from ._audit.channels import Channels, LocalSteps, Loss
from ._audit.coefficients import Coefficients, under_noise, under_tip
from ._audit.exact import exact_posterior
from ._audit.iterative import iterative_posterior
from ._audit.message import Message, open_message
from ._audit.posterior import Posterior, decibels, decibels_of_share
from ._audit.prior import ImagePrior
from ._audit.report import Audit, Row, Tally
from ._audit.statistics import changed_by_forward
from ._distributed.dtensor import is_dtensor
from ._op.numbers import check_amount, check_max_grad_norm
from .defense import TIP

__all__ = ["Audit", "ImagePrior", "Row", "audit"]

MOST_VALUES = 4096
"""Values of the images of a message up to which matrices are used..."""

MOST_BYTES = 2**30
"""... if the Jacobian takes no more than this; a matrix as large is made of it."""


def audit(
    model: nn.Module,
    loss: Loss,
    images: torch.Tensor,
    labels: torch.Tensor,
    defense: TIP | float,
    *,
    prior: ImagePrior | None = None,
    max_grad_norm: float | None = None,
    per_message: int = 1,
    lr: float | None = None,
    steps: int = 1,
    method: str | None = None,
    probes: int = 8,
    iterations: int = 200,
    chunk: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Audit:
    """How well the gradients or updates that a client sends under ``defense`` can tell an attacker its images.

    A message is the clipped gradient c(x) of the loss of some images x, or the clipped update c(x) after some steps of
    SGD on all of them, plus Gaussian noise whose std is known for each coefficient; F = J' diag(1 / std^2) J, with the
    Jacobian J of c at x, is the Fisher information of the message about the images. With images of a Gaussian prior of
    covariance S, the best estimate in the linearized problem leaves the covariance P = (F + S^-1)^-1, whose trace by
    the values of an image is the ceiling: the Bayesian Cramer-Rao bound (van Trees 1968) of that problem. docs/audit.md
    derives it.

    What it assumes, and what it does not say:

    - The attacker knows model, loss, labels, noise, the selected channels and what random layers draw.
    - The message is linear in the image around the true image. That favors the attacker, who must find the
      neighborhood of the image first, but curvature may still tell what the linear part hides.
    - The attacker knows no more of images than the prior. One with a stronger prior, such as a generative model, can do
      better, and one image may be an easier case than the prior's average.
    - The parameters of an update. Running statistics, which updates have too, are left out of plain noise, and refused
      with a TIP that sends them.
    - One message. For n messages of the same images and weights divide the noise by sqrt(n).
    - A coefficient without noise counts as known to a thousandth of the root mean square of all such coefficients of
      the message (:attr:`Audit.exact_std`). Ceilings that rest on it, of 40 dB and more, mean: everything.
    - Rounding to the grid and to float32 is not counted, with ``keep=0`` neither what rounding leaves.

    Model, buffers, modes, random states, ``.grad``, scores, budget and noise of ``defense`` stay as they are; the
    channels are found on a copy of model and TIP.

    Args:
        model: in the mode in which it trains. Batch norms in training mode use the statistics of each message's images.
            Frozen parameters are not sent.
        loss: of ``model(images)`` and ``labels``, one number: that which the client trains with.
        images: floating ``[N, channels, height, width]``, in [0, 1]: normalization belongs into the model.
        labels: ``[N]``, or whatever ``loss`` takes with N in axis 0.
        defense: a TIP of this model, with the scores that it has, and otherwise those of each message's backward pass;
            with public scores, they must have been measured. Or a float: the std of plain noise on every number, 0 for
            none.
        prior: of one image; :meth:`ImagePrior.natural` if None.
        max_grad_norm: clips with plain noise; a TIP has its own.
        per_message: images in one message, in their order. The ceilings are those of the joint problem then.
        lr: learning rate of a client that sends updates, new minus received weights, by plain SGD: std and
            ``max_grad_norm`` are in their units. None: it sends gradients.
        steps: of SGD behind an update, each on all images of the message.
        method: ``"exact"``, by matrices, for a few thousand values; ``"iterative"``, by conjugate gradients, whose
            error :attr:`Audit.psnr_error` says; None: exact where the Jacobian has at most 4,096 columns and 1 GiB.
        probes: random directions for each image, at least 2, and samples for the map: each of its values is right to a
            part of about ``1 / sqrt(2 probes)``. Iterative only.
        iterations: at most, of conjugate gradients. Iterative only.
        chunk: directions that pass the model at once; None: what fits small caches.
        seed: of the simulated message, probes and samples.
        progress: told, now and then, which share of the work is done, from 0 to 1.

    Returns:
        An :class:`Audit`.

    Raises:
        TypeError, ValueError: an argument out of range or of another shape, another model's TIP, no parameter that is
            trained, a loss that is not one number, or a gradient that is not finite.
        RuntimeError: TIP's scores are public and none have been measured, or the TIP is closed; or what the layers
            raise that ``torch.func`` does not support.
    """
    _check_batch(images, labels, per_message)
    prior = _checked_prior(prior, images)
    _check_numbers(method, probes, iterations, chunk)
    local = _local_steps(lr, steps)
    coefficients, max_grad_norm = _mechanism(model, loss, defense, max_grad_norm, local)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    tally = Tally()
    found: list[Posterior] = []
    exact_std = 0.0
    messages = len(images) // per_message
    for batch, targets in zip(images.detach().split(per_message), labels.split(per_message), strict=True):
        done = len(found)

        def tell(share: float, done: int = done) -> None:
            if progress is not None:
                progress((done + share) / messages)

        with open_message(model, loss, batch, targets, coefficients(batch, targets), max_grad_norm, local) as message:
            columns = _chunk(message) if chunk is None else chunk
            noise = torch.randn(message.size, generator=generator, device="cpu").to(images.device)
            used = method or ("exact" if _is_small(message) else "iterative")
            if used == "exact":
                posterior = exact_posterior(message, prior, noise, columns, generator, tell)
            else:
                posterior = iterative_posterior(message, prior, noise, probes, iterations, columns, generator, tell)
        tally.add(message, posterior)
        exact_std = max(exact_std, message.exact_std)
        found.append(posterior)
        tell(1.0)
    mean_squares = torch.cat([posterior.mean_squares for posterior in found])
    errors = torch.cat([posterior.errors for posterior in found])
    return Audit(
        psnr=decibels(mean_squares),
        psnr_error=decibels_of_share(errors / mean_squares),
        prior_psnr=prior.psnr(),
        uncertainty=torch.cat([posterior.uncertainty for posterior in found]),
        guess=torch.cat([posterior.guess for posterior in found]),
        leak=tally.rows(),
        exact_std=exact_std,
        method=used,
    )


Mechanism = Callable[[torch.Tensor, torch.Tensor], dict[str, Coefficients]]


def _mechanism(
    model: nn.Module, loss: Loss, defense: TIP | float, max_grad_norm: float | None, local: LocalSteps | None
) -> tuple[Mechanism, float | None]:
    """From images and labels of a message to its coefficients and their noise; and the norm to which it is clipped."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model to be a torch.nn.Module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("expected a model with parameters that are trained, got one without: nothing is sent")
    apart = next((name for name, parameter in model.named_parameters() if is_dtensor(parameter)), None)
    if apart is not None:
        raise ValueError(
            f"expected a model that lies whole on this rank, got a DTensor ({apart}): audit a copy before it is split"
        )
    if isinstance(defense, TIP):
        if defense.model is not model:
            raise ValueError("expected a TIP of this model, got one of another model")
        if max_grad_norm is not None:
            raise ValueError("expected max_grad_norm to be left to the TIP, which has its own, got both")
        channels = Channels(defense, loss, local)
        sends_buffers = local is not None and defense._settings["buffers"] == "send"
        norm: float | None = defense._settings["max_grad_norm"]

        def coefficients(images: torch.Tensor, labels: torch.Tensor) -> dict[str, Coefficients]:
            if sends_buffers:
                _refuse_statistics(changed_by_forward(channels.model, images))
            return under_tip(defense, channels.selected(images, labels))

        return coefficients, norm
    check_amount("defense, the std of plain noise,", defense)
    check_max_grad_norm(max_grad_norm)
    plain = under_noise(model, float(defense))
    return lambda _images, _labels: plain, max_grad_norm


def _refuse_statistics(names: list[str]) -> None:
    """Raises ValueError if updates have buffers that tell of the images."""
    if names:
        raise ValueError(
            f"expected a TIP that sends parameters alone, got one that sends {names[0]} too, which tells of the images "
            "and is not counted: build it with buffers='withhold'"
        )


def _local_steps(lr: float | None, steps: int) -> LocalSteps | None:
    """What is behind an update; None for a gradient."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"expected steps to be an integer of at least 1, got {steps!r}")
    if lr is None:
        if steps > 1:
            raise ValueError(f"expected lr beside steps, for the update after {steps} steps of SGD, got None")
        return None
    check_amount("lr", lr)
    if lr == 0:
        raise ValueError("expected lr to be above 0, got 0: nothing would be sent")
    return LocalSteps(steps, float(lr))


def _is_small(message: Message) -> bool:
    columns = message.images.numel()
    return columns <= MOST_VALUES and message.size * columns * message.images.element_size() <= MOST_BYTES


def _chunk(message: Message) -> int:
    """Directions at once: a few megabytes of images, and at most 256 of messages."""
    return max(1, min(64, 2**18 // message.images.numel(), 2**26 // message.size))


def _check_batch(images: torch.Tensor, labels: torch.Tensor, per_message: int) -> None:
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        got = str(images.dtype) if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(f"expected images to be a floating tensor, got {got}")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"expected images of shape [N, channels, height, width], got {tuple(images.shape)}")
    if not isinstance(labels, torch.Tensor) or labels.dim() == 0 or len(labels) != len(images):
        got = str(tuple(labels.shape)) if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise ValueError(f"expected labels to be a tensor with {len(images)} in axis 0, as many as images, got {got}")
    if not isinstance(per_message, int) or per_message < 1 or len(images) % per_message:
        raise ValueError(f"expected per_message to divide the number of images, {len(images)}, got {per_message}")


def _checked_prior(prior: ImagePrior | None, images: torch.Tensor) -> ImagePrior:
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"expected images in [0, 1], got {images.min():.3g} to {images.max():.3g}: normalize them in the model"
        )
    if prior is None:
        return ImagePrior.natural(images.shape[1:])
    if not isinstance(prior, ImagePrior):
        raise TypeError(f"expected prior to be an ImagePrior, got {type(prior).__name__}")
    if prior.shape != tuple(images.shape[1:]):
        raise ValueError(f"expected a prior for images of shape {tuple(images.shape[1:])}, got one for {prior.shape}")
    return prior


def _check_numbers(method: str | None, probes: int, iterations: int, chunk: int | None) -> None:
    if method not in (None, "exact", "iterative"):
        raise ValueError(f"expected method to be 'exact', 'iterative' or None, got {method!r}")
    for name, value, least in (("probes", probes, 2), ("iterations", iterations, 1), ("chunk", chunk, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"expected {name} to be an integer of at least {least}, got {value!r}")
