"""The Triton backend: NVIDIA GPUs (compute capability 8.0 on) and AMD GPUs, without a compiler at hand.

The op takes one launch for each dtype in the list, since the type of a pointer is part of a compiled kernel. All are
compiled and loaded before the first one, which advances the step, so that it is used even if a later one fails. What
a program does is in tables on the device (``table.py``), uploaded without waiting: those that depend on shapes once,
those with addresses whenever these change. Tables that a CUDA graph has captured are kept for good, because it may be
replayed at any time.

A call goes from ``launch.py`` through ``resident.py``, which finds or makes its facts (``facts.py``), its launches
(``plan.py``) and their tables on the device (``cache.py``), to ``kernels/perturb.py``.
Only ``kernels/`` is in Triton's language, and nothing imports it, or Triton, before the first use of an op. Kernels are
compiled then, with fixed settings: one warp a program, see ``kernels/__init__.py``. They also run in Triton's
interpreter, on CPU tensors, if TRITON_INTERPRET=1 is set before Triton is imported.
"""

from ..._op import schemas
from ..reference.clipping import clip_scale
from .availability import unavailable_reason
from .launch import perturb_
from .saliency import channel_saliency
from .words import words_

__all__ = ["unavailable_reason"]

schemas.register("triton", perturb_=perturb_, channel_saliency=channel_saliency, words_=words_, clip_scale=clip_scale)
