"""Backends whose kernels are executed as PTX, for tests that take the fixture ``backend``."""

import inspect
import types
from collections.abc import Callable, Iterator

import pytest
from conftest import BackendUnderTest

from .dispatch import Op, use


def backend_on_ptx(name: str, op: Callable[[str], Op], patch: pytest.MonkeyPatch) -> BackendUnderTest:
    """The backend of this name, whose ops come from ``op``; tests trim their sizes for it."""
    use(name, op, patch)
    under_test = BackendUnderTest(name)
    under_test.interpreted = True
    return under_test


def backend_tests(*modules: types.ModuleType) -> Iterator[tuple[str, Callable[..., None]]]:
    """(name, function) of the tests in these modules that take a backend and compile nothing.

    torch.compile would trace what makes the launches.
    """
    for module in modules:
        for name, function in vars(module).items():
            is_test = name.startswith("test_") and not name.startswith("test_compiled")
            if is_test and "backend" in inspect.signature(function).parameters:
                yield name, function
