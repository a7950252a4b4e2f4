"""python -m tests.fuzz_raw_ops: calls the raw ops with ill-formed arguments and looks for harm.

Each call starts as a valid one and is spoiled in one to three places. It must raise, or be valid after all; after an
exception no byte of any tensor has changed, and after a call that ran only the gradients, the step and ``out`` have.
Every tensor lies in a buffer of its own, with bytes around it that no op may touch.

    python -m tests.fuzz_raw_ops --calls 20000 --seed 0            # backends cpu and reference
    python -m tests.fuzz_raw_ops --calls 500 --backends triton     # in Triton's interpreter
    python -m tests.fuzz_raw_ops --only 1234 --seed 0              # one call again, in this process

The calls run in a child process, so that a crash or a hang (``--seconds`` a call) is counted with the number of its
call, and the rest go on behind it. The child imports torch and tip_kernels only and inherits the environment: under
AddressSanitizer, set LD_PRELOAD and ASAN_OPTIONS for this command. ``--exact`` makes buffers end where their tensors
end, which is what a sanitizer wants to see.
"""

import argparse
import collections
import faulthandler
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable

import torch

from tip_kernels import rng
from tip_kernels._op import dispatch
from tip_kernels._op.schemas import PerturbArguments

NUMBERS = (0, 1, -1, -2, 3, 9, 2**23 - 1, 2**23, 2**31, 2**32 + 1, 2**40, 2**41, 2**62, 2**63 - 1, -(2**63))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHER_DTYPES = (*DTYPES, torch.int8, torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)
GENERATORS = sorted(rng.GENERATORS.values())
SUFFIXES = {backend.name: backend.suffix for backend in dispatch.BACKENDS}
PERTURB = PerturbArguments._fields
LISTS = (
    "grads", "scores", "selected", "tensor_ids", "basis_ids", "bases", "high_dims", "shards", "amplitudes",
    "amplitude_ids", "forms", "form_ids",
)  # fmt: skip
TENSOR_LISTS = ("grads", "scores", "bases", "amplitudes", "forms")
SHAPES = (
    (4, 3, 3, 3), (3, 8, 3, 3), (5, 2, 5), (2, 2, 2, 2, 2), (4, 3, 1, 1), (6,), (5, 7), (), (0, 3, 3, 3), (2, 0, 3, 3),
    (1, 1, 3, 3), (1, 9, 7, 7),
)  # fmt: skip


_HANGS = 1  # status of a process that faulthandler ends


class HarmError(AssertionError):
    """What a call did that it must not do."""


class Buffers:
    """Memory for the tensors of one call: what was in it, and what may change."""

    def __init__(self, draw: random.Random, exact: bool) -> None:
        self._draw = draw
        self._exact = exact
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def place(self, values: torch.Tensor, layout: str = "contiguous") -> torch.Tensor:
        """The values in a buffer of their own."""
        order = list(range(values.dim()))
        if layout == "transposed":
            order.reverse()
        elif layout == "channels_last" and values.dim() > 2:
            order = [0, *order[2:], 1]
        step = 2 if layout == "sliced" else 1
        strides, reach = [0] * values.dim(), step
        for axis in reversed(order):
            strides[axis], reach = reach, reach * max(1, values.shape[axis])
        before, after = (0, 0) if self._exact else (self._draw.randint(0, 40), self._draw.randint(0, 40))
        span = 1 + sum((n - 1) * s for n, s in zip(values.shape, strides, strict=True)) if values.numel() else 0
        memory = torch.zeros(before + span + after, dtype=values.dtype)
        memory.view(torch.uint8).random_(0, 256, generator=torch.Generator().manual_seed(self._draw.getrandbits(32)))
        if values.dtype is torch.float64 or values.dtype is torch.float32:
            memory.nan_to_num_(0.5)
        view = memory.as_strided(values.shape, strides, before).copy_(values)
        self._before.append((memory, memory.clone()))
        return view

    def protect(self, memory: torch.Tensor) -> None:
        """Watches a tensor that has other memory, too."""
        self._before.append((memory, memory.clone()))

    def snapshot(self) -> None:
        """What is in the memory now is how it was before."""
        self._before = [(memory, memory.clone()) for memory, _ in self._before]

    def check(self, written: list[torch.Tensor]) -> None:
        """Raises HarmError if anything has changed besides these tensors."""
        for memory, before in self._before:
            if memory.untyped_storage().size() < before.untyped_storage().size():
                continue  # its storage was resized by the spoiled call's own preparation
            for tensor in written:
                if tensor.numel() and tensor.untyped_storage().data_ptr() == memory.untyped_storage().data_ptr():
                    there = before.view(tensor.dtype) if tensor.dtype != before.dtype else before
                    there.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(tensor)
            if not torch.equal(memory.view(torch.uint8), before.view(torch.uint8)):
                raise HarmError("memory has changed that must not")


def valid_perturb(draw: random.Random, buffers: Buffers) -> dict:
    """The arguments of a call of ``perturb_`` that every backend runs."""
    from tip_kernels import spectrum

    call: dict = {name: [] for name in LISTS if "form" not in name}
    sizes: dict[tuple[int, ...], int] = {}
    with_shards, with_amplitudes = draw.random() < 0.3, draw.random() < 0.4
    shapes = [draw.choice(SHAPES) for _ in range(draw.choice((0, 1, 1, 2, 2, 3, 4)))]
    count = len(shapes) + draw.randint(0, 2)
    std = buffers.place(torch.rand(count))
    for shape in shapes:
        layout = draw.choice(("contiguous", "contiguous", "channels_last", "sliced", "transposed"))
        call["grads"].append(buffers.place(torch.randn(shape).to(draw.choice(DTYPES)), layout))
        shard = [draw.randint(0, 3), draw.randint(0, 2), 20] if with_shards else [0, 0, 0]
        kernel_size, basis = shape[2:], -1
        if max(kernel_size, default=0) > 1 and draw.random() < 0.9:
            if kernel_size not in sizes:
                matrix, high = spectrum.real_basis(kernel_size, spectrum.radial_mask(kernel_size, 0.5))
                sizes[kernel_size] = len(call["bases"])
                call["bases"].append(buffers.place(matrix))
                call["high_dims"].append(high)
            basis = sizes[kernel_size]
        channels = shard[0] + shape[0] + draw.randint(0, 2) if shape else 1
        call["scores"].append(buffers.place(torch.rand(channels)) if basis >= 0 else std)
        call["selected"].append(draw.randint(0, channels))
        call["basis_ids"].append(basis)
        call["amplitude_ids"].append(-1)
        if basis >= 0 and with_amplitudes and draw.random() < 0.8:
            call["amplitude_ids"][-1] = len(call["amplitudes"])
            call["amplitudes"].append(buffers.place(0.1 + torch.rand(2, math.prod(kernel_size))))
        call["shards"] += shard
    call["tensor_ids"] = draw.sample(range(count), len(shapes))
    call["shards"] = call["shards"] if with_shards else None
    call["amplitude_ids"] = call["amplitude_ids"] if with_amplitudes else None
    call["std"] = std
    call["floor_std"] = buffers.place(torch.rand(count)) if draw.random() < 0.4 else None
    call["grad_scale"] = buffers.place(torch.tensor(0.7)) if draw.random() < 0.4 else None
    call["state"] = buffers.place(torch.randint(2**62, (6,)))
    call["keep"] = draw.choice((1.0, 1.0, 0.0, 0.3))
    call["generator"] = draw.choice(GENERATORS)
    return call


def valid_words(draw: random.Random, buffers: Buffers) -> dict:
    shape = draw.choice(((40,), (3, 7), (), (0,), (2, 3, 4), (100,)))
    out = buffers.place(torch.zeros(shape, dtype=torch.int32), draw.choice(("contiguous", "sliced", "transposed")))
    return {
        "out": out,
        "state": buffers.place(torch.randint(2**62, (6,))),
        "tensor_id": draw.choice((0, 5, 2**23 - 1)),
        "first_position": draw.choice((0, 3, 2**33, 2**42 - 200)),
        "generator": draw.choice(GENERATORS),
    }


def valid_saliency(draw: random.Random, buffers: Buffers) -> dict:
    shapes = ((2, 3, 4, 4), (3, 5), (1, 8, 9), (2, 40, 3, 3), (0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 2, 3, 2, 2))
    shape = draw.choice(shapes)
    layout = draw.choice(("contiguous", "channels_last", "sliced", "transposed"))
    return {"activation_grad": buffers.place(torch.randn(shape).to(draw.choice(DTYPES)), layout)}


def valid_clip(draw: random.Random, buffers: Buffers) -> dict:
    grads: list[torch.Tensor] = []
    forms: list[torch.Tensor] = []
    form_ids: list[int] = []
    for _ in range(draw.choice((0, 1, 2, 3))):
        layout = draw.choice(("contiguous", "channels_last", "sliced", "transposed"))
        shape = draw.choice(SHAPES)
        grads.append(buffers.place(torch.randn(shape).to(draw.choice(DTYPES)), layout))
        form_ids.append(-1)
        if draw.random() < 0.5:
            taps = math.prod(shape[2:]) if len(shape) > 2 and draw.random() < 0.7 else 1
            if taps > 0:
                form_ids[-1] = len(forms)
                forms.append(buffers.place(torch.rand(taps, taps, dtype=torch.float64)))
    return {
        "grads": grads,
        "grad_scale": buffers.place(torch.tensor(0.7)) if draw.random() < 0.4 else None,
        "state": buffers.place(torch.randint(2**62, (6,))),
        "max_norm": draw.choice((1.0, 1e-3, 1e30)),
        "forms": forms,
        "form_ids": form_ids if forms or draw.random() < 0.5 else None,
    }


def _resized(tensor: torch.Tensor, to: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(int(tensor.untyped_storage().size() * to))
    return tensor


def _expanded(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return tensor.unsqueeze(-1).expand(*tensor.shape, size)


def _repeated(tensor: torch.Tensor) -> torch.Tensor:
    """The same shape on the memory of one element."""
    return tensor.as_strided(tensor.shape, [0] * tensor.dim()) if tensor.numel() else tensor


def _quantized(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8)


def _nested(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([tensor, tensor])


def _unaligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same shape in memory that begins at an odd address."""
    if tensor.numel() == 0:
        return tensor
    room = bytearray(tensor.numel() * tensor.element_size() + 1)
    return torch.frombuffer(room, dtype=tensor.dtype, offset=1, count=tensor.numel()).view(tensor.shape)


TENSOR_SPOILERS: dict[str, Callable[[torch.Tensor, random.Random], object]] = {
    "dtype": lambda t, draw: t.to(draw.choice(OTHER_DTYPES)),
    "bits": lambda t, draw: t.view(torch.uint8) if t.dim() else t,
    "meta": lambda t, draw: t.to("meta"),
    "sparse": lambda t, draw: t.to_sparse(),
    "negation": lambda t, draw: torch._neg_view(t),
    "conjugate": lambda t, draw: t.to(torch.complex64).conj(),
    "quantized": lambda t, draw: _quantized(t),
    "nested": lambda t, draw: _nested(t),
    "mkldnn": lambda t, draw: t.float().to_mkldnn(),
    "zero tensor": lambda t, draw: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "more dimensions": lambda t, draw: t.unsqueeze(draw.randint(0, t.dim())),
    "100 dimensions": lambda t, draw: t[(None,) * (100 - t.dim())],
    "flat": lambda t, draw: t.flatten(),
    "fewer": lambda t, draw: t[: draw.randint(0, max(0, t.shape[0] - 1))] if t.dim() else t,
    "other order": lambda t, draw: t.permute(draw.sample(range(t.dim()), t.dim())),
    "every second": lambda t, draw: t[..., ::2] if t.dim() else t,
    "spread": lambda t, draw: torch.stack([t, t], -1)[..., 0],
    "one element": lambda t, draw: t.flatten()[:1].reshape(()) if t.numel() else t,
    "expanded": lambda t, draw: _expanded(t, draw.choice((0, 2, 3))),
    "repeated": lambda t, draw: _repeated(t),
    "no storage": lambda t, draw: _resized(t, 0.0),
    "less storage": lambda t, draw: _resized(t, 0.6),
    "empty": lambda t, draw: t.new_empty(0),
    "empty and huge": lambda t, draw: t.new_empty(0).expand(2**40, 2**20, 0),
    "requires grad": lambda t, draw: t.detach().requires_grad_() if t.is_floating_point() else t,
    "inference": lambda t, draw: _inference(t),
    "unaligned": lambda t, draw: _unaligned(t),
    "not a number": lambda t, draw: torch.full_like(t, math.nan) if t.is_floating_point() else t,
    "none": lambda t, draw: None,
    "a number": lambda t, draw: 3,
}


def _inference(tensor: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tensor.clone()


def _tensors_of(call: dict) -> list[tuple[str, int | None]]:
    places: list[tuple[str, int | None]] = []
    for name, value in call.items():
        if isinstance(value, torch.Tensor):
            places.append((name, None))
        elif isinstance(value, list):
            places += [(name, i) for i, item in enumerate(value) if isinstance(item, torch.Tensor)]
    return places


def _get(call: dict, place: tuple[str, int | None]):
    name, i = place
    return call[name] if i is None else call[name][i]


def _set(call: dict, place: tuple[str, int | None], value: object) -> None:
    name, i = place
    if i is None:
        call[name] = value
    else:
        call[name] = [*call[name][:i], value, *call[name][i + 1 :]]


def spoil_tensor(call: dict, draw: random.Random, buffers: Buffers, spoiled: set) -> str:
    places = [place for place in _tensors_of(call) if place[0] not in spoiled]
    if not places:
        return "nothing"
    place = draw.choice(places)
    spoiled.add(place[0])
    kind = draw.choice(list(TENSOR_SPOILERS))
    try:
        changed = TENSOR_SPOILERS[kind](_get(call, place), draw)
    except (RuntimeError, NotImplementedError, IndexError):
        return "nothing"
    _set(call, place, changed)
    return f"{place}: {kind}"


def spoil_by_aliasing(call: dict, draw: random.Random, buffers: Buffers, spoiled: set) -> str:
    places = [place for place in _tensors_of(call) if place[0] not in spoiled]
    if len(places) < 2:
        return "nothing"
    place, other = draw.sample(places, 2)
    spoiled |= {place[0], other[0]}
    _set(call, place, _get(call, other))
    return f"{place}: same as {other}"


def spoil_number(call: dict, draw: random.Random, buffers: Buffers, spoiled: set) -> str:
    names = (
        "selected", "tensor_ids", "basis_ids", "high_dims", "shards", "amplitude_ids", "form_ids", "tensor_id",
        "first_position",
    )  # fmt: skip
    names = [name for name in names if name not in spoiled and call.get(name) not in (None, [])]  # type: ignore
    if not names:
        return "nothing"
    name = draw.choice(names)
    spoiled.add(name)
    number = draw.choice(NUMBERS)
    if isinstance(call[name], int):
        call[name] = number
        return f"{name}: {number}"
    i = draw.randrange(len(call[name]))
    call[name] = [*call[name][:i], number, *call[name][i + 1 :]]
    return f"{name}[{i}]: {number}"


def spoil_length(call: dict, draw: random.Random, buffers: Buffers, spoiled: set) -> str:
    names = [name for name in LISTS if name not in spoiled and isinstance(call.get(name), list)]
    if not names:
        return "nothing"
    name = draw.choice(names)
    spoiled.add(name)
    values = call[name]
    another = values[-1] if values else call.get("std", call["state"]) if name in TENSOR_LISTS else 0
    call[name] = draw.choice([values[:-1], [*values, another], [], values * 2])
    return f"{name}: length {len(call[name])} for {len(values)}"


def spoil_setting(call: dict, draw: random.Random, buffers: Buffers, spoiled: set) -> str:
    settings = ("generator", "keep", "state", "shards", "max_norm")
    name = draw.choice([name for name in settings if name in call] or ["nothing"])
    if name in spoiled or name == "nothing":
        return "nothing"
    spoiled.add(name)
    if name == "generator":
        call[name] = draw.choice((0, -1, 1, 4, 7, 9, 11, 13, 16, 24, 2**32 + 12, 2**63 - 1, -(2**63)))
    elif name == "max_norm":
        call[name] = draw.choice((0.0, -1.0, math.nan, -math.inf))
    elif name == "keep":
        call[name] = draw.choice((math.nan, math.inf, -math.inf, -0.1, 1.0000001, 1e300))
    elif name == "shards":
        call[name] = [draw.choice(NUMBERS) for _ in range(3 * len(call["grads"]))]
    elif isinstance(call[name], torch.Tensor) and call[name].shape == (6,):
        call[name][4] = draw.choice((-1, 2**63 - 1, -(2**63), 2**63 - 2))
        return f"state: step {int(call[name][4])}"
    return f"{name}: {call[name]}"


SPOILERS = (spoil_tensor, spoil_tensor, spoil_tensor, spoil_by_aliasing, spoil_number, spoil_number, spoil_length,
            spoil_setting)  # fmt: skip

OPS = {
    "perturb{}_": (valid_perturb, 6),
    "words{}_": (valid_words, 2),
    "channel_saliency{}": (valid_saliency, 2),
    "clip_scale{}": (valid_clip, 2),
}


def surely_ill_formed(pattern: str, call: dict) -> bool:
    """Whether a call must raise, by rules that are easy to see."""
    state = call.get("state")
    if isinstance(state, torch.Tensor) and state.device.type == "meta":  # its fake runs, which computes nothing
        return False
    if call.get("generator", GENERATORS[0]) not in GENERATORS:
        return True
    if not call.get("max_norm", 1.0) > 0:
        return True
    if "form_ids" in call and any(not -1 <= place < len(call["forms"]) for place in call["form_ids"] or ()):
        return True
    if not pattern.startswith("perturb"):
        return False
    lengths = {len(call[name]) for name in ("grads", "scores", "selected", "tensor_ids", "basis_ids")}
    bad_step = isinstance(state, torch.Tensor) and state.device.type == "cpu" and (
        tuple(state.shape) != (6,) or state.dtype is not torch.int64
    )  # fmt: skip
    return (
        len(lengths) > 1
        or len(call["bases"]) != len(call["high_dims"])
        or (call["shards"] is not None and len(call["shards"]) != 3 * len(call["grads"]))
        or not 0 <= call["keep"] <= 1
        or any(not -1 <= basis < len(call["bases"]) for basis in call["basis_ids"])
        or any(not -1 <= place < len(call["amplitudes"]) for place in call["amplitude_ids"] or ())
        or any(not 0 <= place < 2**23 for place in call["tensor_ids"])
        or bad_step
    )


def run_call(seed: int, number: int, backends: list[str], exact: bool = False, verbose: bool = False) -> str:
    """Makes one call; returns "refused" or "ran", raises HarmError."""
    import tip_kernels  # noqa: F401  which defines the ops

    draw = random.Random(seed * 1_000_003 + number)
    torch.manual_seed(draw.getrandbits(62))
    buffers = Buffers(draw, exact)
    backend = draw.choice(backends)
    pattern = draw.choices(list(OPS), [weight for _, weight in OPS.values()])[0]
    call = OPS[pattern][0](draw, buffers)
    spoiled: set[str] = set()
    kinds = [draw.choice(SPOILERS)(call, draw, buffers, spoiled) for _ in range(draw.choice((1, 1, 2, 3)))]
    what = f"{pattern.format(SUFFIXES[backend])} on {backend}, spoiled: {', '.join(kinds)}"
    if verbose:
        print(what, *(f"{name}={value}" for name, value in call.items()), sep="\n  ")
    for place in _tensors_of(call):
        tensor = _get(call, place)
        if tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.is_nested:
            _watch(tensor, buffers)
    buffers.snapshot()
    try:
        result = getattr(torch.ops.tip_kernels, pattern.format(SUFFIXES[backend]))(*_in_order(pattern, call))
    except Exception as error:  # any kind will do
        if verbose:
            print(type(error).__name__, error)
        try:
            buffers.check([])
        except HarmError as failure:
            raise HarmError(f"{what}: {failure} after {error}") from None
        return "refused"
    try:
        buffers.check(_written(pattern, call))
    except HarmError as failure:
        raise HarmError(f"{what}: {failure} although it ran") from None
    if surely_ill_formed(pattern, call):
        raise HarmError(f"{what}: ran although it is ill-formed")
    if pattern.startswith("channel"):
        _check_saliency(call["activation_grad"], result, what)
    return "ran"


def _in_order(pattern: str, call: dict) -> list:
    return [call[name] for name in PERTURB] if pattern.startswith("perturb") else list(call.values())


def _watch(tensor: torch.Tensor, buffers: Buffers) -> None:
    """Watches memory that a spoiler has made: all of the tensor's storage."""
    try:
        if tensor.is_neg() or tensor.is_conj() or tensor.is_quantized or tensor.untyped_storage().data_ptr() == 0:
            return
        whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return
    buffers.protect(whole)


def _written(pattern: str, call: dict) -> list[torch.Tensor]:
    """What a call that ran may have changed. None means an undefined tensor, which meta tensors go with."""
    found = [call["out"]] if pattern.startswith("words") else []
    if pattern.startswith("perturb"):
        found = [*call["grads"], None if call["state"] is None else call["state"][4:]]
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta"]


def _check_saliency(grad: torch.Tensor, result: torch.Tensor, what: str) -> None:
    if grad.device.type == "meta" or max(grad.shape) > 2**20:
        return
    spatial = tuple(range(2, grad.dim()))
    want = (grad.double().mean(spatial) if spatial else grad.double()).abs().sum(0)
    if not torch.allclose(result.double(), want, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise HarmError(f"{what}: expected {want}, got {result}")


def work(options: argparse.Namespace) -> None:
    """The child process: calls from ``--start`` on, each told to the parent before it is made."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    told = os.open(options.told, os.O_WRONLY)
    counts: collections.Counter[str] = collections.Counter()
    for number in range(options.start, options.calls):
        os.pwrite(told, struct.pack("<4q", number, counts["refused"], counts["ran"], counts["failed"]), 0)
        faulthandler.dump_traceback_later(options.seconds, exit=True)  # with status 1
        try:
            counts[run_call(options.seed, number, options.backends, options.exact)] += 1
        except HarmError as failure:
            counts["failed"] += 1
            print(f"seed {options.seed}, call {number}: {failure}", flush=True)
        except Exception as error:  # of this program itself: as loud as a failure of an op
            counts["failed"] += 1
            print(f"seed {options.seed}, call {number}: {type(error).__name__}: {error}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    os.pwrite(told, struct.pack("<4q", options.calls, counts["refused"], counts["ran"], counts["failed"]), 0)


def main(arguments: list[str] | None = None) -> int:
    """Runs the children; returns 0 if all calls were harmless."""
    options = _options(arguments)
    if options.told:
        work(options)
        return 0
    if options.only is not None:
        print(run_call(options.seed, options.only, options.backends, options.exact, verbose=True))
        return 0
    total: collections.Counter[str] = collections.Counter()
    with tempfile.NamedTemporaryFile() as told:
        start = 0
        while start < options.calls:
            told.seek(0)
            told.write(struct.pack("<4q", start, 0, 0, 0))
            told.flush()
            command = [sys.executable, os.path.abspath(__file__), *_repeated_options(options), "--start", str(start)]
            paths = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            child = subprocess.run([*command, "--told", told.name], env=environment, check=False)
            told.seek(0)
            number, refused, ran, failed = struct.unpack("<4q", told.read(32))
            total.update(refused=refused, ran=ran, failures=failed)
            if number >= options.calls and child.returncode == 0:
                break
            total["hangs" if child.returncode == _HANGS else "crashes"] += 1
            print(f"seed {options.seed}, call {number}: the process ended with {child.returncode}", flush=True)
            start = number + 1
    harm = total["failures"] + total["crashes"] + total["hangs"]
    print(
        f"{options.calls} calls of {', '.join(options.backends)}: {total['refused']} refused, {total['ran']} ran, "
        f"{total['failures']} failures, {total['crashes']} crashes, {total['hangs']} hangs"
    )
    return int(harm > 0)


def _repeated_options(options: argparse.Namespace) -> list[str]:
    values = [
        "--calls", str(options.calls), "--seed", str(options.seed), "--seconds", str(options.seconds),
        "--threads", str(options.threads), "--backends", *options.backends,
    ]  # fmt: skip
    return [*values, "--exact"] if options.exact else values


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Calls the raw ops with ill-formed arguments and looks for harm.")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", nargs="+", choices=list(SUFFIXES), default=["cpu", "reference"])
    parser.add_argument("--seconds", type=float, default=60.0, help="after which a call counts as a hang")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--exact", action="store_true", help="no room around tensors, for sanitizers")
    parser.add_argument("--only", type=int, help="makes this call in this process, with everything printed")
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--told", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if "triton" in options.backends:
        os.environ["TRITON_INTERPRET"] = "1"
    return options


if __name__ == "__main__":
    sys.exit(main())
