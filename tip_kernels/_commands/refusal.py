"""How commands refuse bad input: by one line, whoever found it."""

import pathlib
import traceback


class Refused(Exception):  # noqa: N818
    """Bad input, in words for who typed it."""


def one_line(error: object) -> str:
    """The message of an error or warning without its line breaks."""
    return " ".join(str(error).split())


def raised_by_user(error: BaseException) -> str:
    """What code that a user gave has raised, and in which line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({pathlib.Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"
