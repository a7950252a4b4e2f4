"""Packages that commands need and the library does not: the extra ``cli``, and what ``accounting`` brings."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .refusal import Refused


def require(module: str, package: str, purpose: str, extra: str = "cli") -> None:
    """Refuses to go on without a package.

    Args:
        module: the name by which it is imported.
        package: the name by which it is installed.
        purpose: what needs it.
        extra: of ours that has it.
    """
    if importlib.util.find_spec(module) is None:
        raise Refused(
            f"{purpose} needs {package}, which is not installed: pip install {package}, or tip_kernels with the extra "
            f"[{extra}]"
        )


@contextmanager
def progress(description: str) -> Iterator[Callable[[float], None] | None]:
    """A bar on stderr if that is a terminal: gives a function to be told which share is done; None without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}"
    with tqdm(total=1.0, desc=description, bar_format=layout, disable=None, leave=False) as bar:
        yield lambda share: bar.update(share - bar.n) and None
