"""What any attacker could see of a folder's images in the gradients that a client sends under TIP.

Prints a ceiling of PSNR for each image and a table of where the message leaks, and draws a picture of both;
docs/audit.md says what is computed and assumed. The model is what a factory returns, with its weights. Images reach it
in [0, 1], so normalization belongs into the model. What noise there is has no default here: an audit is one of the
settings that are in use. Plain noise on everything is --ratio 0 with --std and --floor alike.
"""

import argparse
import pathlib
from typing import Any, NamedTuple

import torch
from torch import nn

from .._audit.channels import Loss
from .._audit.statistics import changed_by_forward
from ..audit import Audit, ImagePrior
from ..audit import audit as audited
from ..defense import TIP
from ..saliency import undisturbed
from . import audit_picture, audit_report, extras, settings
from .factories import model_of, named
from .folders import Form, Listing, listed, read, shown, spread_over
from .labels import HELP, Labels, labels_of
from .output import check_picture, printable, reserved_stdout, save, say
from .refusal import Refused, one_line, raised_by_user

COUNT = 16
"""Images of a larger folder that are audited unless the user says how many."""

MOST_LABEL = torch.iinfo(torch.int64).max

PRIOR_BYTES = 2**30
"""Public images that a prior is fitted to take no more memory than this, as float64."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the client, of what the attacker knows, and of the output."""
    client = parser.add_argument_group("the client")
    client.add_argument("--model", required=True, metavar="MODULE:FACTORY", help="function that returns the model")
    client.add_argument("--images", required=True, type=pathlib.Path, metavar="FOLDER", help="PNG and JPEG files")
    client.add_argument("--labels", metavar="HOW", help=HELP)
    client.add_argument("--loss", default="cross_entropy", metavar="MODULE:FUNCTION",
                        help="of outputs and labels; default %(default)s")  # fmt: skip
    client.add_argument("--eval", action="store_true", help="clients train the model in evaluation mode")
    client.add_argument(
        "--count", type=_positive, help=f"images, evenly over the sorted ones; default all up to {COUNT}"
    )
    client.add_argument("--size", type=_size, metavar="N|HxW", help="scale to cover this, and crop around the center")
    client.add_argument("--channels", type=int, choices=(1, 3), help="turn images into gray or colors")
    client.add_argument("--per-message", type=_positive, default=1, metavar="N",
                        help="images in one message; default %(default)s")  # fmt: skip
    client.add_argument("--lr", type=float, help="of SGD, if updates of the weights are sent; gradients if absent")
    client.add_argument("--steps", type=_positive, default=1, help="of SGD behind an update; default %(default)s")
    client.add_argument("--seed", type=_seed, default=0, help="of the factory, too; default %(default)s")
    settings.add_arguments(parser)
    attacker = parser.add_argument_group("the attacker, and how it is computed")
    attacker.add_argument("--prior", type=pathlib.Path, metavar="FOLDER",
                          help="public images to fit the prior to; natural images in general if absent")  # fmt: skip
    attacker.add_argument("--method", choices=("exact", "iterative"), help="by size if absent")
    attacker.add_argument("--probes", type=int, default=8, help="of the iterative method; default %(default)s")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=pathlib.Path, default=pathlib.Path("audit.png"), metavar="FILE",
                        help="the picture; default %(default)s")  # fmt: skip
    output.add_argument("--no-picture", action="store_true", help="draw none")
    output.add_argument("--json", action="store_true", help="to stdout, and nothing else")


def run(options: argparse.Namespace) -> None:
    """Checks all that can be checked before the audit, which may take long."""
    _check_output(options)
    with reserved_stdout(options.json):
        result = _result(options)
    text = audit_report.as_json(result) if options.json else audit_report.as_text(result)
    say(text)


def _check_output(options: argparse.Namespace) -> None:
    extras.require("PIL", "pillow", "reading images")
    if options.no_picture:
        return
    extras.require("matplotlib", "matplotlib", "the picture (--no-picture draws none)")
    check_picture(options.out, "--out")


class Batch(NamedTuple):
    """What is audited: paths from the folder on, images [N, channels, height, width], and labels [N]."""

    paths: list[pathlib.Path]
    images: torch.Tensor
    labels: torch.Tensor


def _result(options: argparse.Namespace) -> audit_report.Result:
    chosen = settings.settings_of(options)
    listing = listed("--images", options.images)
    labels = labels_of(listing, options.labels)
    model = _model(options)
    batch = _batch(options, listing, labels, model)
    loss = nn.functional.cross_entropy if options.loss == "cross_entropy" else named("--loss", options.loss)
    _check_fit(options, model, loss, batch, labels.classes)
    prior, origin = _prior(options, batch)
    found = _audited(options, chosen, model, loss, batch, prior)
    facts = {
        "model": f"{options.model}, {audit_report.of_model(model)}, weights as the factory returns them",
        "images": f"{_of_them(len(batch.paths), len(listing.paths))} in {listing.folder}, "
        f"{shown(batch.images.shape[1:])}{_turned(options)}; they reach the model in [0, 1]",
        "labels": labels.origin,
        "loss": options.loss,
        "defense": settings.described(chosen) + _of_channels(options.ratio),
        "message": _of_message(options),
        "prior": origin,
    }
    picture = None if options.no_picture else options.out
    if picture is not None:
        names = [printable(str(path)) for path in batch.paths]
        save(audit_picture.drawn(found, batch.images, names, options.probes), picture)
    return audit_report.Result(
        found,
        options,
        chosen,
        facts,
        _notes(options, chosen, listing, model, batch.images),
        batch.paths,
        batch.labels,
        picture,
    )


def _of_message(options: argparse.Namespace) -> str:
    images = f"{options.per_message} image{'s' * (options.per_message > 1)}"
    if options.lr is None:
        return f"the gradient of {images}"
    return f"the update after {options.steps} step{'s' * (options.steps > 1)} of SGD at {options.lr:g} on {images}"


def _of_channels(ratio: float) -> str:
    return "; channels by the scores of each message's own backward passes" if 0 < ratio < 1 else ""


def _model(options: argparse.Namespace) -> nn.Module:
    model = model_of(options.model, options.seed)
    if options.eval:
        return model.eval()
    if not model.training:
        raise Refused(
            f"expected {options.model} to return a model in training mode, in which clients compute gradients, got one "
            "in evaluation mode: --eval, if that is how they train it"
        )
    return model


def _batch(options: argparse.Namespace, listing: Listing, labels: Labels, model: nn.Module) -> Batch:
    have, size = len(listing.paths), options.per_message
    count = options.count or max(size, min(have, COUNT) // size * size)
    if count > have:
        raise Refused(f"expected {count} images in {listing.folder} (--count, --per-message), got {have}")
    if count % size:
        raise Refused(f"expected --count to be a multiple of --per-message, {size}, got {count}")
    paths = spread_over(listing.paths, count)
    images = read(listing.folder, paths, Form(options.size, options.channels))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    chosen = [labels.values[path] for path in paths]
    if max(chosen) > MOST_LABEL:
        raise Refused(f"expected labels of at most {MOST_LABEL} (--labels), got {max(chosen)}")
    values = torch.tensor(chosen)
    return Batch(paths, images.to(device), values.to(device))


def _check_fit(options: argparse.Namespace, model: nn.Module, loss: Loss, batch: Batch, classes: int | None) -> None:
    """Of images, model, labels and loss, by a pass of the first message that changes nothing."""
    images, labels = batch.images[: options.per_message], batch.labels[: options.per_message]
    with undisturbed(model), torch.no_grad():
        try:
            outputs = model(images)
        except (Exception, SystemExit) as error:
            raise Refused(
                f"expected a model for images of {shown(images.shape[1:])} (--size and --channels turn them into "
                f"others), but it has raised {raised_by_user(error)}"
            ) from error
        if options.loss == "cross_entropy":
            _check_classes(outputs, batch, classes)
        try:
            value = loss(outputs, labels)
        except (Exception, SystemExit) as error:
            raise Refused(f"{options.loss} has raised {raised_by_user(error)}") from error
    if not isinstance(value, torch.Tensor) or value.dim():
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise Refused(f"expected {options.loss} to return one number as a tensor, got {got}")


def _check_classes(outputs: object, batch: Batch, classes: int | None) -> None:
    """That labels can be classes of these outputs."""
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
        got = shown(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise Refused(f"expected outputs [N, classes] of the model for cross_entropy, got {got}: see --loss")
    width = outputs.shape[1]
    if classes is not None and classes != width:
        raise Refused(
            f"expected as many sub-folders as the model has outputs, {width}, got {classes}, so that their order may "
            "not be that of the classes: --labels sorted takes it for that, and there are other ways"
        )
    if batch.labels.max() >= width:
        worst = int(batch.labels.argmax())
        raise Refused(
            f"expected labels below the number of the model's outputs, {width}, got {batch.labels[worst]} "
            f"({batch.paths[worst]})"
        )


def _prior(options: argparse.Namespace, batch: Batch) -> tuple[ImagePrior, str]:
    """And where it is from, for people."""
    shape = batch.images.shape[1:]
    if options.prior is None:
        return ImagePrior.natural(shape), "natural images in general, Gaussian (--prior fits one to public images)"
    listing = listed("--prior", options.prior)
    count = min(len(listing.paths), PRIOR_BYTES // (8 * shape.numel()))
    paths = spread_over(listing.paths, count)
    public = read(listing.folder, paths, Form(options.size, options.channels))
    if public.shape[1:] != shape:
        raise Refused(
            f"expected public images of {shown(shape)} like those that are audited, got {shown(public.shape[1:])}: "
            "--size and --channels turn both into one kind"
        )
    known = {image.numpy().tobytes() for image in public}
    for path, image in zip(batch.paths, batch.images.cpu(), strict=True):
        if image.numpy().tobytes() in known:
            raise Refused(f"expected public images that are not audited (--prior), got {path} among them")
    try:
        prior = ImagePrior.fit(public)
    except ValueError as error:
        raise Refused(f"--prior: {one_line(error)}") from error
    return prior, f"Gaussian, fitted to {_of_them(count, len(listing.paths))} in {options.prior}"


def _audited(
    options: argparse.Namespace,
    chosen: dict[str, Any],
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    prior: ImagePrior,
) -> Audit:
    try:
        defense = TIP(model, **chosen, buffers="send" if options.lr is None else "withhold")
        with extras.progress("audit") as progress:
            return audited(
                model, loss, batch.images, batch.labels, defense, prior=prior, per_message=options.per_message,
                lr=options.lr, steps=options.steps, method=options.method, probes=options.probes, seed=options.seed,
                progress=progress,
            )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise Refused(one_line(error)) from error
    except (Exception, SystemExit) as error:  # of a model or loss that torch.func or this batch does not suit
        raise Refused(f"the audit has raised {raised_by_user(error)}") from error


def _notes(
    options: argparse.Namespace, chosen: dict[str, Any], listing: Listing, model: nn.Module, images: torch.Tensor
) -> list[str]:
    """What a user might not have meant."""
    notes = []
    if listing.others:
        notes.append(f"{listing.others} files in {listing.folder} are neither PNG nor JPEG, and are left out")
    still = sum(not module.training for module in model.modules())
    if still and not options.eval:
        notes.append(f"{still} of the model's modules are in evaluation mode, as the factory returns them")
    if options.lr is not None and changed_by_forward(model, images[: options.per_message]):
        notes.append(
            "an update also has running statistics, which tell of the images and are not counted here: "
            "TIP(buffers='withhold') sends none"
        )
    if chosen["max_grad_norm"] is None:
        notes.append("messages are not clipped, so std and floor are in their own units, and no epsilon can be given")
    if chosen.get("floor_std") == 0:
        notes.append(
            "without a floor most numbers are sent as they are, and ceilings say that all is seen, not how well"
        )
    return notes


def _of_them(count: int, have: int) -> str:
    return f"{have} images" if count == have else f"{count} of {have} images, evenly over the sorted ones,"


def _turned(options: argparse.Namespace) -> str:
    """What has been done to the images."""
    scaled = "" if options.size is None else f", scaled to cover {shown(options.size)} and cropped"
    colors = {None: "", 1: ", turned into gray", 3: ", turned into colors"}
    return scaled + colors[options.channels]


def _positive(text: str) -> int:
    value = _integer(text)
    if value is None or value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def _seed(text: str) -> int:
    value = _integer(text)
    if value is None or not -(2**63) <= value < 2**64:  # what torch takes
        raise argparse.ArgumentTypeError(f"expected an integer in [-2**63, 2**64), got {text}")
    return value


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _size(text: str) -> tuple[int, int]:
    height, by, width = text.partition("x")
    sides = [side for side in (_integer(height), _integer(width if by else height)) if side is not None and side > 0]
    if len(sides) < 2:
        raise argparse.ArgumentTypeError(f"expected a size like 32 or 32x48, got {text}")
    return sides[0], sides[1]
