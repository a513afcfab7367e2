"""Checks without a Hopper GPU: a few small kernels in Mosaic's interpreter, races included, every pixel against float64."""

import functools
import os

import jax

from ..equation import Equation
from ..kernels import families, serve
from ..lowering.execution import execute
from ..spec import Product
from ..target import resolve
from ..verify.check import Held, drawing, hold_small
from . import text


def run() -> int:
    """Check the kernels, with a line for each. 1 if anything was wrong or failed, else 0."""
    os.environ["PALLAS_CONV_DETECT_RACES"] = "1"
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"{'kernel':44} {text.COLUMNS}")
    right = [_told(product, seed) for family in families.FAMILIES for product in family.samples]
    print(f"\n{sum(right)} of {len(right)} kernels are right (random seed {seed})")
    return int(not all(right))


def _told(product: Product, seed: int) -> bool:
    print(f"{serve.kernel(product).variant:44} ", end="", flush=True)
    try:
        found = check(product, seed)
    except Exception as error:
        print(text.failed(error), flush=True)
        return False
    print(text.held(found), flush=True)
    return found.right


def check(product: Product, seed: int) -> Held:
    operands = drawing(product)(seed)
    run = lambda name: jax.jit(functools.partial(execute, Equation.of(product, (name,)), resolve("cpu")))(*operands)
    return hold_small(product, operands, run("interpret"), run("xla"))
