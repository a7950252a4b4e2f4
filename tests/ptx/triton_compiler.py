"""Compiles launches of Triton kernels to PTX, as a process of its own: in a test's, Triton is its interpreter.

Reads a launch a line and writes what was compiled, in JSON. Arguments are specialized as Triton's launcher does it.
"""

import json
import sys
from typing import Any

SM = 90


class Pointer:
    """A tensor for the launcher, which asks for no more."""

    def __init__(self, dtype: str, address: int) -> None:
        import torch

        self.dtype = getattr(torch, dtype)
        self._address = address

    def data_ptr(self) -> int:
        return self._address

    @staticmethod
    def ptr_range() -> int:
        return 2**40


def value_of(described: Any) -> Any:
    """An argument: a tensor by its type and address, a type by its name, a number."""
    import triton.language as tl

    if isinstance(described, dict):
        return tl.dtype(described["type"]) if "type" in described else Pointer(described["dtype"], described["address"])
    return described


def compile_launch(request: dict[str, Any]) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    from tip_kernels.backends.triton import kernels

    target = GPUTarget("cuda", SM, 32)
    backend = make_backend(target)
    kernel = getattr(kernels, request["kernel"])
    args = [value_of(arg) for arg in request["args"]]
    given = {name: value_of(value) for name, value in request["options"].items()}
    bound, specialization, _ = create_function_from_signature(kernel.signature, kernel.params, backend)(*args, **given)
    options, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialization, {})
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=target, options=options.__dict__)
    passed = [name for name, kind in signature.items() if kind != "constexpr"]
    metadata = compiled.metadata
    return {"ptx": compiled.asm["ptx"], "name": metadata.name, "shared": metadata.shared, "warps": metadata.num_warps,
            "passed": passed}  # fmt: skip


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(compile_launch(json.loads(line))), flush=True)
