"""The Triton backend: NVIDIA GPUs (compute capability 8.0 on) and AMD GPUs, without a compiler at hand.

The op takes one launch for each dtype in the list, since the type of a pointer is part of a compiled kernel; the
first launch advances the step, so that it is used even if a later one fails. What a program does is in tables on the
device (``triton_tables.py``), uploaded without waiting: those that depend on shapes once, those with addresses whenever
these change. Tables that a CUDA graph has captured are kept for good, because it may be replayed at any time.

Kernels are compiled at their first use, with fixed settings: one warp a program, see ``triton_kernels.py``. They
also run in Triton's interpreter, on CPU tensors, if TRITON_INTERPRET=1 is set before Triton is imported.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import _ops
from .._locks import ForkSafeLock
from .._ops import PerturbArguments
from . import _checks, triton_tables

_OLDEST_TRITON = (3, 6)
_INTERPRETER_LANES = 4096  # the interpreter takes its time for an operation, however wide

OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
"""Compiler options of ``perturb`` and ``words``. No loop is worth pipelining through shared memory."""

SALIENCY_OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


def unavailable_reason(device: torch.device) -> str | None:
    """None if the Triton kernels can run on ``device``, else the reason."""
    interpreting = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
    if device.type == "cpu" and not interpreting:
        return "it runs on cpu tensors only in Triton's interpreter, with TRITON_INTERPRET=1"
    if device.type not in ("cpu", "cuda"):
        return f"it runs on CUDA and ROCm devices, not on {device.type}"
    if device.type == "cuda" and interpreting:
        return "TRITON_INTERPRET is set, and Triton's interpreter is for cpu tensors"
    return _import_problem() or (_gpu_problem(device) if device.type == "cuda" else None)


@functools.cache
def _import_problem() -> str | None:
    try:
        import triton
    except ImportError as error:
        return f"Triton does not import: {error}"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < _OLDEST_TRITON:
        return f"it needs Triton {'.'.join(map(str, _OLDEST_TRITON))} or newer, found {triton.__version__}"
    return None


def _gpu_problem(device: torch.device) -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"it needs a GPU of compute capability 8.0 or newer, found {torch.cuda.get_device_name(device)}"
    return None


@functools.cache
def _kernels() -> Any:
    """The module with the kernels; only now is Triton imported."""
    from . import triton_kernels

    return triton_kernels


class Variant(NamedTuple):
    """What a kernel ``perturb`` is compiled for."""

    dtype: torch.dtype
    generator: int
    floor: bool
    scale: bool
    keep: bool  # whether some of the high band is taken away
    quads: triton_tables.Quads
    quad_memories: tuple[int, ...]  # how the path QUADS accesses memory
    group: int  # of the path KERNELS
    elements: bool
    lanes: int

    @property
    def real(self) -> torch.dtype:
        """The type of the arithmetic."""
        return torch.float64 if self.dtype is torch.float64 else torch.float32

    def constants(self) -> dict[str, Any]:
        """The compile-time arguments of the kernel."""
        import triton.language as tl

        return {
            "QUAD_TAPS": self.quads.taps,
            "QUAD_HIGH": self.quads.high_dim,
            "QUAD_MEMORIES": sum(self.quad_memories),
            "GROUP": self.group,
            "ELEMENTS": self.elements,
            "ROUNDS": self.generator,
            "FLOOR": self.floor,
            "SCALE": self.scale,
            "KEEP": self.keep,
            "DTYPE": getattr(tl, str(self.dtype).removeprefix("torch.")),
            "INTERPRETED": False,
            "LANES": self.lanes,
        }

    def signature(self) -> dict[str, str]:
        """Triton's types of the other arguments, which the launcher passes in this order."""
        real = "*fp64" if self.real is torch.float64 else "*fp32"
        return {
            "header": "*i64",
            "rows": "*i64",
            "programs": "*i32",
            "offsets": "*i64",
            "bases": real,
            "stds": "*fp32",
            "floor_stds": "*fp32",
            "grad_scale": "*fp32",
            "state": "*i64",
            "advance": "i32",
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Launch:
    """The part of one launch that depends on shapes only. ``members`` are places in the op's list of gradients."""

    tables: triton_tables.Tables
    members: tuple[int, ...]
    settings: Variant  # whose quad_memories depend on addresses and are still missing

    def widened(self) -> list[int]:
        """Rows of 16-bit numbers that take several passes, and so need memory for what is not rounded yet."""
        if self.settings.dtype is self.settings.real:
            return []
        rows = [triton_tables.Row(*row) for row in self.tables.rows.tolist()]
        words = ((row.path, row.taps if self.settings.floor else row.high_dim) for row in rows)
        return [i for i, (path, used) in enumerate(words) if path == triton_tables.KERNELS and used > self.tables.group]

    def memories(self, addresses: Sequence[int]) -> list[int]:
        """How each row's memory is accessed, given the addresses of the gradients."""
        paths = self.tables.rows[:, triton_tables.Row._fields.index("path")].tolist()
        memories = list(self.tables.memories)
        for i, address in enumerate(addresses):
            if paths[i] == triton_tables.QUADS and address % 16:
                memories[i] = triton_tables.STRIDED
        return memories

    def variant(self, memories: Sequence[int]) -> Variant:
        paths = self.tables.rows[:, triton_tables.Row._fields.index("path")].tolist()
        quads = {memory for memory, path in zip(memories, paths, strict=True) if path == triton_tables.QUADS}
        return self.settings._replace(quad_memories=tuple(sorted(quads)))


class Call(NamedTuple):
    """What the launches of a call depend on: hashable, no addresses and no tensors."""

    grads: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]
    scores: tuple[tuple[torch.Size, tuple[int, ...]], ...]
    selected: tuple[int, ...]
    tensor_ids: tuple[int, ...]
    basis_ids: tuple[int, ...]
    basis_taps: tuple[int, ...]
    high_dims: tuple[int, ...]
    floor: bool
    scale: bool
    keep: bool
    generator: int
    shards: tuple[int, ...] | None


def plan(call: Call, lanes: int) -> list[Launch]:
    """The launches of a call, at least one, with ``lanes`` lanes a program."""
    by_dtype: dict[torch.dtype, list[int]] = {}
    for i, (_, _, dtype) in enumerate(call.grads):
        by_dtype.setdefault(dtype, []).append(i)
    return [_plan_launch(call, dtype, members, lanes) for dtype, members in (by_dtype or {torch.float32: []}).items()]


def _plan_launch(call: Call, dtype: torch.dtype, members: list[int], lanes: int) -> Launch:
    tensors = [_table_entry(call, i) for i in members]
    wide = dtype is torch.float64
    tables = triton_tables.build(tensors, call.basis_taps, call.floor, call.scale, wide, lanes)
    settings = Variant(
        dtype=dtype,
        generator=call.generator,
        floor=call.floor,
        scale=call.scale,
        keep=call.keep,
        quads=tables.quads,
        quad_memories=(),
        group=tables.group,
        elements=tables.elements,
        lanes=lanes,
    )
    return Launch(tables, tuple(members), settings)


def _table_entry(call: Call, i: int) -> triton_tables.Tensor:
    shape, strides, _ = call.grads[i]
    score_shape, score_strides = call.scores[i]
    basis = call.basis_ids[i]
    return triton_tables.Tensor(
        shape=tuple(shape),
        strides=strides,
        tensor_id=call.tensor_ids[i],
        basis=basis,
        high_dim=call.high_dims[basis] if basis >= 0 else 0,
        selected=call.selected[i],
        score_count=math.prod(score_shape),
        score_stride=score_strides[0] if score_strides else 1,
        shard=None if call.shards is None else call.shards[3 * i : 3 * i + 3],  # type: ignore[arg-type]
    )


class _Made(NamedTuple):
    """A thing with memory on a device: ready on ``stream`` at once, and elsewhere after ``ready``."""

    value: Any
    memory: list[torch.Tensor]
    stream: torch.cuda.Stream | None
    ready: torch.cuda.Event | None


class _Cache:
    """The least recently used things on devices, for all streams.

    What a CUDA graph captures is kept for good, since it may be replayed at any time. What is made during a capture
    is the graph's own, since its content exists only after a replay. A capture begins when the device is idle, so it
    need not wait for what was made before.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[Hashable, _Made] = {}
        self._captured: list[_Made] = []

    def get(self, key: Hashable, device: torch.device, make: Callable[[], tuple[Any, list[torch.Tensor]]]) -> Any:
        """The value that ``make`` returned, with its memory, when it was first asked for this key."""
        made = self._values.pop(key, None)
        if _capturing(device):
            if made is None:
                made = _Made(*make(), None, None)
            else:
                self._values[key] = made
            self._captured.append(made)
            return made.value
        if made is None:
            made = _make(device, make)
            if len(self._values) == self._size:
                del self._values[next(iter(self._values))]
        elif made.stream is not None and made.stream != torch.cuda.current_stream(device):
            torch.cuda.current_stream(device).wait_event(made.ready)
            for tensor in made.memory:
                if tensor.is_cuda:
                    tensor.record_stream(torch.cuda.current_stream(device))
        self._values[key] = made
        return made.value


def _make(device: torch.device, make: Callable[[], tuple[Any, list[torch.Tensor]]]) -> _Made:
    value, memory = make()
    if device.type != "cuda":
        return _Made(value, memory, None, None)
    stream = torch.cuda.current_stream(device)
    return _Made(value, memory, stream, stream.record_event())


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


_TABLES = _Cache(64)
_HEADERS = _Cache(64)
_BASES = _Cache(64)
_SPARE: dict[int, torch.Tensor] = {}
"""Pinned memory by size, for captures, during which the driver may refuse to give any."""


def _upload(array: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(copy on the device, the host memory that is copied from) without a wait. A graph copies at each replay."""
    source = torch.from_numpy(array)
    if device.type != "cuda":
        return source, source
    pinned = _SPARE.pop(array.nbytes, None) if _capturing(device) else None
    if pinned is None:
        pinned = torch.empty(array.nbytes, dtype=torch.uint8, pin_memory=True)
    if not _capturing(device) and array.nbytes not in _SPARE:
        _SPARE[array.nbytes] = torch.empty(array.nbytes, dtype=torch.uint8, pin_memory=True)
    pinned = pinned.view(source.dtype).view(source.shape)
    pinned.copy_(source)
    return pinned.to(device, non_blocking=True), pinned


@dataclasses.dataclass(frozen=True, eq=False)
class _Resident:
    """The tables of a launch on the device."""

    launch: Launch
    rows: torch.Tensor
    programs: torch.Tensor
    offsets: torch.Tensor


class _Header(NamedTuple):
    """What of a launch depends on addresses."""

    variant: Variant
    on_device: torch.Tensor


def _make_residents(call: Call, device: torch.device) -> tuple[list[_Resident], list[torch.Tensor]]:
    residents, memory = [], []
    for launch in plan(call, _lanes(device)):
        tables = launch.tables
        pairs = [_upload(array, device) for array in (tables.rows, tables.programs, tables.offsets)]
        residents.append(_Resident(launch, *(on_device for on_device, _ in pairs)))
        memory += [tensor for pair in pairs for tensor in pair]
    return residents, memory


def _make_header(
    launch: Launch, grads: list[torch.Tensor], scores: list[torch.Tensor], keep: float, device: torch.device
) -> tuple[_Header, list[torch.Tensor]]:
    """See ``triton_kernels.perturb`` for the layout."""
    values = np.zeros(2 + 4 * len(launch.tables.rows), dtype=np.int64)
    values[1] = np.float64(keep).view(np.int64)
    entries = values[2:].reshape(-1, 4)
    addresses = [grad.data_ptr() for grad in grads]
    memories = launch.memories(addresses)
    entries[: len(grads), 0] = entries[: len(grads), 2] = addresses
    entries[: len(grads), 1] = [score.data_ptr() for score in scores]
    entries[:, 3] = memories
    wide = []
    for row in launch.widened():
        grad = grads[row]
        wide.append(torch.empty_strided(grad.shape, grad.stride(), dtype=launch.settings.real, device=device))
        entries[row, 2] = wide[-1].data_ptr()
    on_device, source = _upload(values, device)
    return _Header(launch.variant(memories), on_device), [on_device, source, *wide]


def _make_bases(
    bases: list[torch.Tensor], real: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """With the bases themselves: while they live, no others can have their addresses."""
    packed = triton_tables.pack_bases(bases, real, device)
    return packed, [packed, *bases]


_LAUNCHING = ForkSafeLock()
"""The launches of a call follow one another: the later ones count on the step that the first one took."""


def _can_be_interrupted(device: torch.device) -> bool:
    """Whether a launch can end half done, as the interpreter's can: it would not have advanced the step then."""
    return device.type == "cpu"


def perturb_(given: PerturbArguments) -> None:
    """See ``_ops.py`` for the arguments and docs/design.md for the result."""
    _checks.check_perturb(given)
    call = Call(
        grads=tuple([(grad.shape, grad.stride(), grad.dtype) for grad in given.grads]),
        scores=tuple([(score.shape, score.stride()) for score in given.scores]),
        selected=tuple(given.selected),
        tensor_ids=tuple(given.tensor_ids),
        basis_ids=tuple(given.basis_ids),
        basis_taps=tuple([len(basis) for basis in given.bases]),
        high_dims=tuple(given.high_dims),
        floor=given.floor_std is not None,
        scale=given.grad_scale is not None,
        keep=given.keep != 1.0,
        generator=given.generator,
        shards=None if given.shards is None else tuple(given.shards),
    )
    absent = given.std  # in place of a pointer that is not read
    amounts = [absent if tensor is None else tensor for tensor in (given.std, given.floor_std, given.grad_scale)]
    device = given.state.device
    with _LAUNCHING, _on(device):
        residents = _TABLES.get((call, device), device, functools.partial(_make_residents, call, device))
        ready = []  # before the first launch, since after it a lack of memory would leave some of the noise undone
        for resident in residents:
            launch = resident.launch
            mine = [given.grads[m] for m in launch.members]
            my_scores = [given.scores[m] for m in launch.members]
            header = _HEADERS.get(
                (resident, tuple([tensor.data_ptr() for tensor in (*mine, *my_scores)]), given.keep),
                device,
                functools.partial(_make_header, launch, mine, my_scores, given.keep, device),
            )
            real = launch.settings.real
            packed = _BASES.get(
                (tuple([basis.data_ptr() for basis in given.bases]), call.basis_taps, real, device),
                device,
                functools.partial(_make_bases, given.bases, real, device),
            )
            ready.append((resident, header, packed))
        step_is_taken = _can_be_interrupted(device)
        if step_is_taken:
            given.state[4] += 1
        for i, (resident, header, packed) in enumerate(ready):
            _kernels().perturb[(len(resident.programs),)](
                header.on_device, resident.rows, resident.programs, resident.offsets, packed,
                *amounts, given.state, int(i == 0 and not step_is_taken),
                **_constants(header.variant), **OPTIONS,
            )  # fmt: skip


def channel_saliency(activation_grad: torch.Tensor) -> torch.Tensor:
    """``sum_n |mean_space(activation_grad[n, c])|``: [N, C, *spatial] to float32 [C], in one read."""
    _checks.check_activation_grad(activation_grad)
    activation_grad = _checks.without_repeats(activation_grad)
    images, channels = activation_grad.shape[:2]
    length = math.prod(activation_grad.shape[2:])
    with _on(activation_grad.device):
        if not activation_grad.is_contiguous() and activation_grad.movedim(1, -1).is_contiguous():
            sums = _column_sums(activation_grad, images, length, channels)  # [N, parts, C]
        else:
            sums = _row_sums(activation_grad.contiguous(), images * channels, length).view(images, 1, channels)
        # Without samples the sum of their means is 0, not 0 / 0.
        return (sums.sum(1).abs_().sum(0) / (length if images else 1)).float()


_SALIENCY_TILE = 4096
"""Elements that a program of four warps has in registers at a time: 32 a thread, eight vectors of 16 bytes."""

_SALIENCY_PROGRAM = 2**15
"""Elements that a program reads of a channels_last tensor: enough that the partial sums do not count."""


def _real(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def row_sum_settings(dtype: torch.dtype, length: int) -> dict[str, Any]:
    """Compile-time arguments of ``row_sums``."""
    block = min(_SALIENCY_TILE, max(16, _power_of_two(length)))
    return {"UNIT": math.gcd(length, 8), "ROWS": _SALIENCY_TILE // block, "BLOCK": block, "REAL": _triton_real(dtype)}


def column_sum_settings(dtype: torch.dtype, channels: int) -> dict[str, Any]:
    """Compile-time arguments of ``column_sums``."""
    block = min(128, max(16, _power_of_two(channels)))
    return {"UNIT": math.gcd(channels, 8), "ROWS": _SALIENCY_TILE // block, "BLOCK": block, "REAL": _triton_real(dtype)}


def _power_of_two(n: int) -> int:
    """The smallest that is not smaller."""
    return 1 << max(n - 1, 0).bit_length()


def _triton_real(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype is torch.float64 else tl.float32


def _row_sums(x: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    settings = row_sum_settings(x.dtype, length)
    sums = x.new_zeros(rows, dtype=_real(x))
    if x.numel():
        grid = (-(-rows // settings["ROWS"]),)
        _kernels().row_sums[grid](x, sums, rows, length // settings["UNIT"], **settings, **SALIENCY_OPTIONS)
    return sums


def _column_sums(x: torch.Tensor, images: int, length: int, channels: int) -> torch.Tensor:
    settings = column_sum_settings(x.dtype, channels)
    part = -(-_SALIENCY_PROGRAM // settings["BLOCK"])
    parts = -(-length // part)
    sums = x.new_zeros(images, parts, channels, dtype=_real(x))
    if x.numel():
        grid = (images, parts, -(-channels // settings["BLOCK"]))
        _kernels().column_sums[grid](
            x, sums, length, part, channels // settings["UNIT"], **settings, **SALIENCY_OPTIONS
        )
    return sums


@torch.inference_mode()  # as copy_ writes to an inference tensor and raises then
def words_(out: torch.Tensor, state: torch.Tensor, tensor_id: int, first_position: int, generator: int) -> None:
    """Fills ``out`` (int32) with consecutive words of one stream; the state is not advanced."""
    _checks.check_words(out, state, tensor_id, first_position, generator)
    flat = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    with _on(out.device):
        lanes = _lanes(out.device)
        superblocks = out.numel() // triton_tables.WORDS + 2  # the first and the last may be cut
        _kernels().words[(-(-superblocks // lanes),)](
            flat, state, tensor_id, first_position, out.numel(), ROUNDS=generator, LANES=lanes, **OPTIONS
        )
    if flat is not out:
        out.copy_(flat)


def _on(device: torch.device):
    """Makes the device current: Triton launches on the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _lanes(device: torch.device) -> int:
    """Lanes of a program: one warp."""
    if device.type == "cpu":
        return _INTERPRETER_LANES
    import triton

    return triton.runtime.driver.active.get_current_target().warp_size


@functools.lru_cache(maxsize=256)
def _constants(variant: Variant) -> dict[str, Any]:
    import triton

    interpreted = not isinstance(_kernels().perturb, triton.JITFunction)
    return {**variant.constants(), "INTERPRETED": interpreted}


_ops.register("triton", perturb_=perturb_, channel_saliency=channel_saliency, words_=words_)
