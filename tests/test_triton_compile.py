"""The Triton kernels compile ahead of time for GPUs that are not here, and the machine code is what it should be.

Triton's interpreter is on in this process, so a second one compiles; it runs this file as a script.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import pytest
import torch
from without_interpreter import run_script

import tip_kernels as tip
from tip_kernels.backends.triton import launch
from tip_kernels.backends.triton.variant import OPTIONS

pytest.importorskip("triton")

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
ALLOWED = {"rsqrt.approx.ftz.f32", "llvm.amdgcn.rsq.f32"}
"""Where approximations may be: in the first guess of a root, whose error a Newton step squares (test_normals.py). The
exactly rounded root takes the same steps and a call for numbers that are not among the squares of a radius; that call
makes the kernels of all convolutions spill."""
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", re.MULTILINE)


def launches(lanes: int) -> dict[str, Any]:
    """Launches planned for lists that together take every path, in every arithmetic, with every generator."""
    from tip_kernels.backends.triton.facts import CallFacts
    from tip_kernels.backends.triton.plan import plan_launches

    def plan(
        shapes, dtype=torch.float32, layout=torch.contiguous_format, aligned=True, generator=12, keep=False,
        shaped=False, **amounts,
    ):  # fmt: skip
        grads = [torch.empty(s, dtype=dtype, device="meta") for s in shapes]
        grads = [g.to(memory_format=layout) if g.dim() == 4 else g for g in grads]
        taps = sorted({g[0, 0].numel() for g in grads if g.dim() == 4})
        facts = CallFacts(
            grads=tuple((g.shape, g.stride(), g.dtype) for g in grads),
            scores=tuple((g.shape[:1], (1,)) for g in grads),
            selected=tuple(len(g) // 2 for g in grads),
            tensor_ids=tuple(range(len(grads))),
            basis_ids=tuple(taps.index(g[0, 0].numel()) if g.dim() == 4 else -1 for g in grads),
            basis_taps=tuple(taps),
            high_dims=tuple(k - 1 for k in taps),
            floor=amounts.get("floor", False),
            scale=amounts.get("scale", False),
            keep=keep,
            generator=generator,
            shards=None,
            amplitude_taps=tuple(taps) if shaped else (),
            amplitude_ids=tuple(taps.index(g[0, 0].numel()) if g.dim() == 4 else -1 for g in grads) if shaped else None,
        )
        (launch,) = plan_launches(facts, lanes)
        return launch.variant(launch.accesses([0 if aligned else 4] * len(grads)))

    conv, net = (64, 64, 3, 3), [(64, 3, 7, 7), (64, 64, 3, 3), (64,), (10, 64)]
    everything = {"floor": True, "scale": True}
    return {
        "3x3": plan([conv]),
        "3x3 floor": plan([conv], floor=True),
        "3x3 shaped": plan([conv], shaped=True),
        "3x3 floor shaped": plan([conv], floor=True, shaped=True),
        "3x3 16-bit": plan([conv], dtype=torch.bfloat16, generator=20),
        "3x3 channels_last": plan([conv], layout=torch.channels_last, keep=True),
        "3x3 unaligned": plan([conv], aligned=False, scale=True, dtype=torch.float16, generator=10),
        "convolutions": plan([(64, 3, 7, 7), conv]),
        "elements": plan([(10, 64), (64,)], floor=True, generator=8),
        "elements 16-bit": plan([(10, 64), (64,)], dtype=torch.bfloat16, generator=20, **everything),
        "network": plan(net, generator=10, **everything),
        "network shaped": plan(net, shaped=True, keep=True, **everything),
        "network in double": plan(net, dtype=torch.float64, keep=True, **everything),
    }


def passed_types(variant) -> list[str]:
    """Triton's names of the types that a launch passes."""
    from triton.runtime.jit import MockTensor, mangle_type

    return [mangle_type(MockTensor.wrap_dtype(argument)) for argument in variant.argument_types()]


def compile_for(target_name: str, cases: list[str]) -> dict[str, dict]:
    """Reports of the compilers by case: registers, bytes of a thread's local memory, instructions."""
    from triton.backends.compiler import GPUTarget

    from tip_kernels.backends.triton import kernels, saliency

    target = GPUTarget(*TARGETS[target_name])
    reports = {}
    for name, variant in launches(target.warp_size).items():
        if name in cases:
            signature = dict(zip(kernels.perturb_portions.arg_names, passed_types(variant), strict=False))
            reports[name] = report(kernels.perturb_portions, signature, variant.constants(), OPTIONS, target)
    if "words" in cases:
        integers = {"tensor_id": "i64", "first_position": "i64", "count": "i32"}
        signature = {"out": "*i32", "state": "*i64", **integers}
        constants = {"GENERATOR": 20, "LANES": target.warp_size}
        reports["words"] = report(kernels.write_words, signature, constants, OPTIONS, target)
    if "row sums" in cases:
        signature = {"x": "*fp32", "sums": "*fp32", "rows": "i32", "vectors": "i32"}
        constants = saliency.row_sum_settings(torch.float32, 56 * 56)
        reports["row sums"] = report(kernels.row_sums, signature, constants, saliency.OPTIONS, target)
    if "column sums" in cases:
        signature = {"x": "*bf16", "sums": "*fp32", "length": "i32", "portion": "i32", "vectors": "i32"}
        constants = saliency.column_sum_settings(torch.bfloat16, 256)
        reports["column sums"] = report(kernels.column_sums, signature, constants, saliency.OPTIONS, target)
    return reports


def report(kernel, signature: dict[str, str], constants: dict[str, Any], options: dict, target) -> dict:
    import triton
    from triton.compiler import ASTSource

    types = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    pointers = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types.values()) if t[0] == "*"}
    aligned = kernel.__name__ in ("row_sums", "column_sums")  # the others are not specialized by alignment
    source = ASTSource(kernel, signature=types, constexprs=constants, attrs=pointers if aligned else {})
    compiled = triton.compile(source, target=target, options=options)
    return cuda_report(compiled.asm) if target.backend == "cuda" else hip_report(compiled.asm)


def cuda_report(asm: dict[str, Any]) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage, code = (cuobjdump(option, file.name) for option in ("-res-usage", "-sass"))
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage).groups()
    instructions = collections.Counter(INSTRUCTION.findall(code))
    return {
        "registers": int(registers),
        "local": int(stack) + int(local),
        "wide loads": sum(n for name, n in instructions.items() if re.match(r"LDG.*\.128", name)),
        "wide stores": sum(n for name, n in instructions.items() if re.match(r"STG.*\.128", name)),
        "approximations": sorted(
            {name for name in instructions if re.match(r"MUFU\.(LG2|EX2|SIN|COS|TANH)", name)}
            | set(re.findall(r"\b[a-z][a-z0-9_.]*\.(?:approx|ftz|full)\b[a-z0-9_.]*", asm["ptx"]))
        ),
        "instructions": sum(instructions.values()),
    }


def cuobjdump(option: str, path: str) -> str:
    """Of Triton's wheel."""
    import triton

    tool = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return subprocess.run([str(tool), option, path], check=True, capture_output=True, text=True).stdout


def hip_report(asm: dict[str, Any]) -> dict:
    assembly = asm["amdgcn"]

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", assembly)[1])

    return {
        "registers": field("vgpr_count"),
        "local": field("private_segment_fixed_size"),
        "wide loads": len(re.findall(r"(?:global|flat)_load_dwordx4", assembly)),
        "wide stores": len(re.findall(r"(?:global|flat)_store_dwordx4", assembly)),
        # The hardware's own root is off by a unit in the last place; llvm.sqrt corrects it.
        "approximations": sorted(
            set(re.findall(r"v_(?:log|exp|sin|cos)_f32", assembly))
            | set(re.findall(r"llvm\.amdgcn\.(?:sqrt|rsq|rcp|log|exp2|sin|cos)[a-z0-9.]*", asm["llir"]))
        ),
        "instructions": len(re.findall(r"^\s+[vs]_\w+", assembly, re.MULTILINE)),
    }


CASES = [*launches(32), "words", "row sums", "column sums"]
IN_REGISTERS = [
    "3x3", "3x3 floor", "3x3 shaped", "3x3 floor shaped", "3x3 16-bit", "3x3 channels_last", "convolutions", "elements",
    "elements 16-bit",
]  # fmt: skip
LOCAL = {"convolutions": 40}
"""Bytes that ptxas 12, which Triton 3.6 has, puts into memory rather than take more than 128 registers."""
LATER = ("sm_100",)
"""Targets for make test-ptx and test-tritons: each takes minutes."""
VECTORS = {"3x3": 9, "3x3 floor": 9, "3x3 channels_last": 9, "elements": 4, "elements 16-bit": 2}
"""Of 16 bytes: a lane's four kernels of nine taps, or its 16 elements."""


def reports_for(target: str) -> dict[str, dict]:
    """From another process. Triton keeps what it compiled for the next time."""
    return run_script(__file__, target, json.dumps(CASES))


@pytest.mark.parametrize("target", [pytest.param(t, marks=pytest.mark.long if t in LATER else ()) for t in TARGETS])
def test_machine_code(target):
    """One test a target, because compiling takes long: all variants compile, and

    * what a lane works on, four kernels of 3x3 or a chunk of a larger one, stays in registers, but for LOCAL;
    * it comes and goes in VECTORS, and saliency reads vectors of 16 bytes;
    * nothing is approximate: no unit's own logarithm, sine or cosine, which would spoil the tails, and no instruction
      that is less than correctly rounded (.approx, .full) or takes small numbers for zeros (.ftz), but for ALLOWED.
    """
    reports = reports_for(target)
    assert reports.keys() == set(CASES)
    assert min(report["registers"] for report in reports.values()) > 0
    assert min(report["instructions"] for report in reports.values()) > 50
    assert [case for case in IN_REGISTERS if reports[case]["local"] > LOCAL.get(case, 0)] == []
    for case, vectors in VECTORS.items():
        assert reports[case]["wide loads"] >= vectors, case
        assert reports[case]["wide stores"] >= vectors, case
    assert min(reports[case]["wide loads"] for case in ("row sums", "column sums")) > 0
    approximations = {case: set(reports[case]["approximations"]) - ALLOWED for case in CASES}
    assert approximations == {case: set() for case in CASES}


def test_launches_pass_what_is_compiled(monkeypatch):
    """The types of the launcher's arguments are the signature that the tests above compile."""
    from triton.runtime.jit import mangle_type

    passed = []

    class Recorder:
        def __class_getitem__(cls, grid):
            return lambda *args, **options: passed.append((grid, args, options))

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(launch, "_kernel", lambda: Recorder)
    monkeypatch.setattr(launch, "_load", lambda variant, device: {"variant": variant})
    for dtype in (torch.float32, torch.float64):
        grads = [torch.zeros(8, 8, 3, 3, dtype=dtype), torch.zeros(3, dtype=dtype)]
        scores = [torch.zeros(8), None]
        for extra in ({}, {"floor_std": 1.0, "grad_scale": 0.5}):
            tip.perturb_(grads, scores, ratio=0.5, std=1.0, rng=tip.NoiseRNG(), backend="triton", **extra)
    assert len(passed) == 4
    for grid, args, options in passed:
        variant = options.pop("variant")
        assert [mangle_type(arg) for arg in args] == passed_types(variant)
        assert options == OPTIONS
        assert grid == (2 if variant.floor else 1,)


if __name__ == "__main__":
    print(json.dumps(compile_for(sys.argv[1], json.loads(sys.argv[2]))))
