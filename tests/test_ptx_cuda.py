"""The CUDA backend without a GPU: its host code, and the PTX of its kernels executed on the CPU (tests/ptx)."""

import pytest
import test_far_addresses
import test_formula
import test_generators
import test_keep
import test_normals
import test_perturb
import test_rounding
import test_saliency_op
import test_saliency_strides
import torch
from ptx.backend import backend_on_ptx, backend_tests
from ptx.cuda import CudaOnCpu
from released import unrounded

from bench.speed.instructions import find_nvcc

pytestmark = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")

FEATURES = (
    test_far_addresses, test_formula, test_generators, test_keep, test_normals, test_perturb, test_rounding,
    test_saliency_op, test_saliency_strides,
)  # fmt: skip
globals().update(backend_tests(*FEATURES))  # every test of a backend's results, here with the fixture below


@pytest.fixture
def device() -> CudaOnCpu:
    return CudaOnCpu()


@pytest.fixture
def backend(device, monkeypatch):
    return backend_on_ptx("cuda", device.op, monkeypatch)


CASES = [case for case in test_perturb.CASES if case.shape != "many kernels"]


@pytest.mark.parametrize("case", CASES, ids=test_perturb.case_id)
def test_equals_the_reference(case, backend):
    grad, scores = test_perturb.inputs(case)
    with unrounded():
        arithmetic = case.dtype if case.dtype == torch.float64 else torch.float32
        want = test_perturb.run(case, grad.to(arithmetic, copy=True), scores, "reference")
    memory, view = test_perturb.lay_out(grad, case.layout, backend.device)
    test_perturb.run(case, view, scores, "cuda")
    test_perturb.assert_close(view, want, case.dtype, test_perturb.float_tolerance(case, grad), case.step)
    view.fill_(5.0)
    assert (memory == 5.0).all(), "wrote outside of the gradient"
