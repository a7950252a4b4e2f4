"""What TIP would do to the gradients of your model: which numbers get noise, which are sent as they are, how long.

Prints a table by conv kernel and of all else. The model is what a factory returns; its values do not matter, and no
images are needed. It is TIP itself that is asked, and a call of it is timed. Of noise only whether there is any counts:
what an attacker could see of images under it is what audit says.
"""

import argparse
import contextlib
import functools
import itertools
import logging
import statistics
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .. import saliency
from .._bench.timing import milliseconds
from .._op import dispatch
from .._op.plan import DTYPES
from ..defense import TIP
from . import plan_report, settings
from .factories import model_of
from .output import reserved_stdout, say
from .plan_report import Plan, Timing
from .refusal import Refused, one_line, raised_by_user

NOISE = {"std": 1.0, "floor": 0.0}
"""Where none is given: only whether there is any counts."""

REPEATS = 5
BATCH = 2
"""Inputs of a forward pass: more than one, which batch norms in training mode ask for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the model, of its TIP, and of the output."""
    parser.add_argument("--model", required=True, metavar="MODULE:FACTORY", help="function that returns the model")
    parser.add_argument("--input", type=_shape, metavar="C,H,W",
                        help="shape of one input: tells which layers it reaches, and their outputs")  # fmt: skip
    settings.add_arguments(parser, ratio=0.3, **NOISE)
    output = parser.add_argument_group("output")
    output.add_argument("--no-time", action="store_true", help="do not time a call")
    output.add_argument("--json", action="store_true", help="one object to stdout, and nothing else")


def run(options: argparse.Namespace) -> None:
    """Prints the plan."""
    with reserved_stdout(options.json):
        plan = _plan(options)
    text = plan_report.as_json(options, plan) if options.json else plan_report.as_text(options, plan)
    say(text)


def _plan(options: argparse.Namespace) -> Plan:
    model = model_of(options.model, seed=0)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise Refused(f"expected {options.model} to return a model with parameters that are trained, got none")
    chosen = settings.settings_of(options, **NOISE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _materialize(model, options.input)
        defense = _defense(chosen, model)
        outputs = None if options.input is None else _outputs(defense, options.input)
        rows = plan_report.rows_of(defense)
        timing = None
        if any(row.noised for row in rows):
            _check_call(defense)
            timing = None if options.no_time else _timed(defense)
    warned = list(dict.fromkeys(one_line(warning.message) for warning in caught))
    return Plan(model, defense, chosen, rows, outputs, timing, warned)


def _materialize(model: nn.Module, shape: tuple[int, ...] | None) -> None:
    """Runs lazy layers once, which have no shapes before, on an input of this shape.

    Raises:
        Refused: there is none, or it does not reach all of them.
    """
    if _lazy(model) and shape is not None:
        _forward(model, shape)
    if lazy := _lazy(model):
        how = "that --input reaches" if shape else "(--input runs a forward pass)"
        raise Refused(f"expected materialized layers, or lazy ones {how}, got a lazy one ({lazy[0]})")


def _lazy(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers without a shape so far."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return [name for name, tensor in named if is_lazy(tensor)]


def _defense(chosen: dict[str, Any], model: nn.Module) -> TIP:
    """With scores, all alike, since only the number of selected channels matters."""
    try:
        defense = TIP(model, scores="public", **chosen)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Refused(one_line(error)) from error
    layout = defense._layout
    alike = {i: torch.zeros(channels, dtype=torch.float32, device="cpu") for i, channels in layout.channels.items()}
    defense.set_scores({layout.names[index]: scores for index, scores in alike.items()})
    return defense


def _check_call(defense: TIP) -> None:
    """Raises Refused for what a call for all that is trained would refuse: dtypes, and noise that they cannot hold."""
    touches_all = defense._settings["floor_std"] > 0 or defense._settings["max_grad_norm"] is not None
    named = [(name, p if p.requires_grad else None) for name, p in defense.model.named_parameters()]
    for name, parameter in named:
        if touches_all and parameter is not None and parameter.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise Refused(f"expected parameters of {known}, got {str(parameter.dtype).removeprefix('torch.')} ({name})")
    try:
        with _quiet():
            defense._checks.before([parameter for _, parameter in named], [name for name, _ in named])
    except (ValueError, RuntimeError) as error:
        raise Refused(one_line(error)) from error


def _outputs(defense: TIP, shape: tuple[int, ...]) -> dict[str, list[tuple[int, ...]]]:
    """By conv kernel the output shapes of its uses in a forward pass, without that of the batch."""
    layout = defense._layout
    found: dict[str, list[tuple[int, ...]]] = {layout.names[index]: [] for index in layout.all.convs}
    handles = []
    for module, slots in layout.layers:
        uses = [found[layout.names[slot.index]] for slot in slots]
        handles.append(module.register_forward_hook(functools.partial(_note, uses)))
    try:
        with saliency.undisturbed(defense.model):
            _forward(defense.model, shape)
    finally:
        saliency.remove_all(handles)
    return found


def _note(uses: Sequence[list[tuple[int, ...]]], _module: nn.Module, _args: object, output: object) -> None:
    """A forward hook that adds the shape of an output to each of these."""
    if isinstance(output, torch.Tensor):
        for shapes in uses:
            shapes.append(tuple(output.shape[1:]))


def _forward(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Of zeros, in the mode that the model is in.

    Raises:
        Refused: the model raises, or such an input cannot be made.
    """
    known = next((p for p in model.parameters() if p.is_floating_point() and not is_lazy(p)), torch.zeros(0))
    try:
        with torch.no_grad():
            model(torch.zeros(BATCH, *shape, dtype=known.dtype, device=known.device))
    except (Exception, SystemExit) as error:
        text = ",".join(map(str, shape))
        raise Refused(
            f"expected a model for inputs of {text} (--input), but of {BATCH} of them it has raised "
            f"{raised_by_user(error)}"
        ) from error


def _timed(defense: TIP) -> Timing:
    """The median of some calls for gradients of the model's shapes; one before them is not counted."""
    trained = [parameter for parameter in defense.model.parameters() if parameter.requires_grad]
    device = trained[0].device
    times = []
    try:
        with _quiet():
            for _ in range(1 + REPEATS):
                for parameter in trained:
                    parameter.grad = torch.randn_like(parameter)
                times.append(milliseconds(defense.perturb_gradients, device))
    except (TypeError, ValueError, RuntimeError) as error:
        raise Refused(f"a call for gradients of this model has raised: {one_line(error)}") from error
    return Timing(statistics.median(times[1:]) / 1e3, REPEATS, dispatch.available_backends(device)[0], device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log's words on how much gets noise, which the plan has."""
    logger = logging.getLogger("tip_kernels")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected positive integers like 3,224,224, got {text}")
    return tuple(map(int, parts))
