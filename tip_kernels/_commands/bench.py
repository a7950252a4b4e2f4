"""How fast the backends are on this machine, beside a copy of its memory and eager PyTorch.

Times perturb_ on gradients of a model, of which only the shapes count, with every backend that can run; the same in
eager PyTorch as one would write it; and a copy of memory. All take turns in one run, so that what disturbs the machine
disturbs all alike. A work's GB/s are those that it must read and write, each once, whoever does it. Eager PyTorch has
noise of a generator that is not cryptographic, and no grid. docs/performance.md says what bounds the kernels.
"""

import argparse
import pathlib

import torch

from .._bench import contest, timing
from .._bench.machine import machine
from .._bench.parameters import Parameter, count, parameters_of, selected
from .._bench.resnets import RESNETS
from .._op import dispatch, plan
from ..rng import GENERATORS
from . import bench_picture, bench_report, extras
from .factories import model_of
from .output import check_picture, reserved_stdout, save, say
from .refusal import Refused, one_line

LEAST = 3
"""Repeats of the slowest, at least."""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in plan.DTYPES}
PATIENCE = 5.0
"""Seconds: what takes longer is not repeated."""

COPY = "copy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is timed, where, and the output."""
    timed = parser.add_argument_group("what is timed")
    timed.add_argument("--model", default="resnet18", metavar="NAME|MODULE:FACTORY",
                       help=f"{', '.join(RESNETS)}, or a function that makes a model; default %(default)s")  # fmt: skip
    timed.add_argument("--dtype", choices=DTYPES, default="float32", help="of the gradients; default %(default)s")
    timed.add_argument("--ratio", type=_share, default=0.3, help="of the channels selected; default %(default)s")
    timed.add_argument("--cutoff", type=float, default=0.5, help="of the high band; default %(default)s")
    timed.add_argument("--generator", choices=GENERATORS, default="chacha12", help="default %(default)s")
    where = parser.add_argument_group("where")
    where.add_argument("--device", help="of torch; default: cuda, or cpu if there is none")
    where.add_argument("--backend", action="append", metavar="NAME", help="this one, may be given again; default: all")
    where.add_argument("--seconds", type=_seconds, default=20.0, help="that timing takes; default %(default)g")
    output = parser.add_argument_group("output")
    output.add_argument("--png", type=pathlib.Path, metavar="FILE", help="draw a picture, too")
    output.add_argument("--json", action="store_true", help="to stdout, and nothing else")


def run(options: argparse.Namespace) -> None:
    """Checks all before it times anything."""
    if options.png is not None:
        extras.require("matplotlib", "matplotlib", "the picture (--png)")
        check_picture(options.png, "--png")
    with reserved_stdout(options.json):
        result = _result(options)
    if options.png is not None:
        save(bench_picture.drawn(result), options.png)
    text = bench_report.as_json(result) if options.json else bench_report.as_text(result)
    say(text)


def _result(options: argparse.Namespace) -> bench_report.Result:
    device = _device(options.device)
    backends = _backends(options.backend, device)
    parameters = _parameters(options.model)
    settings = contest.Settings(options.ratio, options.cutoff, options.generator)
    try:
        contestants = contest.contest(parameters, device, DTYPES[options.dtype], backends, settings)
        copy, copied = contest.copy(device)
        functions = {COPY: copy, **{f"{c.work}, {c.by}": c.run for c in contestants}}
        with extras.progress("bench") as progress:
            times = timing.in_fair_turns(functions, device, options.seconds, LEAST, PATIENCE, progress)
    except (RuntimeError, ValueError) as error:  # as of a cutoff, or of too little memory
        raise Refused(one_line(error)) from error
    facts = {
        "model": f"{options.model}, {count(parameters):,} parameters in {len(parameters)} tensors of {options.dtype}, "
        f"{100 * selected(parameters, options.ratio) / max(1, count(parameters)):.1f} % of them selected by TIP",
        "settings": f"ratio {options.ratio:g}, cutoff {options.cutoff:g}, {options.generator}",
    }
    rows = [bench_report.Row(c.work, c.by, c.bytes_moved, times[f"{c.work}, {c.by}"]) for c in contestants]
    return bench_report.Result(machine(device), facts, bench_report.Row(COPY, "PyTorch", copied, times[COPY]), rows,
                               options.png)  # fmt: skip


def _device(name: str | None) -> torch.device:
    """One that torch has here."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise Refused(f"expected --device to be one of this machine, got {name!r}: {one_line(error)}") from error
    if device.type not in ("cpu", "cuda"):
        raise Refused(f"expected --device cpu or cuda, whose time can be taken, got {name!r}")
    return device


def _backends(names: list[str] | None, device: torch.device) -> list[str]:
    """Those to time, fastest first."""
    if names is None:
        return dispatch.available_backends(device)
    for name in names:
        try:
            dispatch.perturb_op(name, device)
        except (RuntimeError, ValueError) as error:
            raise Refused(f"--backend: {one_line(error)}") from error
    return [backend.name for backend in dispatch.BACKENDS if backend.name in names]


def _parameters(spec: str) -> list[Parameter]:
    """Those of a model by name, or of what a factory returns."""
    if spec in RESNETS:
        return RESNETS[spec]()
    if ":" not in spec:
        raise Refused(f"expected --model to be {', '.join(RESNETS)} or module:factory, got {spec!r}")
    try:
        parameters = parameters_of(model_of(spec, seed=0))
    except ValueError as error:
        raise Refused(f"{spec}: {one_line(error)}") from error
    if not parameters:
        raise Refused(f"expected {spec} to return a model with trained parameters, got one without")
    return parameters


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in (0, 1], got {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, at least 0, got {text}")
    return value
