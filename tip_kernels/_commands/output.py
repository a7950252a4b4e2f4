"""Where commands write: text to standard output, pictures to files."""

import contextlib
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from .refusal import Refused

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def say(text: str) -> None:
    """Prints, with escapes for what the encoding of standard output lacks."""
    print(printable(text, sys.stdout.encoding))


def printable(text: str, encoding: str | None = "utf-8") -> str:
    """With escapes for what an encoding lacks, as the bytes of names that are no text."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def reserved_stdout(json: bool) -> contextlib.AbstractContextManager[object]:
    """Standard output for the JSON alone: what the user's code prints meanwhile goes to standard error."""
    return contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext()


def check_picture(path: pathlib.Path, option: str) -> None:
    """Raises Refused unless a picture can be written there."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise Refused(f"expected {option} to be a file that ends in .png, got {path}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise Refused(f"expected {option} in a folder that can be written, got {path}")


def save(figure: "Figure", path: pathlib.Path) -> None:
    """As PNG.

    Raises:
        Refused: the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise Refused(f"expected to write the picture {path}: {error}") from error
