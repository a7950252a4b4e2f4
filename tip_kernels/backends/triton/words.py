"""``words_``: the random words of one stream."""

import torch

from .. import _checks
from .address import GROUP
from .device import lanes_of_program, make_current
from .variant import OPTIONS


@torch.inference_mode()  # as copy_ writes to an inference tensor and raises then
def words_(out: torch.Tensor, state: torch.Tensor, tensor_id: int, first_position: int, generator: int) -> None:
    """Fills ``out`` (int32) with consecutive words of one stream; the state is not advanced."""
    _checks.check_words(out, state, tensor_id, first_position, generator)
    from .kernels import write_words

    flat = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    with make_current(out.device):
        lanes = lanes_of_program(out.device)
        groups = out.numel() // GROUP + 2  # the first and the last may be cut
        write_words[(-(-groups // lanes),)](
            flat, state, tensor_id, first_position, out.numel(), GENERATOR=generator, LANES=lanes, **OPTIONS
        )
    if flat is not out:
        out.copy_(flat)
