"""Scalar noise mathematics: how large a standard deviation a privacy target asks for, and what a given one is worth."""

import math
from typing import TYPE_CHECKING

from ._budget.accountant import (
    Kind,
    check_accounting,
    check_delta,
    composed_epsilon,
    warn_of_missing_tails,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from .defense import TIP


def classical_gaussian_std(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """The classical Gaussian mechanism: ``sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon``.

    Dwork & Roth 2014, theorem A.1, whose proof holds for epsilon < 1 only; TIP (arXiv 2602.11633, section 4)
    uses it beyond that. Prefer :func:`analytic_gaussian_std`.

    Raises:
        ValueError: epsilon or sensitivity is not positive and finite, or delta is outside (0, 1).
    """
    _check_target(epsilon, delta, sensitivity)
    return sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def analytic_gaussian_std(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """The smallest Gaussian noise that is (epsilon, delta)-private for an L2 sensitivity, any epsilon > 0.

    Balle & Wang 2018, theorem 8: the noise is private iff
    ``Phi(s/2v - eps v/s) - exp(eps) Phi(-s/2v - eps v/s) <= delta`` for sensitivity s and std v. Solved by
    bisection to a relative width of 1e-12; the returned end satisfies the inequality.

    Raises:
        ValueError: epsilon or sensitivity is not positive and finite, or delta is outside (0, 1).
    """
    _check_target(epsilon, delta, sensitivity)
    low = high = 1.0
    while _gaussian_delta(epsilon, high) > delta:
        low, high = high, 2 * high
    while _gaussian_delta(epsilon, low) <= delta:
        low, high = low / 2, low
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _gaussian_delta(epsilon, middle) > delta:
            low = middle
        else:
            high = middle
    return sensitivity * high


def local_update_sensitivity(steps: int, lr: float, max_grad_norm: float, batch_size: int) -> float:
    """How far one record moves a FedAvg update: ``steps * lr * max_grad_norm / batch_size``.

    For ``steps`` SGD steps on means of per-sample gradients clipped to ``max_grad_norm`` (L2), counting only
    the record's own terms, as TIP does (arXiv 2602.11633, section 4). Units: those of the update.

    Raises:
        ValueError: an argument is not positive and finite.
    """
    _check_positive(steps=steps, lr=lr, max_grad_norm=max_grad_norm, batch_size=batch_size)
    return steps * lr * max_grad_norm / batch_size


def spectrum_std(beta: float, taps: int) -> float:
    """``beta / sqrt(taps)``: our ``std`` for the paper's noise ``beta``.

    TIP (arXiv 2602.11633, section 4) adds noise of std ``beta`` to both parts of an unnormalized complex
    spectrum of K taps and keeps the real part of its inverse; each coefficient of the orthonormal real basis
    then gets noise of this std.

    Raises:
        ValueError: beta is negative or not finite, or taps is not positive.
    """
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"expected beta to be finite and at least 0, got {beta}")
    _check_positive(taps=taps)
    return beta / math.sqrt(taps)


def relative_std(grads: "Sequence[torch.Tensor]", fraction: float) -> "torch.Tensor":
    """Per-tensor std that makes the noise a ``fraction`` of each gradient's root mean square.

    A heuristic for finding a working point, without privacy meaning: the std depends on the data.

    Args:
        grads: tensors of any shape, on one device.
        fraction: at least 0.

    Returns:
        float32 tensor [len(grads)] on the gradients' device, for the ``std`` argument; no host sync.

    Raises:
        ValueError: fraction is negative or not finite, or there are no gradients.
    """
    import torch

    if not (math.isfinite(fraction) and fraction >= 0):
        raise ValueError(f"expected fraction to be finite and at least 0, got {fraction}")
    if not grads:
        raise ValueError("expected at least one gradient, got none")
    mean_squares = [grad.detach().float().square().sum() / max(grad.numel(), 1) for grad in grads]
    return fraction * torch.stack(mean_squares).sqrt()


def accounted_epsilon(
    defense: "TIP",
    *,
    rounds: int,
    delta: float,
    sampling_probability: float = 1.0,
    relation: str = "add_or_remove",
) -> float:
    """The epsilon, at ``delta``, of all that one client sends through ``defense`` in ``rounds`` perturb calls.

    What is protected is a whole message, so everything that the client holds, against anyone who sees its messages,
    the server included. Each counts as a Gaussian mechanism with :meth:`tip_kernels.TIP.noise_multiplier`, whose
    conditions apply (with ``shares`` it is that of a sum of messages, and nobody may see more than sums); they are
    composed by the privacy loss distributions of ``dp-accounting`` (Doroshenko et al. 2022), on a grid that errs
    upwards. The probe images must not depend on what is protected, and neither may the choice of the tensors that are
    sent.

    It is the epsilon of ideal Gaussian noise. The normals come from 32-bit words and end at 6.76 std; with a floor the
    released values are rounded to a grid, but for an attacker who knows all of two candidate messages a delta far
    below one per cent is not to be taken literally: docs/noise.md, "What remains: 32-bit words", has figures by size of
    the model. A delta below the probability that ideal noise of these messages has a larger normal is answered with a
    warning.

    Args:
        defense: its settings count, not its state; the same must have been used in all rounds.
        rounds: the messages of one client (perturb calls: a step of each attached optimizer is one), at least 1.
        delta: in (0, 1).
        sampling_probability: of taking part in a round, independently each time. Leave it at 1, and count only the
            rounds in which the client took part, unless who took part stays hidden from those who see messages: a
            client that is not drawn must then send zeros through the same perturb call.
        relation: what two worlds must look alike. ``"add_or_remove"``: the client's message and one of zeros under
            the same noise (sensitivity ``max_grad_norm``). ``"replace"``: any two messages (twice that).

    Raises:
        ValueError: an argument out of range, or ``defense`` guarantees nothing: scores from private data, no clipping,
            or something that is sent without noise; the message says which.
        ImportError: ``dp-accounting`` is not installed, or older than 0.5.
    """
    check_accounting(rounds, delta, sampling_probability, relation)
    multiplier = defense.noise_multiplier()
    warn_of_missing_tails(rounds * defense.elements, delta)
    return composed_epsilon({Kind(multiplier, sampling_probability): rounds}, delta, relation)


def noise_multiplier_for(
    epsilon: float,
    delta: float,
    *,
    rounds: int,
    sampling_probability: float = 1.0,
    relation: str = "add_or_remove",
) -> float:
    """The noise for a target over ``rounds``: the least multiplier whose :func:`accounted_epsilon` is at most epsilon.

    ``TIP(model, scores="public", max_grad_norm=C, std=m * C, floor_std=m * C)`` has the multiplier ``m``; with
    ``shares`` and ``honest``, multiply both amounts by ``sqrt(shares / honest)``. Found by bisection on the accountant
    to a relative width of 1e-4; the returned end keeps to the target. That takes some twenty calls of the accountant,
    each of tens of milliseconds, and with sampling hundreds.

    Args:
        epsilon: of all messages together, positive.
        delta: in (0, 1).
        rounds: the messages of one client.
        sampling_probability: see :func:`accounted_epsilon`.
        relation: see :func:`accounted_epsilon`.

    Raises:
        ValueError: an argument out of range.
        ImportError: ``dp-accounting`` is not installed, or older than 0.5.
    """
    _check_positive(epsilon=epsilon)
    check_accounting(rounds, delta, sampling_probability, relation)

    def is_enough(multiplier: float) -> bool:
        return composed_epsilon({Kind(multiplier, sampling_probability): rounds}, delta, relation) <= epsilon

    # Without sampling the answer is known but for the accountant's grid; sampling can only do with less noise.
    distance = 2 if relation == "replace" else 1
    high = distance * math.sqrt(rounds) * analytic_gaussian_std(epsilon, delta)
    while not is_enough(high):
        high *= 1.1
    low, least = high / 1.1, high / 100
    while is_enough(low):
        if low < least:
            raise ValueError(
                f"expected a target that asks for noise, got epsilon {epsilon} and delta {delta}, which sampling with "
                f"probability {sampling_probability} meets with next to none"
            )
        low, high = low / 2, low
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _gaussian_delta(epsilon: float, std: float) -> float:
    """The delta of unit-sensitivity Gaussian noise at ``epsilon`` (Balle & Wang 2018, theorem 8)."""
    a, b = 0.5 / std, epsilon * std
    return _phi(a - b) - math.exp(epsilon + _log_phi(-a - b))


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _log_phi(x: float) -> float:
    """Logarithm of the normal distribution function for x < 0, without underflow in the far tail."""
    if x > -20:
        return math.log(_phi(x))
    x2 = x * x  # asymptotic series, relative error below 1e-7 here
    return -x2 / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log1p(-1 / x2 + 3 / x2**2 - 15 / x2**3)


def _check_target(epsilon: float, delta: float, sensitivity: float) -> None:
    _check_positive(epsilon=epsilon, sensitivity=sensitivity)
    check_delta(delta)


def _check_positive(**arguments: float) -> None:
    for name, value in arguments.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"expected {name} to be positive and finite, got {value}")
