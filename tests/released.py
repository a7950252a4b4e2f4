"""What a call with a noise floor releases: multiples of a step. For tests that look at values before that rounding."""

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch

import tip_kernels as tip
from tip_kernels.backends.reference import grid

TINY_FLOOR = 2.0**-117
"""A floor below the least one that has a grid, so that zeros come out as the normals themselves times this."""


def step_of(floor_std: float, std: float = 0.0) -> float:
    """The step of a tensor; 0 without a grid. ``std`` counts in a tensor with a high band only."""
    floor_std, std = torch.tensor([floor_std, std], dtype=torch.float32).tolist()
    if not floor_std > 0:
        return 0.0
    least = min(floor_std, std) if std > 0 else floor_std
    step = 2.0 ** (math.frexp(least)[1] - 1 - 10)
    return step if 2.0**-126 <= step <= 2.0**104 else 0.0


def least_amounts(floor_std: float, std: float, amplitudes: tip.Amplitudes, high_dim: int) -> tuple[float, float]:
    """``floor_std`` and ``std`` where amplitudes leave the least of them, in float32: arguments of :func:`step_of`."""
    of_floor, of_std = [*amplitudes.selected[high_dim:], *amplitudes.others], amplitudes.selected[:high_dim]
    amounts = torch.tensor([floor_std, std]) * torch.tensor([min(of_floor), min(of_std)])
    return tuple(amounts.tolist())


@contextlib.contextmanager
def unrounded() -> Iterator[None]:
    """The reference backend leaves its values as they were before they went to the grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "to_grid", lambda values, step, dtype: values)
        yield


def assert_on_grid(values: torch.Tensor, step: float) -> None:
    """Finite values are multiples of the step, and zeros are positive. Nothing without a step."""
    if not step:
        return
    values = values[values.isfinite()].double()
    assert torch.equal(values / step, (values / step).round())
    assert not values[values == 0].signbit().any()


def assert_same_release(a: torch.Tensor, b: torch.Tensor, before: torch.Tensor, step: float, tolerance: float) -> None:
    """Two results on the grid are the same but where what was rounded lies near the middle of two multiples."""
    apart = a != b
    assert ((a - b)[apart].abs() == step).all()
    assert ((a + b)[apart] / 2 - before[apart]).abs().le(tolerance).all()
