"""The compiled CPU kernels on every instruction set: one library holds them all, TIP_KERNELS_CPU forces one."""

import os
import subprocess
import sys

import pytest
import torch

import tip_kernels as tip

pytestmark = pytest.mark.skipif("cpu" not in tip.available_backends(), reason="the compiled CPU library is absent")


def _run(variant: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "TIP_KERNELS_CPU": variant, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def _name_in_use(variant: str) -> str:
    return _run(variant, "-m", "tip_kernels").stdout.partition("yes, on cpu (")[2].partition(")")[0]


@pytest.mark.parametrize("variant", ["generic", "avx2", "avx512", "neon"])
def test_every_variant_passes_the_tests_of_its_backend(variant):
    """Words bit for bit and values within their derived tolerance: hence also between variants."""
    if torch.ops.tip_kernels.cpu_variant() == variant:
        pytest.skip("the variant of this process, which all other tests are about")
    if _name_in_use(variant) != variant:
        pytest.skip(f"this processor or build has no {variant}")
    names = ("perturb", "cpu_paths", "rounding", "generators", "far_addresses", "saliency", "normals")
    tests = [f"tests/test_{name}.py" for name in names]
    result = _run(variant, "-m", "pytest", "-q", "-k", "cpu", *tests)
    assert result.returncode == 0, result.stdout[-3000:]


def test_unknown_variant_is_refused_with_the_known_ones():
    result = _run("sse9", "-m", "tip_kernels")
    assert "expected TIP_KERNELS_CPU to be one of" in result.stdout + result.stderr
    assert "got sse9" in result.stdout + result.stderr
