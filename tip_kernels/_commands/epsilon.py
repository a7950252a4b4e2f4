"""Which epsilon a noise is worth over all messages of a client, and how much noise an epsilon asks for.

By tip_kernels.calibration, and so by the extra [accounting]. A noise multiplier here is what TIP is given by its
max_grad_norm: of std and floor_std the less. With --shares it is that of a whole sum, and the noise of the --honest
is what counts. Numbers in the text are rounded up; those of --json are as they are.
"""

import argparse
import decimal
import json
import math
import warnings
from typing import NamedTuple

from .. import __version__
from .._budget.accountant import RELATIONS, Kind, check_accounting, composed_epsilon, warn_of_missing_tails
from .._tip.settings import check_shares
from ..calibration import noise_multiplier_for
from . import extras
from .output import say
from .refusal import Refused, one_line
from .table import table

AGAINST = {"add_or_remove": "its messages from messages of zeros", "replace": "any two series of messages apart"}
"""What epsilon bounds, by relation."""


class Result(NamedTuple):
    """What there is to say.

    Attributes:
        epsilon: of all messages.
        given: std and floor_std, as TIP is given them, by max_grad_norm.
        guaranteed: noise that surely is in every message, or sum of messages, by max_grad_norm.
        warned: by the accountant.
    """

    epsilon: float
    given: float
    guaranteed: float
    warned: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the target or the noise, of the messages, and of what is assumed."""
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--noise-multiplier", type=float, metavar="X", help="whose epsilon is asked for")
    asked.add_argument("--epsilon", type=float, metavar="E", help="whose noise multiplier is asked for")
    parser.add_argument("--delta", type=float, required=True, metavar="D", help="in (0, 1)")
    parser.add_argument("--rounds", type=int, required=True, metavar="N", help="messages of one client")
    parser.add_argument("--sampling-probability", type=float, default=1.0, metavar="Q",
                        help="of taking part in a round, if who does stays hidden; default %(default)s")  # fmt: skip
    parser.add_argument("--shares", type=int, default=1, metavar="M",
                        help="messages in each sum, if only sums are seen; default %(default)s")  # fmt: skip
    parser.add_argument("--honest", type=int, metavar="H", help="of the shares, whose noise surely is in each sum")
    parser.add_argument("--relation", choices=RELATIONS, default="add_or_remove",
                        help="what must look alike: a message and zeros, or any two; default %(default)s")  # fmt: skip
    parser.add_argument("--numbers", type=int, metavar="P",
                        help="in a message, as plan counts them: warns of a delta too small for them")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one object to stdout, and nothing else")


def run(options: argparse.Namespace) -> None:
    """Prints epsilon, noise, and what both assume."""
    extras.require("dp_accounting", "dp-accounting", "accounting", "accounting")
    try:
        result = _result(options)
    except (ValueError, ImportError) as error:
        raise Refused(one_line(error)) from error
    except ArithmeticError as error:
        raise Refused(f"expected numbers that the accountant's floats can hold, got others: {error}") from error
    text = _as_json(options, result) if options.json else _as_text(options, result)
    say(text)


def _result(options: argparse.Namespace) -> Result:
    delta, rounds, probability = options.delta, options.rounds, options.sampling_probability
    check_accounting(rounds, delta, probability, options.relation)
    check_shares(options.shares, options.honest)
    if options.shares > 1 and options.honest is None:
        raise Refused(
            f"expected --honest to say how many of the {options.shares} shares of the noise are surely in every sum, "
            "got none"
        )
    if options.numbers is not None and options.numbers < 1:
        raise Refused(f"expected --numbers to be at least 1, got {options.numbers}")
    share = math.sqrt((options.honest or 1) / options.shares)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if options.epsilon is None:
            given = options.noise_multiplier
            if not 0 < given < math.inf:
                raise Refused(f"expected --noise-multiplier to be positive and finite, got {given}")
            epsilon = composed_epsilon({Kind(given * share, probability): rounds}, delta, options.relation)
        else:
            wanted = noise_multiplier_for(
                options.epsilon, delta, rounds=rounds, sampling_probability=probability, relation=options.relation
            )
            given = wanted / share
            epsilon = composed_epsilon({Kind(wanted, probability): rounds}, delta, options.relation)
        warn_of_missing_tails(rounds * (options.numbers or 1), delta)
    return Result(epsilon, given, given * share, [one_line(warning.message) for warning in caught])


def _as_text(options: argparse.Namespace, result: Result) -> str:
    given = _up(result.given) if options.noise_multiplier is None else repr(result.given)
    by_all = "" if options.shares == 1 else f", shares={options.shares}, honest={options.honest}"
    facts = [
        ("epsilon", f"{_up(result.epsilon)} at delta {options.delta:g}, of {options.rounds} messages"),
        ("noise", f"TIP(model, scores='public', std={given} * C, floor_std={given} * C, max_grad_norm=C{by_all})"),
        ("assumes", _assumed(options)),
        *(("warning", text) for text in result.warned),
    ]
    return table(facts)


def _as_json(options: argparse.Namespace, result: Result) -> str:
    """An epsilon that floats cannot hold becomes null."""
    content = {
        "tip_kernels": __version__,
        "epsilon": result.epsilon if math.isfinite(result.epsilon) else None,
        "delta": options.delta,
        "noise_multiplier": result.given,
        "guaranteed_noise_multiplier": result.guaranteed,
        "rounds": options.rounds,
        "sampling_probability": options.sampling_probability,
        "shares": options.shares,
        "honest": options.honest,
        "relation": options.relation,
        "assumes": _assumed(options),
        "warnings": result.warned,
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _assumed(options: argparse.Namespace) -> str:
    """docs/design.md, section 5, in short."""
    parts = [
        f"epsilon bounds how well anyone who sees all that a client sends can tell {AGAINST[options.relation]}, not "
        "single records; each message is clipped to C, with public scores and ideal normals of this noise on every "
        "number (docs/design.md, section 5; docs/noise.md: how far delta can be taken literally)"
    ]
    if options.shares > 1:
        parts.append(
            f"nobody sees more than sums of {options.shares} messages of equal weights, and {options.honest} of them "
            "add noise that nobody else knows"
        )
    if options.sampling_probability < 1:
        parts.append("who takes part stays hidden: clients that are not drawn send zeros through the same perturb call")
    return "; ".join(parts)


def _up(value: float) -> str:
    """Five digits that are no less than the value: with less noise the target would not hold."""
    context = decimal.Context(prec=5, rounding=decimal.ROUND_CEILING)
    rounded = context.create_decimal(repr(value))
    return f"{rounded.normalize(context):g}" if rounded.is_finite() else "infinite"
