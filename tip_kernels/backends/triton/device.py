"""What the host asks of a device before it launches there."""

import contextlib

import torch

_INTERPRETER_LANES = 4096  # the interpreter takes its time for an operation, however wide


def make_current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes the device current: Triton launches on the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def lanes_of_program(device: torch.device) -> int:
    """Lanes of a program: one warp."""
    if device.type == "cpu":
        return _INTERPRETER_LANES
    import triton

    return int(triton.runtime.driver.active.get_current_target().warp_size)


def can_be_interrupted(device: torch.device) -> bool:
    """Whether a launch can end half done, as the interpreter's can: it would not have advanced the step then."""
    return device.type == "cpu"
