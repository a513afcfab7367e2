"""Do two versions of the kernels, or of JAX, tell the GPU the same? Digests of what a kernel compiles to, no GPU needed.

A hardware run proves the instructions that ran. Source that compiles to the same ones needs no other run: a refactoring, say,
or a release of JAX. The digest is of the kernel's PTX, and of the host's code beside it, which holds the shapes, strides and
boxes of the TMA descriptors; names, comments and debug lines are left out. What XLA does around a kernel is not in it: the
tests of the interpreter run that on any machine.
"""

import functools
import hashlib
import re

import jax

from compiled import aot
from pallas_conv.kernels.config import Config
from pallas_conv.kernels.launch import launch
from pallas_conv.spec import Product

TARGETS = {"9.0": "h100"}  # compute capability -> a description in compiled/targets
_NAME = re.compile(r"pallas_conv_\w*?(?=_mosaic_gpu)")
_DEBUG = re.compile(r"^\s*(//.*|\.(loc|file|section|version)\b.*|\$L__(tmp|func_\w+?)\d+:)$")


def digest(product: Product, config: Config, num_sms: int, capability: str = "9.0") -> str:
    """The digest of the kernel of a product under a configuration, compiled for a GPU of this compute capability."""
    return of_text(text(product, config, num_sms, capability))


def text(product: Product, config: Config, num_sms: int, capability: str = "9.0") -> str:
    """What the digest is of, before names and debug lines are left out."""
    dtypes = [product.compute_dtype] * (2 + product.bias) + [product.out_dtype] * product.residual
    args = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(product.operand_shapes, dtypes, strict=True)]
    run = functools.partial(launch, product, config, num_sms=num_sms)
    return aot.instructions(TARGETS[capability], run, *args)


def of_text(text: str) -> str:
    """The digest of PTX and host code, whatever the kernel's name and its source's lines."""
    lines = (line.rstrip() for line in _NAME.sub("kernel", text).splitlines())
    meant = "\n".join(line for line in lines if line and not _DEBUG.match(line))
    return hashlib.sha256(meant.encode()).hexdigest()[:16]
