"""Do two versions of the kernels, or of JAX, tell the GPU the same? Digests of what a kernel compiles to, no GPU needed.

A hardware run proves the instructions that ran. Source that compiles to the same ones needs no other run: a refactoring, say,
or a release of JAX. The digest is of the kernel's PTX, and of the host's code beside it, which holds the shapes, strides and
boxes of the TMA descriptors; names, comments and debug lines are left out. What XLA does around a kernel is not in it: the
tests of the interpreter run that on any machine.
"""

import hashlib
import re

from compiled import aot
from pallas_conv.equation import operands_of
from pallas_conv.kernels.gpu import HOPPER
from pallas_conv.kernels.serve import Kernel

TARGETS = {HOPPER: "h100"}  # generation -> a description in compiled/targets
_NAME = re.compile(r"pallas_conv_\w*?(?=_mosaic_gpu)")
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
    meant = "\n".join(line for line in lines if line and not _DEBUG.match(line))
    return hashlib.sha256(meant.encode()).hexdigest()[:16]
