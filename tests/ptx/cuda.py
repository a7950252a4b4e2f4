"""The ops of csrc/cuda on CPU tensors: their host code runs as it is, and their kernels' PTX is executed."""

import collections
import ctypes
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from tip_kernels._op import schemas as _ops

from .build import ARCHS, build
from .global_races import Access
from .launch import LoadedKernel, LoadedModule, Machine, Schedule
from .memory import READ, UNWRITTEN, WRITE, GlobalMemory
from .parse import PtxError, parse

PLENTY_SHARED = 48 * 1024
MOST_SHARED = {"80": 163 * 1024, "90": 227 * 1024}
FAILURE = 700


class _CLaunch(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("shared_limit", ctypes.c_int64),
        ("stream", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("early", ctypes.c_int32),
    ]


class Launch(NamedTuple):
    """What the host code launched."""

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    shared_limit: int | None
    stream: int | None
    params: bytes
    early: bool


_RUN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_CLaunch))
_NOTE_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)
_NOTE_MEMORY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


@functools.cache
def _library() -> ctypes.CDLL:
    path = build().library
    ops = torch.library.Library("tip_ptx", "DEF")
    schemas = {"perturb_": _ops.PERTURB_SCHEMA, "channel_saliency": _ops._SALIENCY, "words_": _ops._WORDS}
    for name, schema in {**schemas, "clip_scale": _ops.CLIP_SCHEMA, "cuda_problem": "(int device) -> str"}.items():
        ops.define(name + schema)
    torch.ops.load_library(path)
    library = ctypes.CDLL(str(path))
    library.keep_alive = ops
    return library


@functools.cache
def _files(arch: str) -> dict[str, pathlib.Path]:
    """Where each kernel is."""
    paths = build().ptx[arch]
    return {
        name: path for path in paths for name in re.findall(r"^(?:\.visible )?\.entry ([\w$]+)", path.read_text(), re.M)
    }


@functools.cache
def _loaded(path: pathlib.Path) -> LoadedModule:
    return LoadedModule(parse(path.read_text()))


class CudaOnCpu:
    """The device: global variables of its modules, what was launched on it and called, and how it is to fail."""

    def __init__(self, arch: str = ARCHS[0]) -> None:
        self.arch = arch
        self.schedule = Schedule()
        self.most_rows: int | None = None  # of a grid, for kernels that go on with what is left
        self.passes = 0  # lanes of a thread, where it can take several; 0 for the host code's choice
        self.launches: list[Launch] = []
        self.calls: list[str] = []
        self.fail_at: int | None = None  # index of the call of the runtime that fails
        self.count_issued = False
        self.issued: list[tuple[Launch, collections.Counter[int]]] = []  # by launch: line of PTX to warps
        self.replaced: dict[str, LoadedKernel] = {}
        self._modules: set[pathlib.Path] = set()
        self._memory = GlobalMemory()
        self._earlier: list[Access] = []
        self._error: BaseException | None = None
        self._library = _library()
        self._callbacks = (_RUN(self._run), _NOTE_CALL(self._called), _NOTE_MEMORY(self._allocated))

    def names(self) -> list[str]:
        """All kernels that there are."""
        return list(_files(self.arch))

    def generator_of(self, name: str) -> int | None:
        """The number of the generator that a kernel is compiled for, if it is for one."""
        found = re.fullmatch(r"generator(\d+)", _files(self.arch)[name].parent.name)
        return int(found[1]) if found else None

    def reset(self) -> None:
        """Gives all variables their first values at the next launch."""
        self._modules.clear()

    def kernel(self, name: str) -> LoadedKernel:
        path = _files(self.arch)[name]
        module = _loaded(path)
        if path not in self._modules:
            module.reset()
            self._modules.add(path)
        self._memory = GlobalMemory(self._memory, module.memory)
        return self.replaced.get(name) or module.kernels[name]

    def ptx_of(self, name: str) -> pathlib.Path:
        """The file that has a kernel."""
        return _files(self.arch)[name]

    def op(self, name: str) -> Callable[..., Any]:
        """One of ``perturb_``, ``channel_saliency``, ``words_`` and ``clip_scale``."""
        return functools.partial(self._call, name)

    def _call(self, name: str, *args: Any, **numbers: float) -> Any:
        self._memory = GlobalMemory()
        for right, group in _tensors_of(name, args):
            for i, tensor in enumerate(group):
                self._memory.allow_tensor(f"tensor {i}", tensor, right)
        self._error = None
        self._library.set_passes(self.passes)
        self._library.forget_attributes()
        self._library.set_device_limits(int(self.arch), MOST_SHARED[self.arch])
        self._library.set_callbacks(*self._callbacks[:2])
        self._library.set_note_memory(self._callbacks[2])
        try:
            return getattr(torch.ops.tip_ptx, name)(*args, **numbers)
        finally:
            if self._error is not None:
                raise self._error

    def set_stream(self, stream: int) -> None:
        self._library.set_current_stream(ctypes.c_void_p(stream))

    def _called(self, name: bytes) -> int:
        self.calls.append(name.decode())
        return FAILURE if self.fail_at == len(self.calls) - 1 else 0

    def _allocated(self, start: int, size: int) -> None:
        self._memory.allow("memory of the op", start, size, UNWRITTEN)

    def _run(self, given: Any) -> int:
        try:
            return self._execute(given.contents)
        except BaseException as error:
            self._error = error
            return FAILURE

    def _execute(self, given: _CLaunch) -> int:
        kernel = self.kernel(given.name.decode())
        params = bytearray(kernel.param_bytes)
        for i, (start, size) in enumerate(kernel.kernel.params.values()):
            params[start : start + size] = ctypes.string_at(given.arguments[i], size)
        limit = None if given.shared_limit < 0 else given.shared_limit
        launch = Launch(
            kernel.kernel.name, tuple(given.grid), tuple(given.block), given.shared_bytes, limit, given.stream,
            bytes(params), bool(given.early),
        )  # fmt: skip
        self.launches.append(launch)
        self.check_shared(launch, kernel)
        if self.most_rows is not None:
            launch = launch._replace(grid=(launch.grid[0], min(launch.grid[1], self.most_rows), launch.grid[2]))
        machine = Machine(kernel, self._memory, launch.grid, launch.block, launch.shared_bytes, launch.params,
                          self.schedule, launch.early)  # fmt: skip
        if self.count_issued:
            machine.issued = collections.Counter()
            self.issued.append((launch, machine.issued))
        machine.run()
        earlier = self._earlier if launch.early else []
        machine.races.check(earlier)
        self._earlier = earlier + machine.races.accesses
        return 0

    def check_shared(self, launch: Launch, kernel: LoadedKernel) -> None:
        """What a GPU would refuse."""
        total = kernel.static_shared + launch.shared_bytes
        if total > PLENTY_SHARED and launch.shared_bytes > (launch.shared_limit or 0):
            raise PtxError(f"{total} bytes of shared memory, which cudaFuncSetAttribute does not allow")
        if total > MOST_SHARED[self.arch]:
            raise PtxError(f"{total} bytes of shared memory, which no block has")


def _tensors_of(name: str, args: tuple[Any, ...]) -> list[tuple[int, list[torch.Tensor]]]:
    """The tensors among the arguments of an op, by what it may do with them."""
    if name == "channel_saliency":
        return [(READ, [args[0]])]
    if name == "words_":
        return [(WRITE, [args[0]]), (READ, [args[1]])]
    if name == "clip_scale":
        written = [_ops.ClipArguments(*args).state]
    else:
        given = _ops.PerturbArguments(*args)
        written = [*given.grads, given.state]
    flat = [item for arg in args for item in (arg if isinstance(arg, list) else [arg])]
    read = [item for item in flat if isinstance(item, torch.Tensor) and not any(item is one for one in written)]
    return [(WRITE, written), (READ, read)]
