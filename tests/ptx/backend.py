"""Backends whose kernels are executed as PTX, for tests that take the fixture ``backend``."""

import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import BackendUnderTest

from tip_kernels import _dispatch

Op = Callable[..., Any]


def backend_on_ptx(name: str, op: Callable[[str], Op], patch: pytest.MonkeyPatch) -> BackendUnderTest:
    """The backend of this name, whose ops come from ``op``; tests trim their sizes for it."""
    plain = _dispatch._op

    def find(pattern: str, wanted: str | None, device: object) -> Op:
        return op(pattern.format("")) if wanted == name else plain(pattern, wanted, device)

    patch.setattr(_dispatch, "_op", find)
    under_test = BackendUnderTest(name)
    under_test.interpreted = True
    return under_test


def backend_tests(*modules: types.ModuleType) -> Iterator[tuple[str, Callable[..., None]]]:
    """(name, function) of the tests in these modules that take a backend."""
    for module in modules:
        for name, function in vars(module).items():
            if name.startswith("test_") and "backend" in inspect.signature(function).parameters:
                yield name, function
