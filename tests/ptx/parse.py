"""PTX text to instructions. The syntax that compilers emit, and nothing else."""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple


class PtxError(Exception):
    """What is wrong with PTX or with what it does, and where."""


class Register(NamedTuple):
    name: str


class Immediate(NamedTuple):
    bits: int  # of an integer the integer itself, maybe negative
    width: int | None  # of a floating-point literal


class Symbol(NamedTuple):
    name: str


class Negated(NamedTuple):
    register: Register


class Address(NamedTuple):
    base: "Register | Symbol | None"
    offset: int


class Vector(NamedTuple):
    elements: tuple["Register | Immediate | None", ...]  # None: the sink _


class Pair(NamedTuple):
    first: Register | None
    second: Register | None


Operand = Register | Immediate | Symbol | Negated | Address | Vector | Pair | None


class Instruction(NamedTuple):
    line: int
    text: str
    guard: Register | Negated | None
    opcode: str
    words: tuple[str, ...]  # what follows the opcode's dots
    operands: tuple[Operand, ...]


class Variable(NamedTuple):
    """A named piece of memory."""

    space: str
    align: int
    size: int | None  # None: whatever the launch gives
    initial: bytes


class Kernel(NamedTuple):
    name: str
    params: dict[str, tuple[int, int]]  # offset, size
    registers: dict[str, int]  # width in bits
    variables: dict[str, Variable]
    instructions: list[Instruction]
    labels: dict[str, int]  # index of the next instruction
    targets: dict[str, list[str]]  # tables of labels, for indexed branches


class Module(NamedTuple):
    kernels: dict[str, Kernel]
    variables: dict[str, Variable]


_STATEMENT = re.compile(
    r"""(?:
      (?P<skipped>\.(?:version|target|address_size|file|loc)\b[^\n]*|\.section[^{]*\{[^}]*\}|\.pragma[^;]*;)
    | (?:\.visible\s+)?\.entry\s+(?P<entry>[\w$]+)\s*\((?P<params>[^)]*)\)[^{;]*
    | (?P<label>[\w$]+):\s*(?P<targets>\.branchtargets[^;]*;)?
    | (?P<open>\{) | (?P<close>\})
    | (?P<statement>[^;{}\s][^;{}]*(?:\{[^}]*\}[^;{}]*)*);
    )""",
    re.VERBOSE,
)
_VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)*\.(?P<space>global|shared|const)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>\w+)\s+(?P<name>[\w$]+)(?P<array>\[(?P<count>\d*)\])?\s*(?:=\s*(?P<initial>.*))?$",
    re.DOTALL,
)
_PARAM = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)(?:\s+\.ptr[^%_$A-Za-z]*(?:\.\w+\s+(?:\d+\s+)?)*)?\s*"
                    r"([\w$]+)(?:\[(\d+)\])?$")  # fmt: skip
_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?$")


_BLANK = re.compile(r"\s*")


def _blank(text: str, at: int) -> int:
    """The place of the next character that is none."""
    return _BLANK.match(text, at).end()  # type: ignore[union-attr]


@functools.cache
def width_of(type_name: str) -> int:
    """Bits of a type such as s32, pred or bf16x2."""
    if type_name == "pred":
        return 1
    found = re.fullmatch(r"(?:[busf]|bf)(8|16|32|64|128)(x2)?", type_name)
    if not found:
        raise PtxError(f"unknown type .{type_name}")
    return int(found[1]) * (2 if found[2] else 1)


def parse(text: str) -> Module:
    """The kernels and variables of a module."""
    text = re.sub(r"/\*.*?\*/", lambda comment: re.sub(r"[^\n]", " ", comment[0]), text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text)
    return _Parser(text).module()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._line, self._counted = 1, 0
        self._kernels: dict[str, Kernel] = {}
        self._variables: dict[str, Variable] = {}
        self._scopes: list[dict[str, str]] = []  # names of registers, as written and unique
        self._kernel: Kernel | None = None

    def module(self) -> Module:
        for found in self._statements():
            try:
                self._take(found)
            except PtxError as error:
                raise PtxError(f"line {self._line}: {error}: {found[0].strip()}") from None
        if self._scopes:
            raise PtxError("a brace is not closed")
        return Module(self._kernels, self._variables)

    def _statements(self) -> Iterator[re.Match]:
        at = _blank(self._text, 0)
        while at < len(self._text):
            self._line += self._text.count("\n", self._counted, at)
            self._counted = at
            found = _STATEMENT.match(self._text, at)
            if not found:
                raise PtxError(f"line {self._line}: cannot read: {self._text[at : at + 60]!r}")
            yield found
            at = _blank(self._text, found.end())

    def _take(self, found: re.Match) -> None:
        if found["entry"]:
            self._kernel = Kernel(found["entry"], _params(found["params"]), {}, {}, [], {}, {})
            self._kernels[found["entry"]] = self._kernel
        elif found["open"]:
            self._scopes.append({})
        elif found["close"]:
            if not self._scopes:
                raise PtxError("a brace too many")
            self._scopes.pop()
        elif found["label"]:
            self._take_label(found)
        elif found["statement"]:
            self._take_statement(" ".join(found["statement"].split()))

    def _take_label(self, found: re.Match) -> None:
        kernel = self._inside()
        if found["targets"]:
            names = found["targets"].removeprefix(".branchtargets").rstrip(";")
            kernel.targets[found["label"]] = [name.strip() for name in names.split(",")]
        else:
            kernel.labels[found["label"]] = len(kernel.instructions)

    def _take_statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self._declare_registers(text)
        elif variable := _VARIABLE.match(text):
            where = self._inside().variables if self._scopes else self._variables
            where[variable["name"]] = _variable(variable)
        elif text.startswith("."):
            raise PtxError("unknown directive")
        else:
            self._inside().instructions.append(self._instruction(text))

    def _inside(self) -> Kernel:
        if self._kernel is None or not self._scopes:
            raise PtxError("expected this in a kernel")
        return self._kernel

    def _declare_registers(self, text: str) -> None:
        _, type_name, names = text.split(maxsplit=2)
        kernel = self._inside()
        for name in names.split(","):
            family = re.fullmatch(r"([%\w$]+)<(\d+)>", name.strip())
            for one in [f"{family[1]}{i}" for i in range(int(family[2]))] if family else [name.strip()]:
                unique = one if one not in kernel.registers else f"{one}@{self._line}.{len(kernel.registers)}"
                self._scopes[-1][one] = unique
                kernel.registers[unique] = width_of(type_name.removeprefix("."))

    def _instruction(self, text: str) -> Instruction:
        guard: Register | Negated | None = None
        code = text
        if text.startswith("@"):
            name, code = text[1:].split(maxsplit=1)
            guard = Negated(self._register(name[1:])) if name.startswith("!") else self._register(name)
        head, _, rest = code.partition(" ")
        opcode, *words = head.replace("::", "~").split(".")
        operands = tuple(self._operand(part) for part in _split(rest))
        return Instruction(self._line, text, guard, opcode, tuple(words), operands)

    def _register(self, name: str) -> Register:
        for scope in reversed(self._scopes):
            if name in scope:
                return Register(scope[name])
        if name.startswith("%"):  # a special one, such as %tid.x
            return Register(name)
        raise PtxError(f"unknown register {name}")

    def _is_register(self, name: str) -> bool:
        return name.startswith("%") or any(name in scope for scope in self._scopes)

    def _operand(self, text: str) -> Operand:
        if text == "_":
            return None
        if text.startswith("["):
            return self._address(text)
        if text.startswith("{"):
            return Vector(tuple(self._element(part.strip()) for part in text[1:-1].split(",")))
        if "|" in text:
            first, second = (None if part == "_" else self._register(part) for part in text.split("|"))
            return Pair(first, second)
        if text.startswith("!"):
            return Negated(self._register(text[1:]))
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", text):
            return Immediate(int(text[2:], 16), 32 if text[1] in "fF" else 64)
        if _NUMBER.match(text):
            return Immediate(int(text.rstrip("U"), 0), None)
        return self._register(text) if self._is_register(text) else Symbol(text)

    def _element(self, text: str) -> Register | Immediate | None:
        element = self._operand(text)
        if not (element is None or isinstance(element, Register | Immediate)):
            raise PtxError(f"expected a register in a vector, got {text}")
        return element

    def _address(self, text: str) -> Address:
        found = re.fullmatch(r"\[\s*([%\w$]+(?:\.\w+)?)?\s*(?:\+?\s*(-?(?:0x)?[0-9a-fA-F]+))?\s*\]", text)
        if not found:
            raise PtxError(f"cannot read the address {text}")
        base, offset = found[1], int(found[2] or "0", 0)
        if base is None or _NUMBER.match(base):
            return Address(None, int(base or "0", 0) + offset)
        return Address(self._register(base) if self._is_register(base) else Symbol(base), offset)


def _split(text: str) -> list[str]:
    """Operands, at commas outside of braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text) if part.strip()]


def _variable(found: re.Match) -> Variable:
    size = width_of(found["type"]) // 8
    align = int(found["align"] or size)
    count = found["count"]
    if found["array"] and not count:
        return Variable(found["space"], align, None, b"")
    total = size * int(count or 1)
    initial = found["initial"]
    values = [int(part.rstrip("U"), 0) for part in re.findall(r"-?\w+", initial)] if initial else []
    data = b"".join((value % (1 << 8 * size)).to_bytes(size, "little") for value in values)
    return Variable(found["space"], align, total, data.ljust(total, b"\0"))


def _params(text: str) -> dict[str, tuple[int, int]]:
    params: dict[str, tuple[int, int]] = {}
    end = 0
    for part in filter(None, (" ".join(piece.split()) for piece in text.split(","))):
        found = _PARAM.match(part)
        if not found:
            raise PtxError(f"cannot read the parameter {part}")
        size = width_of(found[2]) // 8
        start = -(-end // int(found[1] or size)) * int(found[1] or size)
        end = start + size * int(found[4] or 1)
        params[found[3]] = (start, end - start)
    return params
