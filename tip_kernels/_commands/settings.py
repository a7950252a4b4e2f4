"""The settings of a TIP as options of a command. What noise there is has no default."""

import argparse
import pathlib
from typing import Any

from ..shaping import Spectrum
from .refusal import Refused, one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of :class:`tip_kernels.TIP` that decide what a message tells."""
    group = parser.add_argument_group("its TIP, see tip_kernels.TIP")
    group.add_argument("--ratio", type=float, required=True, help="of the channels that are selected")
    group.add_argument("--std", type=float, help="of the noise in their high band")
    group.add_argument("--floor", type=float, help="std of the noise on everything else; 0 for none")
    group.add_argument("--spectrum", type=pathlib.Path, metavar="FILE",
                       help="all the noise, as Spectrum.save wrote it, in the place of --std and --floor")  # fmt: skip
    group.add_argument("--max-grad-norm", type=float, help="to which gradients are clipped; not clipped if absent")
    group.add_argument("--clip-by", choices=("norm", "noise"), default="norm",
                       help="the norm that is clipped; default %(default)s")  # fmt: skip
    group.add_argument("--cutoff", type=float, default=0.5, help="of the high band; default %(default)s")
    group.add_argument("--keep", type=float, default=1.0, help="of the high band's own; default %(default)s")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of a TIP.

    Raises:
        Refused: noise is missing or given twice, or there is no spectrum in the file.
    """
    amounts = [options.std, options.floor]
    if options.spectrum is None and None in amounts:
        raise Refused("expected --std and --floor, or --spectrum, got no noise for everything; --help tells more")
    if options.spectrum is not None and amounts != [None, None]:
        raise Refused("expected --std and --floor to be left out beside --spectrum, which has all noise, got both")
    noise = {"std": options.std, "floor_std": options.floor}
    if options.spectrum is not None:
        noise = {"spectrum": _loaded(options.spectrum)}
    return {
        "ratio": options.ratio,
        "cutoff": options.cutoff,
        "keep": options.keep,
        "max_grad_norm": options.max_grad_norm,
        "clip_by": options.clip_by,
        **noise,
    }


def _loaded(path: pathlib.Path) -> Spectrum:
    try:
        return Spectrum.load(path)
    except (OSError, ValueError) as error:
        raise Refused(f"--spectrum: {one_line(error)}") from error


def described(settings: dict[str, Any]) -> str:
    """For people, with the scores that channels are selected by."""
    names = {"ratio": "ratio", "cutoff": "cutoff", "keep": "keep", "std": "std", "floor_std": "floor"}
    parts = [f"{shown} {settings[name]:g}" for name, shown in names.items() if name in settings]
    if "spectrum" in settings:
        parts.append(f"spectrum {settings['spectrum'].fingerprint()}")
    norm = settings["max_grad_norm"]
    by_noise = " by the noise" if settings["clip_by"] == "noise" else ""
    parts.append("not clipped" if norm is None else f"clipped to {norm:g}{by_noise}")
    chosen = "; channels by the scores of each message's own backward pass" if 0 < settings["ratio"] < 1 else ""
    return "TIP with " + ", ".join(parts) + chosen
