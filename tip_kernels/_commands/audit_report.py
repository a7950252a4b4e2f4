"""An audit for people, as text, and for programs, as JSON."""

import argparse
import dataclasses
import json
import math
import pathlib
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import __version__
from ..audit import Audit
from . import settings

ASSUMED = (
    "the ceiling is that of the best estimate on average over images of the prior, for an attacker who knows model, "
    "loss, labels, noise and selected channels, with the message linear around each image; it is no epsilon"
)


class Result(NamedTuple):
    """What there is to say.

    Attributes:
        found: of N images.
        options: of the command.
        chosen: the TIP's settings, by the names of its arguments.
        facts: what was audited, by name.
        notes: what a user might not have meant.
        paths: of the images.
        labels: int64 [N].
        picture: where it is, or None.
    """

    found: Audit
    options: argparse.Namespace
    chosen: dict[str, Any]
    facts: dict[str, str]
    notes: list[str]
    paths: list[pathlib.Path]
    labels: torch.Tensor
    picture: pathlib.Path | None


def as_text(result: Result) -> str:
    """Facts, a table of images, and that of leaks."""
    found, facts = result.found, _all_facts(result)
    width = max(5, *(len(str(path)) for path in result.paths))
    lines = [f"{name:8}  {text}" for name, text in facts.items()]
    lines += [f"note      {note}" for note in result.notes]
    lines += ["", f"{'image':{width}}  label  ceiling"]
    for path, label, psnr, error in zip(
        result.paths, result.labels.tolist(), found.psnr.tolist(), found.psnr_error.tolist(), strict=True
    ):
        about = f" +- {error:.2f}" if error else ""
        lines.append(f"{path!s:{width}}  {label:5}  {psnr:.1f}{about} dB")
    lines += ["", str(found)]
    if result.picture is not None:
        lines += ["", f"picture   {result.picture}"]
    return "\n".join(lines)


def as_json(result: Result) -> str:
    """The same in one object; numbers that are not finite become null."""
    found, options = result.found, result.options
    images = [
        {"path": path.as_posix(), "label": label, "psnr": psnr, "psnr_error": error}
        for path, label, psnr, error in zip(
            result.paths, result.labels.tolist(), found.psnr.tolist(), found.psnr_error.tolist(), strict=True
        )
    ]
    content = {
        "tip_kernels": __version__,
        "facts": _all_facts(result),
        "notes": result.notes,
        "settings": {
            **settings.as_objects(options, result.chosen),
            **{name: getattr(options, name) for name in ("per_message", "lr", "steps", "seed")},
        },
        "method": found.method,
        "images": images,
        "prior_psnr": found.prior_psnr,
        "exact_std": found.exact_std,
        "leak": [dataclasses.asdict(row) for row in found.leak],
        "picture": None if result.picture is None else str(result.picture),
    }
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def of_model(model: nn.Module) -> str:
    """Its class, size and mode."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    kept = f" ({frozen:,} frozen ones are not sent)" if frozen else ""
    mode = "training" if model.training else "evaluation"
    return f"{type(model).__name__} in {mode} mode, {trained:,} trained parameters{kept}"


def _all_facts(result: Result) -> dict[str, str]:
    found = result.found
    by = {
        "exact": "exact, by matrices",
        "iterative": f"iterative, {result.options.probes} probes; +- one standard error",
    }
    without = f"{found.prior_psnr:.1f} dB without a message"
    return {
        **result.facts,
        "prior": f"{result.facts['prior']}; {without}",
        "method": by[found.method],
        "assumes": ASSUMED,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
