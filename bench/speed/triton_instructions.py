"""Instructions of the Triton kernels for each element, counted in the machine code; needs Triton and no GPU.

    python -m bench.speed.triton_instructions [--arch 90]

Counts the way of a warp through one tile: the loop over tiles, with its inner loops as often as they turn. Blocks that
treat each element singly, where memory lies oddly or values are huge, are not on the way. Selected kernels take the
longest way that is left, others the shortest.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import torch

import tip_kernels as tip
from bench.speed.instructions import GENERATORS, find_cuobjdump
from tip_kernels import _call
from tip_kernels.backends.triton.facts import facts_of
from tip_kernels.backends.triton.plan import plan_launches
from tip_kernels.backends.triton.variant import OPTIONS, Variant

LANES = 32
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)(.*?);", re.MULTILINE)


class Way(NamedTuple):
    """Through a kernel."""

    name: str
    shape: tuple[int, ...]
    floor: float
    elements: int  # of a lane
    choose: Callable[[list[int]], int]


WAYS = [
    Way("3x3, selected", (64, 64, 3, 3), 0.0, 36, max),
    Way("3x3 with a floor, selected", (64, 64, 3, 3), 1.0, 36, max),
    Way("3x3 with a floor, others", (64, 64, 3, 3), 1.0, 36, min),
    Way("elements with a floor", (64, 64), 1.0, 16, max),
]


class Block(NamedTuple):
    """Instructions that follow one another, and where it goes on."""

    names: list[str]
    following: list[int]

    def count(self, pattern: str) -> int:
        return sum(re.match(pattern, name) is not None for name in self.names)

    @property
    def is_slow(self) -> bool:
        """Whether it treats each element singly, calls or waits for lanes that have gone another way."""
        singly = max(self.count(r"(LDG|STG)(?!.*\.128)"), self.count("FSETP") // 2) >= 16
        return singly or self.count("CALL|WARPSYNC") > 0


def blocks_of(listing: str) -> dict[int, Block]:
    """By the address of their first instruction."""
    code = [(int(address, 16), guard, name, rest) for address, guard, name, rest in INSTRUCTION.findall(listing)]
    following: dict[int, list[int]] = {}  # after what ends a block
    for i, (_, guard, name, rest) in enumerate(code):
        if name.startswith(("BRA", "EXIT", "RET")):
            taken = [int(re.findall("0x([0-9a-f]+)", rest)[-1], 16)] if name.startswith("BRA") else []
            may_go_on = guard or name.startswith("BRA.DIV") or re.match(r"\s*!?U?P\d", rest)
            following[i] = taken + ([code[i + 1][0]] if may_go_on else [])
    starts = {address for addresses in following.values() for address in addresses}
    blocks = {code[0][0]: Block([], [])}
    current = blocks[code[0][0]]
    for i, (address, _, name, _) in enumerate(code):
        if i and (address in starts or i - 1 in following):
            if i - 1 not in following:
                current.following.append(address)
            current = blocks[address] = Block([], [])
        current.names.append(name)
        current.following.extend(following.get(i, []))
    return blocks


def instructions_of_tile(listing: str, drawn: int, choose: Callable[[list[int]], int]) -> int:
    """Along the chosen way; ``drawn``: how many LOP3 and IMAD.WIDE loops take to draw the words of a group."""
    blocks = blocks_of(listing)
    edges = [(target, start) for start, block in blocks.items() for target in block.following if target <= start]
    inside = {edge: [block for start, block in blocks.items() if edge[0] <= start <= edge[1]] for edge in edges}
    stores = {edge: sum(block.count("STG") for block in inside[edge]) for edge in edges}
    head, end = max((edge for edge in edges if stores[edge]), key=lambda edge: edge[1] - edge[0])
    inner = [edge for edge in edges if not stores[edge] and head < edge[0] < end]
    known: dict[int, list[int]] = {}

    def turns(start: int) -> int:
        loops = [edge for edge in inner if edge[0] <= start <= edge[1]]
        return round(drawn / sum(block.count(r"LOP3|IMAD\.WIDE") for block in inside[loops[0]])) if loops else 1

    def ways_from(start: int) -> list[int]:
        if start not in known:
            ways = []
            for target in blocks[start].following:
                if target == head:
                    ways.append(0)
                elif (target, start) not in inner and not blocks[target].is_slow:
                    ways += ways_from(target)
            known[start] = [len(blocks[start].names) * turns(start) + choose(ways)] if ways else []
        return known[start]

    (way,) = ways_from(head)
    return way


def variant_of(way: Way, generator: str) -> Variant:
    grad, score = torch.zeros(way.shape), torch.zeros(way.shape[0]) if len(way.shape) == 4 else None
    call = _call.prepare(
        [grad], [score], ratio=0.5, std=1.0, floor_std=way.floor, rng=tip.NoiseRNG(generator=generator)
    )
    (launch,) = plan_launches(facts_of(call.arguments), LANES)
    return launch.variant(launch.accesses([0]))


def compile_listing(variant: Variant, arch: int) -> tuple[str, int]:
    """The machine code, and the registers of a thread."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import MockTensor, mangle_type

    from tip_kernels.backends.triton.kernels import perturb_portions

    names = perturb_portions.arg_names
    types = [mangle_type(MockTensor.wrap_dtype(argument)) for argument in variant.argument_types()]
    signature = dict(zip(names, [*types, *["constexpr"] * len(names)], strict=False))
    source = ASTSource(perturb_portions, signature=signature, constexprs=variant.constants())
    cubin = triton.compile(source, target=GPUTarget("cuda", arch, LANES), options=OPTIONS).asm["cubin"]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(find_cuobjdump()), "-sass", "-res-usage", str(path)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (registers,) = re.findall(r"REG:(\d+)", found)
    return found, int(registers)


def drawn_by_loops(generator: str) -> int:
    """ChaCha's loop has all double rounds but the first, of 32 exclusive-ors each; Philox's has all of ten rounds."""
    number = GENERATORS[generator]
    return 10 * 4 * 4 if generator == "philox" else (number // 2 - 1) * 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90, help="compute capability, such as 80 or 90")
    arch = parser.parse_args().arch
    print(f"| sm_{arch}, instructions an element (registers) | " + " | ".join(GENERATORS) + " |")
    print("|---|" + "---|" * len(GENERATORS))
    for way in WAYS:
        cells = []
        for generator in GENERATORS:
            listing, registers = compile_listing(variant_of(way, generator), arch)
            count = instructions_of_tile(listing, drawn_by_loops(generator), way.choose)
            cells.append(f"{count / way.elements:.1f} ({registers})")
        print(f"| {way.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
