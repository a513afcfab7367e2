"""Reads an optimized HLO program for a GPU: its library calls, how many kernels it launches, what they multiply."""

import dataclasses
import math
import re
from collections.abc import Iterator

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")
_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all", "optimization-barrier"}
CALLEES = re.compile(r"(?:calls|body|to_apply)=%([\w.-]+)")
_LIBRARY = re.compile(r'custom_call_target="__(cudnn|cublas)\$(?:lt\$)?([\w$]+)"')


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of cuDNN or cuBLAS, or a matrix product that XLA compiles itself.

    kind     "convForward", "convBackwardInput", "convBackwardFilter", ..., "matmul"
    window   of a convolution, as XLA writes it
    flops    two for every multiply-add that it stands for, stuffed zeros included
    """

    kind: str
    window: str
    flops: float


@dataclasses.dataclass(frozen=True)
class Move:
    """An array that is copied, transposed or padded.

    kernel   that does it, by itself or among other things
    opcode   "copy", "transpose" or "pad"
    """

    kernel: str
    opcode: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """The work of a compiled program: its library calls, how many kernels it launches, these included, and what they move."""

    calls: tuple[Call, ...]
    kernels: int
    moves: tuple[Move, ...]

    @property
    def flops(self) -> float:
        return sum(call.flops for call in self.calls)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    shape: tuple[int, ...]  # of the first array of its result
    operands: tuple[str, ...]
    text: str


def read(text: str) -> Program:
    """The program that `jax.stages.Compiled.as_text` prints."""
    computations, entry = bodies(text)
    shapes = {i.name: i.shape for body in computations.values() for i in body}
    executed = list(_executed(computations, entry))
    calls = [call for i, times in executed for call in _calls(i, computations, shapes, times)]
    moves = [move for i, _ in executed for move in _moves(i, computations)]
    return Program(tuple(calls), sum(times for _, times in executed), tuple(moves))


def bodies(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The instructions of every computation by its name, and the name of the entry."""
    found: dict[str, list[_Instruction]] = {}
    entry, body = "", []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            body = found.setdefault(name, [])
            entry = name if line.startswith("ENTRY") else entry
        elif match := _INSTRUCTION.match(line):
            name, result, opcode, rest = match.groups()
            first = _SHAPE.search(result)
            shape = tuple(int(n) for n in first[1].split(",") if n) if first else ()
            operands = tuple(re.findall(r"%([\w.-]+)", rest.split(")", 1)[0]))
            body.append(_Instruction(name, opcode, shape, operands, rest))
    return found, entry


def _executed(
    computations: dict[str, list[_Instruction]], name: str, times: int = 1
) -> Iterator[tuple[_Instruction, int]]:
    """Launched instructions, and how often each is: bodies of loops as often as they run."""
    for i in computations[name]:
        if i.opcode in ("while", "call", "conditional"):
            trips = re.search(r'"known_trip_count":{"n":"(\d+)"}', i.text)
            for callee in CALLEES.findall(i.text):
                yield from _executed(computations, callee, times * (int(trips[1]) if trips else 1))
        elif i.opcode not in _FREE:
            yield i, times


def _calls(
    i: _Instruction, computations: dict[str, list[_Instruction]], shapes: dict[str, tuple[int, ...]], times: int
) -> Iterator[Call]:
    if library := _LIBRARY.search(i.text):
        if library[1] == "cudnn":
            window = re.search(r"window={([^}]*)}", i.text)
            yield Call(library[2], window[1] if window else "", times * _convolution_flops(library[2], i, shapes))
        else:
            contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', i.text)
            yield Call("matmul", "", times * _matmul_flops(i, contracted[1] if contracted else "", shapes))
    elif i.opcode == "fusion":
        for callee in CALLEES.findall(i.text):
            for inner in computations[callee]:
                yield from _calls(inner, computations, shapes, times)
    elif i.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims={([^}]*)}", i.text)
        yield Call("matmul", "", times * _matmul_flops(i, contracted[1] if contracted else "", shapes))


def _moves(kernel: _Instruction, computations: dict[str, list[_Instruction]]) -> Iterator[Move]:
    fused = [callee for callee in CALLEES.findall(kernel.text) if kernel.opcode == "fusion"]
    for i in [kernel, *(inner for callee in fused for inner in computations[callee])]:
        opcode = i.opcode.removesuffix("-start")
        if opcode in ("copy", "transpose", "pad"):
            yield Move(kernel.name, opcode, i.shape)


def _convolution_flops(kind: str, i: _Instruction, shapes: dict[str, tuple[int, ...]]) -> float:
    """Every element of the kernel meets every image and every position of the convolution's output once."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.text)
    assert labels is not None
    lhs, rhs = (shapes[name] for name in i.operands[:2])
    if "BackwardFilter" in kind:
        kernel, y = i.shape, rhs
    elif "BackwardInput" in kind:
        kernel, y = rhs, lhs
    else:
        kernel, y = rhs, i.shape
    return 2.0 * math.prod(kernel) * math.prod(y) / y[labels[3].index("f")]


def _matmul_flops(i: _Instruction, contracted: str, shapes: dict[str, tuple[int, ...]]) -> float:
    lhs = shapes[i.operands[0]]
    return 2.0 * math.prod(i.shape) * math.prod(lhs[int(n)] for n in re.findall(r"\d+", contracted))
