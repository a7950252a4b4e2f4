"""Executes short PTX for tests: an instruction on arrays of operands, or a body that stores what it finds."""

import numpy as np
import torch

from .launch import LoadedModule, Machine, Schedule
from .memory import READ, WRITE, GlobalMemory
from .parse import parse, width_of

Array = np.ndarray
HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n"


def compute(code: str, result: str, operands: dict[str, tuple[str, Array]]) -> Array:
    """Runs ``code``, which reads registers by name and writes %result, in a thread for each element."""
    count = len(next(iter(operands.values()))[1])
    loads, declarations, params, arrays = [], [], [".param .u64 result"], []
    for i, (name, (type_name, values)) in enumerate(operands.items()):
        width = 8 if type_name == "pred" else width_of(type_name)
        params.append(f".param .u64 operand{i}")
        arrays.append(np.ascontiguousarray(values).view(f"u{width // 8}"))
        declarations.append(f".reg .{'pred' if type_name == 'pred' else f'b{width}'} {name};")
        loads.append(f"ld.param.u64 %at, [operand{i}]; mad.wide.u32 %at, %i, {width // 8}, %at;")
        if type_name == "pred":
            loads.append(f"ld.global.u8 %small, [%at]; setp.ne.u16 {name}, %small, 0;")
        else:
            loads.append(f"ld.global.b{width} {name}, [%at];")
    width = 8 if result == "pred" else width_of(result)
    kept = "selp.u16 %small, 1, 0, %result; st.global.u8 [%at], %small;"
    text = f"""{HEADER}
.visible .entry one({", ".join(params)}) {{
.reg .u64 %at; .reg .u32 %i; .reg .b16 %small; .reg .{"pred" if result == "pred" else f"b{width}"} %result;
{" ".join(declarations)}
mov.u32 %i, %tid.x;
{" ".join(loads)}
{code}
ld.param.u64 %at, [result]; mad.wide.u32 %at, %i, {width // 8}, %at;
{kept if result == "pred" else f"st.global.b{width} [%at], %result;"}
ret;
}}"""
    output = np.zeros(count, f"u{width // 8}")
    memory = GlobalMemory()
    memory.allow("result", output.ctypes.data, output.nbytes, WRITE)
    for i, array in enumerate(arrays):
        memory.allow(f"operand{i}", array.ctypes.data, array.nbytes, READ)
    addresses = np.array([array.ctypes.data for array in (output, *arrays)], np.uint64)
    run_text(text, memory, addresses.tobytes(), threads=count)
    return output


def run_text(
    text: str, memory: GlobalMemory, params: bytes, blocks: int = 1, threads: int = 32, shared_bytes: int = 0,
    seed: int | None = None,
) -> None:  # fmt: skip
    """Runs the one kernel of a module to its end, and looks for races."""
    loaded = LoadedModule(parse(text))
    (kernel,) = loaded.kernels.values()
    grid, block = (blocks, 1, 1), (threads, 1, 1)
    machine = Machine(kernel, memory, grid, block, shared_bytes, params, Schedule(seed))
    machine.run()
    machine.races.check()


def run_body(
    body: str, out: torch.Tensor, blocks: int = 1, threads: int = 32, shared_bytes: int = 0, seed: int | None = None
) -> torch.Tensor:
    """Runs a body that has %out, the address of ``out``, the thread %t and the block %b; returns ``out``."""
    text = f"""{HEADER}
.extern .shared .align 16 .b8 memory[];
.visible .entry body(.param .u64 out) {{
.reg .u64 %out, %d<9>; .reg .u32 %t, %b, %r<9>; .reg .pred %p<9>; .reg .b16 %h<9>;
ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x;
{body}
ret;
}}"""
    memory = GlobalMemory()
    memory.allow_tensor("out", out, WRITE)
    run_text(text, memory, out.data_ptr().to_bytes(8, "little"), blocks, threads, shared_bytes, seed)
    return out
