"""Schemas and fake implementations of every op: the one contract all backends implement.

They live in Python so that the ops exist, ``opcheck`` passes and ``torch.compile(fullgraph=True)`` works
with no compiled library present. Backends only register kernels:

* ``perturb_`` and ``channel_saliency`` are what users call. Compiled libraries register them for their
  device's dispatch key; without one, ``_dispatch`` sends the call to the fastest backend that can run.
* ``words_`` fills an int32 tensor with consecutive words of one noise stream, bit for bit, and leaves the state as
  it is; it exists for tests and for auditing the noise.
* ``perturb_<name>_``, ``channel_saliency_<name>`` and ``words_<name>_`` name one of the ``PYTHON_BACKENDS``, for an
  explicit ``backend=`` argument.

What users get wrong is explained in ``_arguments.py``. The ops themselves refuse, with a RuntimeError and before
anything has changed, what would be unsafe (``csrc/op/check_arguments.h``, ``backends/_checks.py``); they trust the
values of ``bases`` and of what lies on a GPU. ``docs/design.md`` defines the result.

``perturb_`` takes, for T tensors on one device:

===============  =====================================================================================
``grads``        T tensors [C, M, *kernel_size] (K = prod(kernel_size) taps) or of fewer dimensions,
                 strided, mutated; float32, float64, bfloat16 or float16
``scores``       T contiguous float32 tensors [all channels], read only where 0 < ``selected[i]`` < all channels
``selected``     T numbers of selected channels, out of all channels
``tensor_ids``   T places of the tensors in the model: part of the noise address, and index of ``std``
``basis_ids``    T indices into ``bases``; -1 for a tensor without a high band
``bases``        float64 [K, K] orthonormal bases, masked columns first (``spectrum.real_basis``)
``high_dims``    number d of masked columns of each basis
``std``          float32 [> max(tensor_ids)], noise of one coefficient of the high band
``floor_std``    the same or None; its presence, not its value, sets how many words are drawn, and where it is
                 above 0 the results are multiples of a step that follows from it and ``std``
``grad_scale``   float32 scalar tensor or None
``state``        int64 [5]: 32 bytes of key, then the step, advanced by the op
``keep``         what is left of the high band before noise: 1 adds noise, 0 replaces
``rounds``       the generator: 8, 12 or 20 (ChaCha), 10 (Philox4x32-10)
``shards``       None, or 3 T integers: first channel, first kernel, kernels per channel of the whole
===============  =====================================================================================
"""

from collections.abc import Sequence

import torch

LIBRARY = torch.library.Library("tip_kernels", "DEF")

_PERTURB = (
    "(Tensor(a!)[] grads, Tensor[] scores, int[] selected, int[] tensor_ids, int[] basis_ids, "
    "Tensor[] bases, int[] high_dims, Tensor std, Tensor? floor_std, Tensor? grad_scale, "
    "Tensor(b!) state, float keep, int rounds, int[]? shards) -> ()"
)
_SALIENCY = "(Tensor activation_grad) -> Tensor"
_WORDS = "(Tensor(a!) out, Tensor state, int tensor_id, int first_position, int rounds) -> ()"

PYTHON_BACKENDS = ("triton", "reference")


def _fake_in_place(*args: object) -> None:
    """Nothing is computed, so a call that mixes devices must not end here, as one of a meta tensor would."""
    lists = [arg if isinstance(arg, Sequence) else [arg] for arg in args]
    devices = {item.device for items in lists for item in items if isinstance(item, torch.Tensor)}
    if len(devices) > 1:
        raise RuntimeError(f"expected all tensors on one device, got {', '.join(sorted(map(str, devices)))}")


def _fake_channel_saliency(activation_grad: torch.Tensor) -> torch.Tensor:
    if activation_grad.dim() < 2:
        raise RuntimeError(f"expected activation_grad of at least 2 dimensions, got {activation_grad.dim()}")
    return activation_grad.new_empty(activation_grad.shape[1], dtype=torch.float32)


def _define(name: str, schema: str, fake) -> None:
    LIBRARY.define(name + schema)
    torch.library.register_fake(f"tip_kernels::{name}", fake, lib=LIBRARY)


_define("perturb_", _PERTURB, _fake_in_place)
_define("channel_saliency", _SALIENCY, _fake_channel_saliency)
_define("words_", _WORDS, _fake_in_place)
LIBRARY.define("cpu_variant() -> str")  # the instruction set of the compiled CPU kernels
for _backend in PYTHON_BACKENDS:
    _define(f"perturb_{_backend}_", _PERTURB, _fake_in_place)
    _define(f"channel_saliency_{_backend}", _SALIENCY, _fake_channel_saliency)
    _define(f"words_{_backend}_", _WORDS, _fake_in_place)
