"""What a number of messages is worth together, by the privacy loss distributions of ``dp-accounting``."""

import decimal
import importlib.metadata
import math
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import dp_accounting

RELATIONS = {"add_or_remove": "ADD_OR_REMOVE_ONE", "replace": "REPLACE_ONE"}

_TAILS = 1.35e-11  # probability of a normal beyond the largest radius, sqrt(66 ln 2) = 6.76, on either side


class Kind(NamedTuple):
    """Messages that an accountant cannot tell apart."""

    noise_multiplier: float
    sampling_probability: float


Counts = Mapping[Kind, int]


def composed_epsilon(counts: Counts, delta: float, relation: str) -> float:
    """The epsilon of all these messages together; 0 of none, infinite where floats cannot hold it. It errs upwards.

    Raises:
        ImportError: ``dp-accounting`` is not installed, or older than 0.5.
    """
    require()
    import dp_accounting
    from dp_accounting import pld

    events = _merged(counts)
    if not events:
        return 0.0
    neighbors = dp_accounting.NeighboringRelation[RELATIONS[relation]]
    accountant = pld.PLDAccountant(neighbors, value_discretization_interval=_interval(events))
    try:
        for kind, count in events.items():
            accountant.compose(_event(kind), count)
        return float(accountant.get_epsilon(delta))
    except OverflowError:  # below about a thousandth of the clipping norm
        return math.inf


def require() -> None:
    """Raises ImportError unless there is an accountant that can be relied on."""
    try:
        import dp_accounting  # noqa: F401
    except ImportError as error:
        raise ImportError("expected dp-accounting to be installed: pip install 'tip_kernels[accounting]'") from error
    # Before 0.5 its Gaussian mechanism took "replace" for "add_or_remove", so the epsilon was too small.
    version = importlib.metadata.version("dp-accounting")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < (0, 5):
        raise ImportError(f"expected dp-accounting 0.5 or newer, got {version}: its epsilon can be too small")


def warn_of_missing_tails(normals: int, delta: float, stacklevel: int = 3) -> bool:
    """Warns of a delta below the probability that so many ideal normals have one beyond ours; returns whether."""
    if delta >= normals * _TAILS:
        return False
    up = decimal.Context(prec=2, rounding=decimal.ROUND_CEILING)  # a delta of what is printed is enough
    least = float(up.create_decimal_from_float(normals * _TAILS))
    warnings.warn(
        f"expected delta of at least {least:g}, got {delta:g}: ideal noise of {normals:,} normals "
        "goes beyond 6.76 std with that probability, and noise from 32-bit words never does; docs/noise.md has a "
        "larger bound for an attacker who knows both candidates in full",
        RuntimeWarning,
        stacklevel=stacklevel,
    )
    return True


def check_accounting(rounds: int, delta: float, sampling_probability: float, relation: str) -> None:
    """Raises ValueError unless they are what so many messages of one kind can be accounted with."""
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"expected rounds to be a positive integer, got {rounds!r}")
    check_delta(delta)
    check_sampling_probability(sampling_probability)
    check_relation(relation)


def check_delta(delta: float) -> None:
    """Raises ValueError unless it is in (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}")


def check_relation(relation: str) -> None:
    """Raises ValueError unless it is one of ``RELATIONS``."""
    if relation not in RELATIONS:
        raise ValueError(f"expected relation to be one of {', '.join(RELATIONS)}, got {relation!r}")


def check_sampling_probability(value: float) -> None:
    """Raises ValueError unless it is in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"expected sampling_probability in (0, 1], got {value}")


def _merged(counts: Counts) -> dict[Kind, int]:
    """Gaussian mechanisms without sampling compose to one, exactly."""
    merged = {kind: count for kind, count in counts.items() if count and kind.sampling_probability < 1}
    whole = [(kind.noise_multiplier, count) for kind, count in counts.items() if count and kind not in merged]
    if len(whole) == 1:
        [(multiplier, count)] = whole
        merged[Kind(multiplier / math.sqrt(count), 1.0)] = 1
    elif whole:
        merged[Kind(1 / math.sqrt(math.fsum(count / multiplier**2 for multiplier, count in whole)), 1.0)] = 1
    return merged


def _interval(events: Counts) -> float:
    """The grid of losses.

    It follows their size, 1 / (2 multiplier^2) in the mean, so that it stays small at any epsilon; of different sizes
    it follows the smaller losses, as far as that leaves the larger ones a million steps or so.
    """
    multipliers = [kind.noise_multiplier for kind in events]
    return max(1e-3 * max(1.0, max(multipliers) ** -2), 1e-6 * min(multipliers) ** -2)


def _event(kind: Kind) -> "dp_accounting.DpEvent":
    import dp_accounting

    event = dp_accounting.GaussianDpEvent(kind.noise_multiplier)
    if kind.sampling_probability == 1:
        return event
    return dp_accounting.PoissonSampledDpEvent(kind.sampling_probability, event)
