"""PTX text -> a list of instructions, with registers resolved to slots and branches to indices.

Covers what Mosaic GPU emits: one entry, and inline assembly in nested scopes with registers and labels of their own
(PTX ISA, "Syntax" and "State Spaces, Types, and Variables").
"""

import dataclasses
import re
from collections.abc import Iterator

from .faults import Unsupported


@dataclasses.dataclass(frozen=True)
class Reg:
    """A register; its width in bits, 1 for a predicate."""

    slot: int
    width: int


@dataclasses.dataclass(frozen=True)
class Imm:
    """A constant; its bits as written, which may be negative; of a floating-point constant, its encoding."""

    bits: int


@dataclasses.dataclass(frozen=True)
class Sym:
    """The address of a variable or of a parameter."""

    name: str


@dataclasses.dataclass(frozen=True)
class Special:
    """A special register, without its %."""

    name: str


@dataclasses.dataclass(frozen=True)
class Mem:
    """[base + offset], or [tensor map, {coordinates}]."""

    base: Reg | Sym
    offset: int
    coords: tuple = ()


Operand = Reg | Imm | Sym | Special | Mem | tuple | None  # a tuple is a vector; None is the sink `_`


@dataclasses.dataclass
class Inst:
    """One instruction.

    pred    the predicate that guards it, and whether it is negated
    line    file and line of the Python kernel
    target  of a branch: the index of an instruction
    """

    op: str
    args: list
    pred: Reg | None
    negated: bool
    line: str
    text: str
    target: int = -1

    def __post_init__(self):
        self.parts = tuple(self.op.split("."))

    def unsupported(self) -> Unsupported:
        return Unsupported("not an instruction that the emulator knows", f"{self.line}, `{self.text}`")

    def slots(self, args: list | None = None) -> Iterator[int]:
        """The registers that these arguments are made of; of all arguments and the guard by default."""
        if args is None:
            args = [*self.args, self.pred]
        for arg in args:
            if isinstance(arg, Reg):
                yield arg.slot
            elif isinstance(arg, tuple):
                yield from self.slots(list(arg))
            elif isinstance(arg, Mem):
                yield from self.slots([arg.base, *arg.coords])


@dataclasses.dataclass
class Program:
    """The entry of a module.

    widths   of every register slot
    params   of every parameter, its index
    shared   of every variable in shared memory, its alignment and its bytes
    entries  the instructions that something branches to
    target   such as sm_90a
    """

    insts: list[Inst]
    widths: list[int]
    params: dict[str, int]
    shared: dict[str, tuple[int, int]]
    entries: set[int]
    target: str


WIDTHS = {"pred": 1} | {f"{kind}{bits}": bits for kind in "busf" for bits in (8, 16, 32, 64)}

LABEL = re.compile(r"([$A-Za-z_][\w$]*)\s*:(?!:)")  # and not the `::` of a state space
DIRECTIVE = re.compile(r"\.(loc|file|section)\b([^\n]*)")
REGISTERS = re.compile(r"\.reg \.(\w+) (.*)")
SHARED = re.compile(r"(?:\.extern )?\.shared \.align (\d+) \.b8 (\w+)(?:\[(\d*)\])?")
GUARD = re.compile(r"@(!?)([%\w]+) ")
ADDRESS = re.compile(r"([%\w$.]+?)\s*(?:\+\s*(-?\d+))?")


def parse(text: str) -> Program:
    head, target = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)", text, re.S), re.search(r"\.target\s+(\w+)", text)
    if head is None or target is None or len(re.findall(r"\.entry\b", text)) != 1:
        raise Unsupported("a module without a target, or of more or less than one entry")
    params = {name: i for i, name in enumerate(re.findall(rf"\b({head[1]}_param_\d+)\b", head[2]))}
    body = re.sub(r"//[^\n]*", "", text[text.index("{", head.end()) + 1 :])
    parser = _Parser(dict(re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)))
    parser.read(body[: body.find("\n}")])
    entries = {inst.target for inst in parser.insts if inst.target >= 0}
    return Program(parser.insts, parser.widths, params, parser.shared, entries, target[1])


class _Scope:
    """A scope between braces: its registers and labels, and the branches to labels not seen yet."""

    def __init__(self):
        self.registers: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self.jumps: list[tuple[Inst, str]] = []

    def resolve(self) -> list[tuple[Inst, str]]:
        """The branches that leave the scope, once it is read: labels may follow their branch."""
        for inst, label in self.jumps:
            inst.target = self.labels.get(label, -1)
        return [(inst, label) for inst, label in self.jumps if inst.target < 0]


class _Parser:
    def __init__(self, files: dict[str, str]):
        self.files, self.line = files, "?"
        self.widths: list[int] = []
        self.insts: list[Inst] = []
        self.shared: dict[str, tuple[int, int]] = {}
        self.families: dict[str, int] = {}  # `%r<9>` declares %r0 to %r8: the width of each of this name
        self.scopes = [_Scope()]

    def read(self, body: str) -> None:
        at = 0
        while (at := _past_blanks(body, at)) < len(body):
            if body[at] == "{":
                self.scopes.append(_Scope())
                at += 1
            elif body[at] == "}":
                leaving = self.scopes.pop().resolve()
                self.scopes[-1].jumps += leaving
                at += 1
            elif m := LABEL.match(body, at):
                self.scopes[-1].labels[m[1]] = len(self.insts)
                at = m.end()
            elif m := DIRECTIVE.match(body, at):
                if m[1] == "loc":
                    self._locate(m[2])
                at = m.end()
            else:
                end = body.index(";", at)
                self._statement(" ".join(body[at:end].split()))
                at = end + 1
        if missing := self.scopes[0].resolve():
            raise Unsupported(f"a branch to {missing[0][1]}, which is no label")

    def _locate(self, rest: str) -> None:
        file, line, *_ = rest.split()
        if line != "0":  # what has no line in Python belongs to the one before
            self.line = f"{self.files.get(file, file).rsplit('/', 1)[-1]}:{line}"

    def _statement(self, text: str) -> None:
        if m := REGISTERS.fullmatch(text):
            for name in _split(m[2]):
                if family := re.fullmatch(r"(%\w+?)<(\d+)>", name):
                    self.families[family[1]] = WIDTHS[m[1]]
                else:
                    self.scopes[-1].registers[name] = self._new(WIDTHS[m[1]])
        elif m := SHARED.fullmatch(text):
            dynamic = m[3] == ""  # `extern .shared ...[]`: the launch says how many bytes
            self.shared[m[2]] = int(m[1]), 0 if dynamic else int(m[3] or 1)
        elif not text.startswith("."):
            self._instruction(text)
        elif not text.startswith(".pragma"):  # a hint to ptxas, without a meaning of its own
            raise Unsupported(text)

    def _instruction(self, text: str) -> None:
        guard = GUARD.match(text)
        pred = self._register(guard[2]) if guard else None
        op, _, rest = text[guard.end() if guard else 0 :].strip().partition(" ")
        branch = op.startswith("bra")
        args = [] if branch else [self._operand(arg) for arg in _split(rest)]
        self.insts.append(Inst(op, args, pred, bool(guard and guard[1]), self.line, text))
        if branch:
            self.scopes[-1].jumps.append((self.insts[-1], rest.strip()))

    def _new(self, width: int) -> int:
        self.widths.append(width)
        return len(self.widths) - 1

    def _register(self, name: str) -> Reg | None:
        for scope in reversed(self.scopes):
            if name in scope.registers:
                slot = scope.registers[name]
                return Reg(slot, self.widths[slot])
        if (m := re.fullmatch(r"(%[a-z]+)\d+", name)) and m[1] in self.families:
            slot = self.scopes[0].registers[name] = self._new(self.families[m[1]])
            return Reg(slot, self.widths[slot])
        return None

    def _operand(self, text: str) -> Operand:
        if text == "_":
            return None
        if text[0] == "{":
            return tuple(map(self._operand, _split(text[1:-1])))
        if text[0] == "[":
            where, *coords = _split(text[1:-1])
            m = ADDRESS.fullmatch(where)
            if m is None:
                raise Unsupported(text)
            base, at = self._operand(m[1]), self._operand(coords[0]) if coords else ()
            if not isinstance(base, Reg | Sym) or not isinstance(at, tuple):
                raise Unsupported(text)
            return Mem(base, int(m[2] or 0), at)
        if "|" in text:
            return tuple(self._operand(part.strip()) for part in text.split("|"))
        if (register := self._register(text)) is not None:
            return register
        if re.fullmatch(r"-?\d+", text):
            return Imm(int(text))
        if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
            return Imm(int(text, 16))
        if m := re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", text):  # a floating-point constant in hexadecimal
            return Imm(int(m[1], 16))
        return Special(text[1:]) if text[0] == "%" else Sym(text)


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _split(text: str) -> list[str]:
    """Parts of the text, split at the commas outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()] if text[start:].strip() else parts
