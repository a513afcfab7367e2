"""Reads the launch and the tensor maps from the host's code, which Mosaic dumps as LLVM.

It is straight-line code that calls two functions of Mosaic's runtime with constants, or with pointers to what it has stored
before: mosaic_gpu_init_tma_desc, which calls cuTensorMapEncodeTiled, and mosaic_gpu_launch_kernel, since JAX 0.12
mosaic_gpu_build_kernel_spec. To interpret it is simpler than to match its text, which LLVM's optimiser arranges.
"""

import dataclasses
import re
from typing import Any

from .faults import Unsupported
from .launch import Dim3, Launch
from .tensor_map import TensorMap

MAIN = re.compile(r"define (?:i32|void) @(?!_mlir)[\w.]+\(ptr %0, (?:ptr %1, )?ptr (%\d)\) \{\n(.*?)\n\}", re.S)
ATTRIBUTES = re.compile(r"\b(inbounds|nuw|nsw|exact|nusw)\b ?")
INIT_TMA_DESC = "@mosaic_gpu_init_tma_desc"
LAUNCH = re.compile("@mosaic_gpu_(launch_kernel|build_kernel_spec)")
BYTES = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "ptr": 8, "half": 2, "bfloat": 2, "float": 4, "double": 8}
ARGUMENTS = "arguments"  # the array of buffers that the host's function is called with


@dataclasses.dataclass(frozen=True)
class Pointer:
    """A pointer into a buffer (its index), a local variable (its name), or `ARGUMENTS`."""

    base: int | str
    offset: int = 0


def read_launch(text: str) -> Launch:
    main = MAIN.search(text)
    if main is None:
        raise Unsupported("the host's code has no function of the shape that Mosaic's has")
    host = _Host(main[1])
    for line in main[2].splitlines():
        host.execute(ATTRIBUTES.sub("", line.strip()))
    if host.launched is None:
        raise Unsupported("the host's code launches nothing")
    grid, cluster, block = (_dim3(host.launched[i : i + 3]) for i in (1, 4, 7))
    params: list[int | None] = []
    slots = host.launched[13].base
    while (slot := Pointer(slots, 8 * len(params))) in host.memory:
        content = host.memory.get(host.memory[slot])
        params.append(content.base if isinstance(content, Pointer) and isinstance(content.base, int) else None)
    return Launch(grid, cluster, block, host.launched[10], tuple(params), host.maps)


def _dim3(sizes: list[int]) -> Dim3:
    x, y, z = (size or 1 for size in sizes)  # no cluster is one of zero blocks
    return x, y, z


def _groups(pattern: str, text: str) -> tuple[str, ...]:
    if (match := re.search(pattern, text)) is None:
        raise Unsupported(text)
    return match.groups()


class _Host:
    def __init__(self, arguments: str):
        self.values: dict[str, Any] = {"%0": "stream", "%1": "module", arguments: Pointer(ARGUMENTS)}
        self.memory: dict[Pointer, Any] = {}
        self.maps: dict[int, TensorMap] = {}
        self.launched: list[Any] | None = None

    def execute(self, line: str) -> None:
        name, _, rest = line.partition(" = ") if line.startswith("%") else ("", "", line)
        op, _, rest = rest.partition(" ")
        if op == "ret":
            return
        execute = getattr(self, f"_{op}", None)
        if execute is None:
            raise Unsupported(line)
        value = execute(name, rest)
        if name:
            self.values[name] = value

    def _value(self, token: str) -> Any:
        token = token.strip().split()[-1]
        if token in ("undef", "poison"):
            return {}
        return self.values[token] if token[0] == "%" else int(token)

    def _load(self, name: str, rest: str) -> Any:
        at = self._value(rest.split(",")[1])
        if at.base == ARGUMENTS:
            return Pointer(at.offset // 8)  # a buffer
        return at if rest.startswith("[") else self.memory[at]  # an aggregate stays where it is

    def _store(self, name: str, rest: str) -> None:
        value, at = _groups(r"^(.*), (ptr %\d+), align", rest)
        self.memory[self._value(at)] = self._value(value)

    def _alloca(self, name: str, rest: str) -> Pointer:
        return Pointer(name)

    def _getelementptr(self, name: str, rest: str) -> Pointer:
        if m := re.match(r"\{ .* \}, ptr (%\d+), i32 0, i32 (\d+)", rest):
            return Pointer(f"{m[1]}.{m[2]}")
        kind, pointer, index = rest.split(", ")
        base = self._value(pointer)
        return Pointer(base.base, base.offset + BYTES[kind] * self._value(index))

    def _insertvalue(self, name: str, rest: str) -> dict:
        aggregate, value, path = _groups(r"^\{.*?\} (\S+), \S+ (\S+), (.*)", rest)
        return {**self._value(aggregate), path.replace(" ", ""): self._value(value)}

    def _extractvalue(self, name: str, rest: str) -> Any:
        aggregate, path = _groups(r"^\{.*?\} (\S+), (.*)", rest)
        return self._value(aggregate)[path.replace(" ", "")]

    def _ptrtoint(self, name: str, rest: str) -> Any:
        return self._value(rest.split(" to ")[0])

    _inttoptr = _ptrtoint

    def _add(self, name: str, rest: str) -> Any:
        a, b = map(self._value, rest.split(","))
        return dataclasses.replace(a, offset=a.offset + b) if isinstance(a, Pointer) else a + b

    def _sub(self, name: str, rest: str) -> int:
        a, b = map(self._value, rest.split(","))
        return a - b

    def _mul(self, name: str, rest: str) -> int:
        a, b = map(self._value, rest.split(","))
        return a * b

    def _call(self, name: str, rest: str) -> None:
        (listed,) = _groups(r"\((.*)\)", rest)
        arguments = [self._value(argument) for argument in listed.split(",")]
        if INIT_TMA_DESC in rest:
            at, base, element, rank, sizes, strides, swizzle, box = arguments
            array = lambda pointer: [self.memory[Pointer(pointer.base, pointer.offset + 8 * i)] for i in range(rank)]
            made = TensorMap.of_mosaic(
                base.base, base.offset, element, array(sizes), array(strides), array(box), swizzle
            )
            self.maps[at.offset] = made
        elif LAUNCH.search(rest):
            self.launched = arguments
        else:
            raise Unsupported(rest)
