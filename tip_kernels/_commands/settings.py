"""The settings of a TIP as options of a command. What noise there is has no default."""

import argparse
import pathlib
from typing import Any

from ..shaping import Spectrum
from .refusal import Refused, one_line


def add_arguments(
    parser: argparse.ArgumentParser, ratio: float | None = None, std: float | None = None, floor: float | None = None
) -> None:
    """Those of :class:`tip_kernels.TIP` that decide what a message tells.

    Args:
        parser: of the command.
        ratio: the default; None: it has to be given.
        std: as :func:`settings_of` has it.
        floor: likewise.
    """
    group = parser.add_argument_group("its TIP, see tip_kernels.TIP")
    group.add_argument("--ratio", type=float, required=ratio is None, default=ratio,
                       help=f"of the channels that are selected{_or(ratio)}")  # fmt: skip
    group.add_argument("--std", type=float, help=f"of the noise in their high band{_or(std)}")
    group.add_argument("--floor", type=float, help=f"std of the noise on everything else; 0 for none{_or(floor)}")
    group.add_argument("--spectrum", type=pathlib.Path, metavar="FILE",
                       help="all the noise, as Spectrum.save wrote it, in the place of --std and --floor")  # fmt: skip
    group.add_argument("--max-grad-norm", type=float, help="to which gradients are clipped; not clipped if absent")
    group.add_argument("--clip-by", choices=("norm", "noise"), default="norm",
                       help="the norm that is clipped; default %(default)s")  # fmt: skip
    group.add_argument("--cutoff", type=float, default=0.5, help="of the high band; default %(default)s")
    group.add_argument("--keep", type=float, default=1.0, help="of the high band's own; default %(default)s")


def _or(default: float | None) -> str:
    return "" if default is None else f"; default {default:g}"


def settings_of(options: argparse.Namespace, std: float | None = None, floor: float | None = None) -> dict[str, Any]:
    """Keyword arguments of a TIP, with these amounts of noise where none are given.

    Raises:
        Refused: noise is missing or given twice, or there is no spectrum in the file.
    """
    noise: dict[str, Any]
    if options.spectrum is not None:
        if (options.std, options.floor) != (None, None):
            raise Refused("expected --std and --floor to be left out beside --spectrum, which has all noise, got both")
        noise = {"spectrum": _loaded(options.spectrum)}
    else:
        given = {"std": options.std, "floor_std": options.floor}
        defaults = {"std": std, "floor_std": floor}
        noise = {name: defaults[name] if amount is None else amount for name, amount in given.items()}
        if None in noise.values():
            raise Refused("expected --std and --floor, or --spectrum, got no noise for everything; --help tells more")
    return {
        "ratio": options.ratio,
        "cutoff": options.cutoff,
        "keep": options.keep,
        "max_grad_norm": options.max_grad_norm,
        "clip_by": options.clip_by,
        **noise,
    }


def as_objects(options: argparse.Namespace, chosen: dict[str, Any]) -> dict[str, Any]:
    """For JSON, by the names of the options: what :func:`settings_of` has made of them."""
    names = {"std": "std", "floor": "floor_std"}
    amounts = {name: chosen.get(argument) for name, argument in names.items()}
    others = {name: chosen[name] for name in ("ratio", "cutoff", "keep", "max_grad_norm", "clip_by")}
    return {**others, **amounts, "spectrum": None if options.spectrum is None else str(options.spectrum)}


def _loaded(path: pathlib.Path) -> Spectrum:
    try:
        return Spectrum.load(path)
    except (OSError, ValueError) as error:
        raise Refused(f"--spectrum: {one_line(error)}") from error


def described(settings: dict[str, Any]) -> str:
    """For people."""
    names = {"ratio": "ratio", "cutoff": "cutoff", "keep": "keep", "std": "std", "floor_std": "floor"}
    parts = [f"{shown} {settings[name]:g}" for name, shown in names.items() if name in settings]
    if "spectrum" in settings:
        parts.append(f"spectrum {settings['spectrum'].fingerprint()}")
    norm = settings["max_grad_norm"]
    by_noise = " by the noise" if settings["clip_by"] == "noise" else ""
    parts.append("not clipped" if norm is None else f"clipped to {norm:g}{by_noise}")
    return "TIP with " + ", ".join(parts)
