"""Do two versions of the kernels, or of JAX, tell the GPU the same? Digests of what a kernel compiles to, no GPU needed.

A hardware run proves the instructions that ran. Source that compiles to the same ones needs no other run: a refactoring, say,
or a release of JAX. The digest is of the kernel's PTX, and of the host's code beside it, which holds the shapes, strides and
boxes of the TMA descriptors; names, comments and debug lines are left out, and so is how the host describes an array to itself
(`without_descriptions`): an axis of one that TMA never sees. What XLA does around a kernel is not in it: the tests of the
interpreter run that on any machine.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator

from compiled import aot
from pallas_conv.equation import operands_of
from pallas_conv.kernels.gpu import HOPPER
from pallas_conv.kernels.serve import Kernel

TARGETS = {HOPPER: "h100"}  # generation -> a description in compiled/targets
_NAME = re.compile(r"pallas_conv_\w*?(?=_mosaic_gpu)")
_INSERTED = re.compile(r"^\s*(%\d+) = insertvalue (?:\{.*?\}|\[.*?\]) (\S+), \S+ (\S+), ([\d, ]+)$")
_EXTRACTED = re.compile(r"^\s*(%\d+) = extractvalue (?:\{.*?\}|\[.*?\]) (\S+), ([\d, ]+)$")
_CAST = re.compile(r"^\s*(%\d+) = (?:ptrtoint \S+ (\S+) to i64|inttoptr \S+ (\S+) to ptr)$")
_VALUE = re.compile(r"%\d+\b")
_DEFINED = re.compile(r"^\s*(%\d+) = ")
_DEBUG = re.compile(r"^\s*(//.*|\.(loc|file|section|version)\b.*|\$L__(tmp|func_\w+?)\d+:)$")


def digest(kernel: Kernel) -> str:
    """The digest of what a kernel compiles to, for a GPU of its generation."""
    return of_text(text(kernel))


def text(kernel: Kernel) -> str:
    """PTX and host code, before names and debug lines are left out."""
    return aot.instructions(TARGETS[kernel.gpu.generation], kernel.run, *operands_of(kernel.product))


def of_text(text: str) -> str:
    """The digest of PTX and host code, whatever the kernel's name and its source's lines."""
    lines = (line.rstrip() for line in _NAME.sub("kernel", text).splitlines())
    meant = "\n".join(without_descriptions(line for line in lines if line and not _DEBUG.match(line)))
    return hashlib.sha256(meant.encode()).hexdigest()[:16]


def without_descriptions(lines: Iterable[str]) -> Iterator[str]:
    """The lines of host code (LLVM IR) without those that only put values into descriptions of arrays, and take them out again.

    What is taken out is replaced by what was put in, and the values that are left are numbered anew.
    """
    values, fields, numbers = dict[str, str](), dict[str, dict[str, str]](), itertools.count()
    for line in lines:
        if line.startswith("define "):  # a function has values of its own
            values, fields, numbers = {}, {}, itertools.count()
        if (inserted := _INSERTED.match(line)) and inserted[2] in ("undef", "poison", *fields):
            name, into, value, place = inserted.groups()
            fields[name] = fields.get(into, {}) | {place: values.get(value, value)}
        elif (extracted := _EXTRACTED.match(line)) and extracted[3] in fields.get(extracted[2], {}):
            values[extracted[1]] = fields[extracted[2]][extracted[3]]
        elif cast := _CAST.match(line):
            values[cast[1]] = values.get(value := cast[2] or cast[3], value)
        else:
            if defined := _DEFINED.match(line):
                values[defined[1]] = f"%v{next(numbers)}"
            yield _VALUE.sub(functools.partial(_resolved, values, fields), line)


def _resolved(values: dict[str, str], fields: dict[str, dict[str, str]], name: re.Match[str]) -> str:
    """A value as it is numbered anew, or all that a description holds, if one is used as a whole."""
    return str(sorted(fields[name[0]].items())) if name[0] in fields else values.get(name[0], name[0])
