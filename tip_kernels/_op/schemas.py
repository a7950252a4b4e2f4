"""Schemas and fake implementations of every op: the one contract all backends implement.

They live in Python so that the ops exist, ``opcheck`` passes and ``torch.compile(fullgraph=True)`` works
with no compiled library present. Backends only register kernels:

* ``perturb_`` and ``channel_saliency`` are what users call. Compiled libraries register them for their
  device's dispatch key; without one, ``dispatch.py`` sends the call to the fastest backend that can run.
* ``words_`` fills an int32 tensor with consecutive words of one noise stream, bit for bit, and leaves the state as
  it is; it exists for tests and for auditing the noise.
* ``clip_scale`` is the ``grad_scale`` that clips gradients to a norm, in which a tensor may count by a form
  (``norm_weights.py``). Of the state it uses the counter alone, which is 0 again when it ends.
* ``perturb_in_graph_`` is ``perturb_`` as compiled graphs call it (``graph_op.py``).
* ``perturb_<name>_`` and the others with a name are for an explicit ``backend=`` argument, one for each of the
  ``PYTHON_BACKENDS``; :func:`register` gives them their kernels.

What users get wrong is explained in ``plan.py`` and ``call.py``. The ops themselves refuse, with a
RuntimeError and before anything has changed, what would be unsafe (``csrc/op/check_arguments.h``,
``backends/_checks.py``); they trust the values of ``bases``, ``amplitudes`` and ``forms``, and of what lies on a GPU.
``docs/design.md`` defines the result.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

LIBRARY = torch.library.Library("tip_kernels", "DEF")

PYTHON_BACKENDS = ("triton", "reference")


class PerturbArguments(NamedTuple):
    """The arguments of ``perturb_`` for T tensors on one device, in the order of its schema, which is made from these.

    A new argument goes in here and into ``csrc/op/arguments.h``, at the same place of the order.
    """

    grads: list[torch.Tensor]
    """T tensors [C, M, *kernel_size] (K = prod(kernel_size) taps) or of fewer dimensions, strided, mutated; float32,
    float64, bfloat16 or float16"""
    scores: list[torch.Tensor]
    """T contiguous float32 tensors [all channels], read only where 0 < ``selected[i]`` < all channels"""
    selected: list[int]
    """T numbers of selected channels, out of all channels"""
    tensor_ids: list[int]
    """T indices of the tensors in the model: part of the noise address, and index of ``std``"""
    basis_ids: list[int]
    """T indices into ``bases``; -1 for a tensor without a high band"""
    bases: list[torch.Tensor]
    """float64 [K, K] orthonormal bases, masked columns first (``spectrum.real_basis``)"""
    high_dims: list[int]
    """number d of masked columns of each basis"""
    std: torch.Tensor
    """float32 [> max(tensor_ids)], noise of one coefficient of the high band"""
    floor_std: torch.Tensor | None
    """the same or None; its presence, not its value, sets how many words are drawn, and where it is above 0 the results
    are multiples of a step that follows from it and ``std``"""
    grad_scale: torch.Tensor | None
    """float32 scalar tensor or None"""
    state: torch.Tensor
    """int64 [6]: 32 bytes of key, the step, advanced by the op, and 0, with which blocks on a GPU count themselves"""
    keep: float
    """what is left of the high band before noise: 1 adds noise, 0 replaces"""
    generator: int
    """8, 12 or 20 (ChaCha of so many rounds), 10 (Philox4x32-10)"""
    shards: list[int] | None
    """None, or 3 T integers: first channel, first kernel, kernels per channel of the whole"""
    amplitudes: list[torch.Tensor]
    """float32 [2, K], what multiplies the noise of each coefficient, in the order of the basis's columns: of selected
    channels, of others"""
    amplitude_ids: list[int] | None
    """None, or T indices into ``amplitudes``; -1 for a tensor without, as all without a high band are"""

    def __repr__(self) -> str:
        return _without_state(self)


def _without_state(arguments: Any) -> str:
    """What is shown of an op's arguments: not the state, whose key must be in no message."""
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments._asdict().items() if name != "state")
    return f"{type(arguments).__name__}({shown}, state=<hidden>)"


class ClipArguments(NamedTuple):
    """The arguments of ``clip_scale`` for T tensors on one device, in the order of its schema."""

    grads: list[torch.Tensor]
    """T tensors as of ``perturb_``, not mutated"""
    grad_scale: torch.Tensor | None
    """float32 scalar tensor or None"""
    state: torch.Tensor
    """as of ``perturb_``"""
    max_norm: float
    """above 0"""
    forms: list[torch.Tensor]
    """float64 [K, K]: a kernel g of K taps adds |R g|^2 to the square of the norm; with K = 1 every element is one"""
    form_ids: list[int] | None
    """None, or T indices into ``forms``; -1 for a tensor that counts as it is"""

    def __repr__(self) -> str:
        return _without_state(self)


class Clip(NamedTuple):
    """A ``clip_scale`` op, and what it is told besides what ``perturb_`` is."""

    op: Callable[..., torch.Tensor]
    max_norm: float
    forms: list[torch.Tensor]
    form_ids: list[int] | None


def clip_and_perturb(perturb: Callable[..., None], arguments: PerturbArguments, clip: Clip | None) -> None:
    """Calls an op that perturbs; with ``clip``, the scale that clips the gradients takes the place of theirs."""
    if clip is not None:
        scale = clip.op(
            arguments.grads, arguments.grad_scale, arguments.state, clip.max_norm, clip.forms, clip.form_ids
        )
        arguments = arguments._replace(grad_scale=scale)
    perturb(*arguments)


_SCHEMA_TYPES: dict[Any, str] = {
    torch.Tensor: "Tensor",
    torch.Tensor | None: "Tensor?",
    list[torch.Tensor]: "Tensor[]",
    list[int]: "int[]",
    list[int] | None: "int[]?",
    float: "float",
    int: "int",
}
_MUTATED = {"grads": "Tensor(a!)[]", "state": "Tensor(b!)"}


def _declared(arguments: type, mutated: dict[str, str]) -> str:
    """The arguments of a schema."""
    kinds = inspect.get_annotations(arguments)
    return ", ".join(f"{mutated.get(name) or _SCHEMA_TYPES[kind]} {name}" for name, kind in kinds.items())


PERTURB_SCHEMA = f"({_declared(PerturbArguments, _MUTATED)}) -> ()"
CLIP_SCHEMA = f"({_declared(ClipArguments, {})}) -> Tensor"
_SALIENCY = "(Tensor activation_grad) -> Tensor"
_WORDS = "(Tensor(a!) out, Tensor state, int tensor_id, int first_position, int generator) -> ()"


def check_one_device(*args: object) -> None:
    """The fake of ops in place. Nothing is computed, so a call that mixes devices would end here without a word."""
    lists = [arg if isinstance(arg, Sequence) else [arg] for arg in args]
    devices = {item.device for items in lists for item in items if isinstance(item, torch.Tensor)}
    if len(devices) > 1:
        raise RuntimeError(f"expected all tensors on one device, got {', '.join(sorted(map(str, devices)))}")


def _fake_channel_saliency(activation_grad: torch.Tensor) -> torch.Tensor:
    if activation_grad.dim() < 2:
        raise RuntimeError(f"expected activation_grad of at least 2 dimensions, got {activation_grad.dim()}")
    return activation_grad.new_empty(activation_grad.shape[1], dtype=torch.float32)


def _fake_clip_scale(*args: Any) -> torch.Tensor:
    check_one_device(*args)
    state: torch.Tensor = ClipArguments(*args).state
    return state.new_empty((), dtype=torch.float32)


def define(name: str, schema: str, fake: Callable[..., object]) -> None:
    """Makes the op ``name``, as yet without kernels."""
    LIBRARY.define(name + schema)
    torch.library.register_fake(f"tip_kernels::{name}", fake, lib=LIBRARY)


define("perturb_", PERTURB_SCHEMA, check_one_device)
define("channel_saliency", _SALIENCY, _fake_channel_saliency)
define("words_", _WORDS, check_one_device)
define("clip_scale", CLIP_SCHEMA, _fake_clip_scale)
LIBRARY.define("cpu_variant() -> str")  # the instruction set of the compiled CPU kernels
LIBRARY.define("cuda_problem(int device) -> str")  # why the compiled CUDA kernels cannot run there, empty if they can
for _backend in PYTHON_BACKENDS:
    define(f"perturb_{_backend}_", PERTURB_SCHEMA, check_one_device)
    define(f"channel_saliency_{_backend}", _SALIENCY, _fake_channel_saliency)
    define(f"words_{_backend}_", _WORDS, check_one_device)
    define(f"clip_scale_{_backend}", CLIP_SCHEMA, _fake_clip_scale)


def register(
    backend: str,
    *,
    perturb_: Callable[[PerturbArguments], None],
    channel_saliency: Callable[[torch.Tensor], torch.Tensor],
    words_: Callable[[torch.Tensor, torch.Tensor, int, int, int], None],
    clip_scale: Callable[[ClipArguments], torch.Tensor],
) -> None:
    """Gives the ops of one of the ``PYTHON_BACKENDS`` their kernels, on every device."""

    def perturb_by_name(*arguments: Any) -> None:
        perturb_(PerturbArguments(*arguments))

    def clip_by_name(*arguments: Any) -> torch.Tensor:
        return clip_scale(ClipArguments(*arguments))

    for op, kernel in (
        (f"perturb_{backend}_", perturb_by_name),
        (f"channel_saliency_{backend}", channel_saliency),
        (f"words_{backend}_", words_),
        (f"clip_scale_{backend}", clip_by_name),
    ):
        LIBRARY.impl(op, kernel, "CompositeExplicitAutograd")
