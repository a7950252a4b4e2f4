"""From ``module:name`` to what it names: a function that makes a model, or a loss."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .refusal import Refused, raised_by_user


def model_of(spec: str, seed: int) -> nn.Module:
    """What the factory returns that ``--model`` names, as it returns it; torch's random state is seeded before.

    Raises:
        Refused: there is no such factory, it needs arguments, raises, or returns something else.
    """
    factory = named("--model", spec)
    if isinstance(factory, nn.Module):
        raise Refused(f"expected --model to name a function that returns a model, got a model itself ({spec})")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise Refused(f"expected --model to name a function without arguments, got {spec}: {error}") from error
    except ValueError:
        pass  # a builtin that does not tell what it needs
    torch.manual_seed(seed)
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise Refused(f"{spec} has raised {raised_by_user(error)}") from error
    if not isinstance(model, nn.Module):
        raise Refused(f"expected {spec} to return a torch.nn.Module, got {type(model).__name__}")
    return model


def named(option: str, spec: str) -> Callable[..., Any]:
    """The callable that ``spec`` names, imported with the current folder on the path.

    Raises:
        Refused: there is none, or the import fails.
    """
    module_name, colon, name = spec.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise Refused(f"expected {option} as module:name, like nets:small for small in nets.py, got {spec!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise Refused(f"import of {module_name} has raised {raised_by_user(error)}") from error
        raise Refused(
            f"expected {option} to name a module of the current folder or an installed one, got {module_name!r}"
        ) from error
    except (Exception, SystemExit) as error:
        raise Refused(f"import of {module_name} has raised {raised_by_user(error)}") from error
    try:
        found = getattr(module, name)
    except AttributeError:
        raise Refused(f"expected {option} to name something in {module_name}, which has no {name!r}") from None
    if not callable(found):
        raise Refused(f"expected {option} to name a function, got {type(found).__name__} ({spec})")
    return found  # type: ignore[no-any-return]
