"""Scalar noise mathematics: how large a standard deviation a privacy target asks for."""

import math


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

    TIP (arXiv 2602.11633, section 4) adds noise of std ``beta`` to both parts of an unnormalised complex
    spectrum of K taps and keeps the real part of its inverse; each coefficient of the orthonormal real basis
    then gets noise of this std.

    Raises:
        ValueError: beta is negative or not finite, or taps is not positive.
    """
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"expected beta to be finite and at least 0, got {beta}")
    _check_positive(taps=taps)
    return beta / math.sqrt(taps)


def relative_std(grads, fraction: float):
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
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}")


def _check_positive(**arguments: float) -> None:
    for name, value in arguments.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"expected {name} to be positive and finite, got {value}")
