"""protect: a TIP with a privacy budget on an optimizer, from a target and some public images."""

import math
import os
from typing import Any

import torch
from torch import nn

from . import calibration
from ._budget.accountant import Kind, composed_epsilon, warn_of_missing_tails
from ._op.numbers import check_max_grad_norm, check_number
from .budget import PrivacyBudget
from .defense import TIP
from .rng import NoiseRNG
from .saliency import class_logits, undisturbed

Batch = tuple[torch.Tensor, torch.Tensor]

_ROUNDING = 1 + 1e-6
"""What amounts of noise are made larger by, so that in float32 they are no smaller than the target asks for."""


class Protection:
    """What :func:`protect` returns: attached to an optimizer until :meth:`remove`, or the end of a ``with``.

    Args:
        defense: guarantees something, has this budget, and has measured its scores.
        budget: of the defense.
        max_grad_norm: of the defense.
        optimizer: of the model.
        scaler: see :meth:`tip_kernels.TIP.attach`.

    Attributes:
        defense: the :class:`tip_kernels.TIP` that is attached.
        budget: its :class:`tip_kernels.PrivacyBudget`, which knows the epsilon spent and the messages.
        max_grad_norm: what each message is clipped to, in gradient units.
        noise_multiplier: the noise on each number of a message, by ``max_grad_norm``.
    """

    def __init__(
        self,
        defense: TIP,
        budget: PrivacyBudget,
        max_grad_norm: float,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.defense = defense
        self.budget = budget
        self.max_grad_norm = max_grad_norm
        self.noise_multiplier = defense.noise_multiplier()
        self._optimizer = type(optimizer).__name__
        self._handle = defense.attach(optimizer, scaler)

    def report(self) -> str:
        """What has been spent, what is noised and what is not covered, in lines for people. Calls the accountant."""
        left = self.budget.messages_left(self.noise_multiplier)
        numbers = noised_numbers(self.defense)
        lines = [
            f"epsilon {self.budget.spent():.4g} of {self.budget.epsilon:g} at delta {self.budget.delta:g} spent by "
            f"{self.budget.messages} messages, steps of {self._optimizer}; {left} more fit",
            f"noise {self.noise_multiplier:.4g} times max_grad_norm {self.max_grad_norm:.4g} or more on "
            f"{100 * numbers[0] / numbers[1]:.4g} % of the {numbers[1]} trained numbers",
        ]
        withheld = running_statistics(self.defense.model)
        if withheld:
            lines.append(f"not covered, never to be sent: {', '.join(withheld)}")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Step of the noise, messages counted, public scores, clipping norm. Never the key.

        Save it with the model's, after a step and before anything of it is sent.
        """
        return {
            "defense": self.defense.state_dict(),
            "scores": self.defense.scores(),
            "max_grad_norm": self.max_grad_norm,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved state: no message is forgotten, and the same channels are selected.

        Raises:
            ValueError: a state of another clipping norm, target, generator or model, or something else.
        """
        missing = {"defense", "scores", "max_grad_norm"} - state_dict.keys()
        if missing:
            raise ValueError(f"expected the state of a Protection, got one without {sorted(missing)[0]!r}")
        saved = state_dict["max_grad_norm"]
        if saved != self.max_grad_norm:
            raise ValueError(
                f"expected a state with max_grad_norm {self.max_grad_norm!r} as this protection has, got {saved!r}: "
                f"protect(..., max_grad_norm={saved!r}) goes on with it"
            )
        self.defense.load_state_dict(state_dict["defense"])
        self.defense.set_scores(state_dict["scores"])

    def remove(self) -> None:
        """From now on the optimizer uses gradients as they are, without noise."""
        self._handle.remove()
        self.defense.close()

    def __enter__(self) -> "Protection":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return (
            f"Protection({type(self.defense.model).__name__}, {self._optimizer}, {self.budget!r}, "
            f"noise_multiplier={self.noise_multiplier:.4g}, max_grad_norm={self.max_grad_norm:.4g})"
        )


def protect(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    public: Batch,
    path: str | os.PathLike[str] | None = None,
    max_grad_norm: float | None = None,
    ratio: float = 0.3,
    cutoff: float = 0.5,
    std_over_floor: float = 1.0,
    relation: str = "add_or_remove",
    buffers: str = "send",
    scaler: torch.amp.GradScaler | None = None,
    rng: NoiseRNG | None = None,
    backend: str | None = None,
) -> Protection:
    """Makes the next ``rounds`` steps of an optimizer (epsilon, delta)-private together, and refuses those after them.

    **What is protected.** A message is one step of the optimizer: the gradient of the model, clipped as a whole to
    ``max_grad_norm``, with noise on every number. The unit is the client: epsilon bounds what the gradients of all
    steps, and the weights made of them, tell of all the data that the client trains on, in whatever order and batches,
    against a client that sends zeros under the same noise. It is not that of one record among many, as with Opacus,
    which clips each record's gradient: neither batch size nor sampling makes it smaller here. With
    ``relation="replace"`` it is between any two data sets, so also between those that differ in one record.
    :func:`tip_kernels.calibration.accounted_epsilon` says what else holds, and docs/noise.md how far delta can be taken
    literally. Not covered: what is sent besides, such as losses, and the running statistics of batch norms, which
    training puts into the model without noise.

    **How.** The noise multiplier is the least for the target
    (:func:`tip_kernels.calibration.noise_multiplier_for`), and the floor is that times ``max_grad_norm``. The high
    bands of the channels that score highest on the public images get ``std_over_floor`` times the floor. By default
    that is 1, all numbers get the same noise, and the scores change nothing: the study in docs/privacy.md found no
    gain in more, which costs accuracy and no epsilon. The target counts: if ``rounds`` is in the thousands, a message
    in ten thousand more may fit, and messages that ``path`` has counted before are part of it.

    Call it before training, on weights that tell nothing of the private data but what was sent; to resume a run, load
    the states of model, optimizer and :class:`Protection` afterwards.

    Args:
        model: has conv layers and gives class logits ``[N, classes]``.
        optimizer: its parameters are all of the model's that are trained.
        epsilon: of all messages, positive.
        delta: in (0, 1).
        rounds: messages, at least 1; with a closure (LBFGS) each evaluation is one.
        public: images, as the model takes them, and integer labels ``[N]``, which do not depend on the private data.
        path: of the budget's file, which outlives the process, see :class:`tip_kernels.PrivacyBudget`. Without one the
            count is in memory, and in :meth:`Protection.state_dict`.
        max_grad_norm: in gradient units. If None, the norm of the gradient of the mean cross-entropy on all the public
            images, in the model's present mode and at its present weights: give as many as a training batch has, and
            a number of your own if you train with another loss.
        ratio: see :class:`tip_kernels.TIP`.
        cutoff: see there.
        std_over_floor: at least 1.
        relation: see :func:`tip_kernels.calibration.accounted_epsilon`.
        buffers: ``"withhold"`` says that no buffer will be sent, which a model with running statistics needs.
        scaler: see :meth:`tip_kernels.TIP.attach`.
        rng: key and step of the noise; a new key if absent.
        backend: see :func:`tip_kernels.perturb_`.

    Raises:
        TypeError, ValueError: an argument out of range; an optimizer that lacks parameters which are trained or has
            others than the model's; running statistics, and ``buffers`` not ``"withhold"``; public images whose
            gradient has no usable norm; a budget's file of another target; or see :class:`tip_kernels.TIP`.
        RuntimeError: the optimizer has a TIP attached already.
        ImportError: ``dp-accounting`` is not installed, or older than 0.5.

    Whatever is raised, nothing is attached, and no more is left than a budget's file of no messages.
    """
    check_number("std_over_floor", std_over_floor)
    if not 1 <= std_over_floor < math.inf:
        raise ValueError(f"expected std_over_floor to be finite and at least 1, got {std_over_floor}")
    images, labels = _checked_batch(public)
    _check_covers(optimizer, model)
    withheld = running_statistics(model)
    if withheld and buffers == "send":
        raise ValueError(
            "expected buffers='withhold' for a model with running statistics of what it trains on, which get no noise "
            f"in a step and must not be sent, got 'send' ({withheld[0]})"
        )
    multiplier = calibration.noise_multiplier_for(epsilon, delta, rounds=rounds, relation=relation)
    if max_grad_norm is None:
        max_grad_norm = _public_norm(model, images, labels)
    check_max_grad_norm(max_grad_norm)
    floor_std = multiplier * _ROUNDING * max_grad_norm
    budget = PrivacyBudget(epsilon, delta, path=path, relation=relation)
    defense = TIP(
        model,
        ratio=ratio,
        cutoff=cutoff,
        std=std_over_floor * floor_std,
        floor_std=floor_std,
        scores="public",
        buffers=buffers,
        max_grad_norm=max_grad_norm,
        budget=budget,
        rng=rng,
        backend=backend,
    )
    try:
        defense.measure(images, labels)
        found = composed_epsilon({Kind(defense.noise_multiplier(), 1.0): rounds}, delta, relation)
        if not found <= epsilon:
            raise ValueError(f"expected settings that keep to epsilon {epsilon}, got {found} of {rounds} messages")
        warn_of_missing_tails(rounds * defense.elements, delta)
        return Protection(defense, budget, float(max_grad_norm), optimizer, scaler)
    except BaseException:
        defense.close()
        raise


def running_statistics(model: nn.Module) -> list[str]:
    """Names of the floating buffers that the norm layers of a model fill while it trains."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _NORMS)]
    found = [(name, key, getattr(module, key)) for name, module in norms for key in ("running_mean", "running_var")]
    return [f"{name}.{key}".lstrip(".") for name, key, buffer in found if buffer is not None]


_NORMS = nn.modules.batchnorm._NormBase


def noised_numbers(defense: TIP) -> tuple[int, int]:
    """How many of the numbers that are trained get noise whatever the data, and how many there are."""
    floors = defense._mechanism.floor_std.named()
    trained = [(name, p.numel()) for name, p in defense.model.named_parameters() if p.requires_grad]
    return sum(size for name, size in trained if floors[name] > 0), sum(size for _, size in trained)


def _checked_batch(public: Batch) -> Batch:
    is_pair = isinstance(public, (tuple, list)) and len(public) == 2
    if not is_pair or not all(isinstance(part, torch.Tensor) for part in public):
        raise TypeError(f"expected public to be (images, labels), two tensors, got {type(public).__name__}")
    return public[0], public[1]


def _check_covers(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raises ValueError if a gradient of the model would be left as it is, since another optimizer uses it or none."""
    optimizer = getattr(optimizer, "original_optimizer", optimizer)
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in owned:
            raise ValueError(
                f"expected an optimizer of all parameters that are trained, got one without {name!r}, whose gradient "
                "would get no noise: give it to the optimizer, or freeze it by requires_grad_(False)"
            )


def _public_norm(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The norm of the gradient of the mean cross-entropy on these images; the model stays as it is."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with undisturbed(model):
        logits = model(images)
        class_logits(logits, labels)
        loss = nn.functional.cross_entropy(logits, labels.long())
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in grads if grad is not None))
    if not 0 < norm < math.inf:
        raise ValueError(f"expected a gradient on the public images to take max_grad_norm from, got one of norm {norm}")
    return norm
