"""Loops in which every message has a TIP of its own."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def old_objects_set_aside() -> Iterator[None]:
    """Takes what exists from the garbage collector's lists.

    A new TIP looks through these for a ``GradScaler``, which would take most of the time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
