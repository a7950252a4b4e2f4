"""The CUDA kernels without a GPU: their own code compiled for the host, thread by thread, against the reference."""

import ctypes
import os
import pathlib
import shutil
import subprocess
from typing import NamedTuple

import pytest
import torch
from test_perturb import CASES, PLACE, assert_close, case_id, float_tolerance, inputs, lay_out, options

import tip_kernels as tip
from tip_kernels import functional

ROOT = pathlib.Path(__file__).parent.parent
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ANY, DENSE, PAIRS = range(3)  # csrc/cuda/table.h: enum Path


class HostTensor(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("data", "scores", "basis", "sizes", "strides")),
        *((name, ctypes.c_int64) for name in ("dims", "dtype", "score_count", "score_stride", "selected")),
        *((name, ctypes.c_int64) for name in ("id", "high_dim")),
        *((name, ctypes.c_int64) for name in ("first_channel", "first_kernel", "kernels_per_channel")),
    ]


class HostCall(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("state", "std", "floor_std", "grad_scale")),
        ("keep", ctypes.c_float),
        ("rounds", ctypes.c_int32),
    ]


class HostReport(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("launches", "blocks", "advances", "any", "dense", "pairs")]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    target = tmp_path_factory.mktemp("cuda_on_host") / "cuda_on_host.so"
    sources = [ROOT / "tests/cuda_on_host.cpp", ROOT / "csrc/cuda/plan.cpp"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *flags, *sources, "-o", target], check=True)
    return ctypes.CDLL(target)


class Place(NamedTuple):
    """What the planning of a tensor needs, which may be larger than any memory."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    high_dim: int = 8
    address: int = 2**20


def pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def host_tensors(args, keep_alive: list) -> ctypes.Array:
    grads, scores, selected, tensor_ids, basis_ids, bases, high_dims, *_, shards = args
    rows = []
    for i, grad in enumerate(grads):
        sizes, strides = (ctypes.c_int64 * 8)(*grad.shape), (ctypes.c_int64 * 8)(*grad.stride())
        keep_alive += [sizes, strides]
        place = shards[3 * i : 3 * i + 3] if shards else (0, 0, grad.shape[1] if grad.dim() > 1 else 1)
        has_band = basis_ids[i] >= 0
        rows.append(HostTensor(
            grad.data_ptr(), pointer(scores[i]), pointer(bases[basis_ids[i]]) if has_band else None,
            ctypes.addressof(sizes), ctypes.addressof(strides), grad.dim(), DTYPES[grad.dtype], scores[i].numel(),
            scores[i].stride(0) if has_band else 1, selected[i], tensor_ids[i],
            high_dims[basis_ids[i]] if has_band else 0, *place,
        ))  # fmt: skip
    return (HostTensor * max(1, len(rows)))(*rows)


def perturb_on_host(library: ctypes.CDLL, grads, scores, *, tiny_tables: bool = False, **given) -> HostReport:
    """``tip.perturb_`` by the CUDA kernels' code on the host."""
    defaults = {
        "cutoff": 0.5, "masks": None, "keep": 1.0, "floor_std": 0.0, "grad_scale": None, "shards": None, "names": None,
    }  # fmt: skip
    args = functional.checked_call(grads, scores, **{**defaults, **given, "backend": "reference"})[1:]
    std, floor, scale, state, keep, rounds = args[7:13]
    keep_alive: list = []
    tensors = host_tensors(args, keep_alive)
    call = HostCall(pointer(state), pointer(std), pointer(floor), pointer(scale), keep, rounds)
    report = HostReport()
    library.perturb_on_host(
        tensors, ctypes.c_int64(len(args[0])), ctypes.byref(call), ctypes.c_int64(tiny_tables), ctypes.byref(report)
    )
    return report


def run_on_host(library: ctypes.CDLL, case, grad, scores) -> HostReport:
    absent: list[None] = [None] * PLACE
    given = options(case, "reference", grad.device)
    return perturb_on_host(library, [*absent, grad], [*absent, scores], **given)


def run_reference(case, grad, scores) -> None:
    absent: list[None] = [None] * PLACE
    tip.perturb_([*absent, grad], [*absent, scores], **options(case, "reference", grad.device))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_the_reference(case, library):
    grad, scores = inputs(case)
    want = grad.to(case.dtype if case.dtype == torch.float64 else torch.float32, copy=True)
    run_reference(case, want, scores)

    memory, view = lay_out(grad, case.layout, grad.device)
    run_on_host(library, case, view, scores)

    assert_close(view, want, case.dtype, float_tolerance(case, grad))
    view.fill_(5.0)
    assert (memory == 5.0).all(), "wrote outside of the gradient"
