"""Without a Hopper GPU: a few small kernels in Mosaic's interpreter, races included, every pixel against float64."""

import functools
import os
from typing import Any

import jax

from ..execution import execute
from ..kernels import support
from ..spec import ConvSpec, Product
from ..target import resolve
from ..verify.check import Held, drawing, hold_small
from . import text
from .check import equation


def small(role: str, stride: int = 1, up: int = 1, **fused: Any) -> Product:
    """A 3x3 convolution of bfloat16 that pads to keep its size, but for strides and up-sampling; ragged against every tile."""
    spec = ConvSpec((stride,) * 2, ((1, 1),) * 2, (up,) * 2, (1, 1), 1, (10, 7), (3, 3))
    return Product(role, spec, 1, 24, 40, "bfloat16", "bfloat16", **fused)


KERNELS = (
    small("fprop", bias=True, activation="relu"),
    small("fprop", bias=True, activation="silu", outputs=("y", "z")),
    small("fprop", bias=True, residual=True, activation="relu"),
    small("fprop", stride=2, bias=True),
    small("dgrad"),
    small("fprop", up=2, bias=True),
    small("dgrad", stride=2),
)


def run() -> int:
    """Print a line a kernel; 1 if anything was wrong or failed, else 0."""
    os.environ["PALLAS_CONV_DETECT_RACES"] = "1"
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"{'kernel':44} {text.COLUMNS}")
    right = [_told(kernel, seed) for kernel in KERNELS]
    print(f"\n{sum(right)} of {len(right)} kernels are right (random seed {seed})")
    return int(not all(right))


def _told(product: Product, seed: int) -> bool:
    print(f"{support.variant(product):44} ", end="", flush=True)
    try:
        found = check(product, seed)
    except Exception as error:
        print(text.failed(error), flush=True)
        return False
    print(text.held(found), flush=True)
    return found.right


def check(product: Product, seed: int) -> Held:
    operands = drawing(product)(seed)
    run = lambda name: jax.jit(functools.partial(execute, equation(product, (name,)), resolve("cpu")))(*operands)
    return hold_small(product, operands, run("interpret"), run("xla"))
