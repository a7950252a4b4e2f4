"""Has a backend's ops run elsewhere."""

from collections.abc import Callable
from typing import Any

import pytest

from tip_kernels._op import dispatch

Op = Callable[..., Any]


def use(name: str, op: Callable[[str], Op], patch: pytest.MonkeyPatch) -> None:
    """The ops of the backend of this name come from ``op``, which takes theirs."""
    plain = dispatch._op

    def find(pattern: str, wanted: str | None, device: object) -> Op:
        return op(pattern.format("")) if wanted == name else plain(pattern, wanted, device)

    patch.setattr(dispatch, "_op", find)
