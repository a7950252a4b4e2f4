"""The ops of the Triton backend on CPU tensors: their host code runs as on a GPU, and PTX is executed."""

import collections
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from bench import paths
from tip_kernels._op import schemas
from tip_kernels.backends.triton import device as device_module
from tip_kernels.backends.triton import kernels, launch, portions, resident, words

from .launch import LOCKSTEP, LoadedKernel, LoadedModule, Machine
from .memory import READ, UNWRITTEN, WRITE, GlobalMemory
from .parse import parse

LANES = 32
WRITTEN = ("sums", "out")
"""Arguments of kernels that they write, besides what the op's schema says."""


class Compiled(NamedTuple):
    ptx: str
    kernel: LoadedKernel
    passed: tuple[str, ...]  # names of the arguments that are parameters
    shared: int
    warps: int


@functools.cache
def _compiler() -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(paths.ROOT), str(paths.ROOT / "tests")])
    command = [sys.executable, "-m", "ptx.triton_compiler"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@functools.cache
def _compiled(request: str) -> Compiled:
    process = _compiler()
    process.stdin.write(request + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError("the compiler has ended")
    made = json.loads(answer)
    kernel = LoadedModule(parse(made["ptx"])).kernels[made["name"]]
    return Compiled(made["ptx"], kernel, tuple(made["passed"]), made["shared"], made["warps"])


def _described(value: Any) -> Any:
    """For the compiler: of a tensor, what a kernel may be specialized by."""
    if isinstance(value, torch.Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "address": value.data_ptr() % 16 + 16}
    return value if isinstance(value, bool | int | float) else {"type": str(value)}


class TritonOnCpu:
    """The device: how its threads run, and what was launched on it."""

    def __init__(self) -> None:
        self.schedule = LOCKSTEP
        self.launches: list[tuple[str, tuple[int, ...]]] = []
        self.replace: Callable[[LoadedKernel], LoadedKernel] | None = None
        self.enough_programs = 1
        """After so many, a program takes more than a tile: where a channel has several tiles, all of them."""
        self.count_issued = False
        self.issued: list[tuple[str, collections.Counter[int]]] = []  # by launch: PTX, line of it to warps
        self._rights: list[tuple[torch.Tensor, int]] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Makes the backend launch here, as it does on a GPU."""
        patch.setenv("TRITON_INTERPRET", "1")
        for name in kernels.__all__:
            patch.setattr(kernels, name, _Recorder(self, name, getattr(kernels, name).arg_names))
        patch.setattr(launch, "_kernel", lambda: kernels.perturb_portions)
        patch.setattr(launch, "_load", lambda variant, device: variant.constants())
        patch.setattr(portions, "_ENOUGH_PROGRAMS", self.enough_programs)
        patch.setattr(launch, "can_be_interrupted", lambda device: False)
        for module in (device_module, resident, words):
            patch.setattr(module, "lanes_of_program", lambda device: LANES)
        for cache in (resident._TABLES, resident._HEADERS, resident._BASES):
            patch.setattr(cache, "_values", {})
        plain = resident._make_header

        def make_header(*args: Any) -> Any:
            header, memory = plain(*args)
            self._rights += [(tensor, UNWRITTEN) for tensor in memory[2:]]
            return header, memory

        patch.setattr(resident, "_make_header", make_header)

    def op(self, name: str) -> Callable[..., Any]:
        plain = getattr(torch.ops.tip_kernels, name.removesuffix("_") + "_triton" + "_" * name.endswith("_"))

        def call(*args: Any) -> Any:
            self._rights = _rights_of(name, args)
            return plain(*args)

        return call

    def run(self, name: str, grid: tuple[int, ...], given: dict[str, Any], options: dict[str, Any]) -> None:
        request = {"kernel": name, "args": [_described(value) for value in given.values()],
                   "options": {key: _described(value) for key, value in options.items()}}  # fmt: skip
        compiled = _compiled(json.dumps(request))
        memory = GlobalMemory()
        known = {tensor.data_ptr() for tensor, _ in self._rights}
        for tensor, right in self._rights:
            memory.allow_tensor(name, tensor, right)
        for key, value in given.items():
            if isinstance(value, torch.Tensor) and value.data_ptr() not in known:
                memory.allow_tensor(key, value, WRITE if key in WRITTEN else READ)
        kernel = self.replace(compiled.kernel) if self.replace else compiled.kernel
        values = [given[key] for key in compiled.passed] + [0, 0]  # and two kinds of scratch memory that is not there
        params = bytearray(kernel.param_bytes)
        for (start, size), value in zip(kernel.kernel.params.values(), values, strict=True):
            number = value.data_ptr() if isinstance(value, torch.Tensor) else value
            params[start : start + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
        whole = (*grid, 1, 1)[:3]
        self.launches.append((name, whole))
        machine = Machine(kernel, memory, whole, (LANES * compiled.warps, 1, 1), compiled.shared, bytes(params),
                          self.schedule)  # fmt: skip
        machine.races.reads_precede_atomics = True
        machine.shared.agreed_writes = True
        if self.count_issued:
            machine.issued = collections.Counter()
            self.issued.append((compiled.ptx, machine.issued))
        machine.run()
        machine.races.check()


class _Recorder:
    """Stands for a kernel."""

    def __init__(self, device: TritonOnCpu, name: str, arg_names: list[str]) -> None:
        self._device, self._name, self._arg_names = device, name, arg_names

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def call(*args: Any, **options: Any) -> None:
            self._device.run(self._name, grid, dict(zip(self._arg_names, args, strict=False)), options)

        return call


def _rights_of(name: str, args: tuple[Any, ...]) -> list[tuple[torch.Tensor, int]]:
    if name == "perturb_":
        given = schemas.PerturbArguments(*args)
        read = [*given.scores, given.std, given.floor_std, given.grad_scale]
        pairs = [(tensor, READ) for tensor in read if tensor is not None]
        return [*pairs, *((tensor, WRITE) for tensor in (*given.grads, given.state))]
    return [(args[0], READ)] if name == "channel_saliency" else [(args[0], WRITE), (args[1], READ)]
