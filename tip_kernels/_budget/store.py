"""Where a privacy budget keeps its counts: a file that survives the process, or memory."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from .._runtime.locks import ForkSafeLock
from .accountant import Counts, Kind
from .state import Target, counts_of, is_behind, to_state

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 60.0
"""Seconds for which a process waits for another that is counting a message."""

Change = Callable[[dict[Kind, int]], dict[Kind, int]]


class MemoryStore:
    """Counts of one process."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._lock = ForkSafeLock()
        self._owner = os.getpid()

    def read(self) -> dict[Kind, int]:
        """The counts now."""
        if os.getpid() != self._owner:
            raise RuntimeError(
                "expected a PrivacyBudget with a path in a forked process, got one in memory: parent and child would "
                "each spend all of it"
            )
        return dict(self._counts)

    def change(self, change: Change) -> None:
        """Has ``change`` make new counts of those there are; what it raises leaves them as they were."""
        with self._lock:
            self._counts = change(self.read())


class FileStore:
    """Counts in a file, which is whole at every moment: JSON with a checksum, replaced and never written to.

    Objects, threads and processes may share it. Each change locks ``path + ".lock"``, reads the file, writes
    ``path + ".new"``, has it put on the disk and renames it. The operating system opens the lock when a process ends.

    Args:
        path: the file; made with no messages if there is none.
        target: what the file must have.
        seen: counts that the file is known to have had; then it must be there.

    Raises:
        ValueError: the file is damaged, of another target or behind what was seen.
        OSError: no such folder, no permission, or another process has the lock for longer than ``PATIENCE``.
        RuntimeError: an operating system without ``fcntl``.
    """

    def __init__(self, path: str | os.PathLike[str], target: Target, seen: Counts | None = None) -> None:
        if fcntl is None:
            raise RuntimeError("expected an operating system with fcntl, got one without: a path needs its locks")
        self.path = os.path.realpath(path)
        self._target = target
        self.seen: Counts = seen or {}
        self._lock = ForkSafeLock()
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"expected a folder for the budget's file, got none: {folder}")
        with self._lock, _locked(self.path + ".lock"):
            if seen is None and not os.path.lexists(self.path):
                self._write({})
            self.seen = self._read()

    def read(self) -> dict[Kind, int]:
        """The counts now."""
        with self._lock:
            return self._read()

    def change(self, change: Change) -> None:
        """Has ``change`` make new counts of those there are; what it raises leaves them as they were."""
        with self._lock, _locked(self.path + ".lock"):
            counts = self._read()
            changed = change(dict(counts))
            if changed != counts:
                self._write(changed)
            self.seen = changed

    def _read(self) -> dict[Kind, int]:
        where = f"the budget's file {self.path}"
        try:
            with open(self.path, encoding="utf-8") as file:
                saved = json.load(file)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"expected {where} to be there still, got none: its counts are lost") from error
        except ValueError as error:
            raise ValueError(_damaged(where)) from error
        if not isinstance(saved, dict) or saved.pop("checksum", None) != _checksum(saved):
            raise ValueError(_damaged(where))
        counts = counts_of(saved, self._target, where)
        if is_behind(counts, self.seen):
            raise ValueError(f"expected {where} to have all messages counted before, got an older state")
        return counts

    def _write(self, counts: Counts) -> None:
        """Returns when the counts are on the disk under their name."""
        state = to_state(self._target, counts)
        text = json.dumps({**state, "checksum": _checksum(state)}, indent=1) + "\n"
        new = self.path + ".new"
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _checksum(state: dict[str, Any]) -> str:
    """Against accidents, and no signature."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _damaged(where: str) -> str:
    return (
        f"expected {where} to be whole, got a damaged one: bring back a copy that has every message sent, or start "
        "with another path and a target that is less by what has been spent"
    )


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Holds the lock of a file, alone among the threads and processes of this machine."""
    until = time.monotonic() + PATIENCE
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"expected {path} to be unlocked within {PATIENCE:g} s: another process holds it")
        time.sleep(0.001)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a fork has a copy
        os.close(descriptor)


def _try_lock(path: str) -> int | None:
    """The descriptor of the locked file, or None: it is locked, or was another file by the time it was locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
