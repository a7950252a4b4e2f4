"""Triton's own way of compiling, loading and launching, with a driver that stands in for that of a GPU and takes notes.

Triton's interpreter is on in this process, so a second one does that; it runs this file as a script.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from without_interpreter import run_script

from tip_kernels._op.schemas import PerturbArguments
from tip_kernels.backends.triton import launch, resident

pytest.importorskip("triton")


class Driver:
    """Of a GPU that is not here: nothing that it launches runs."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.room = 10**6
        """for so many kernels"""
        self.utils = self

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 2**16}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, ...]:
        if not self.room:
            raise RuntimeError("no room on purpose")
        self.room -= 1
        self.notes.append("load")
        return 1, 1, 32, 0, 1024

    def unload_module(self, module: int) -> None: ...

    def launcher_cls(self, src: Any, metadata: Any) -> Callable[..., None]:
        def launched(grid0: int, grid1: int, grid2: int, *rest: Any) -> None:
            self.notes.append(f"launch {grid0} {grid1} {grid2}")

        return launched


def call(state: torch.Tensor, dtypes: list[torch.dtype]) -> None:
    """Scales gradients of 2 * 512 elements each: the least that there is to compile."""
    grads = [torch.zeros(1024, dtype=dtype) for dtype in dtypes]
    absent = [torch.zeros(0)] * len(grads)
    ids, zeros = list(range(len(grads))), [0] * len(grads)
    std, scale = torch.ones(len(grads)), torch.tensor(0.5)
    bases = [-1] * len(grads)
    launch.perturb_(
        PerturbArguments(grads, absent, zeros, ids, bases, [], [], std, None, scale, state, 1.0, 12, None, [], None)
    )


def notes_of_calls() -> dict[str, Any]:
    """What the driver noted during calls with two dtypes: one without room for the second kernel, then two with it."""
    import triton

    driver = Driver()
    triton.runtime.driver.set_active(driver)
    launch.can_be_interrupted = lambda device: False
    resident.lanes_of_program = lambda device: 32
    state = torch.zeros(6, dtype=torch.int64)
    dtypes = [torch.float32, torch.bfloat16]
    found: dict[str, Any] = {}
    driver.room = 1
    try:
        call(state, dtypes)
    except RuntimeError as error:
        found["error"] = str(error)
    found["without room"], driver.notes, driver.room = driver.notes, [], 10
    call(state, dtypes)
    found["first"], driver.notes = driver.notes, []
    call(state, dtypes)
    found["second"] = driver.notes
    return found


def test_kernels_are_loaded_before_the_first_launch(tmp_path):
    """Once each, and a kernel that does not fit ends the call before anything is launched."""
    notes = run_script(__file__, TRITON_CACHE_DIR=str(tmp_path))
    launches = ["launch 2 1 1"] * 2
    assert notes == {
        "error": "no room on purpose",
        "without room": ["load"],
        "first": ["load", *launches],
        "second": launches,
    }


if __name__ == "__main__":
    print(json.dumps(notes_of_calls()))
