"""One check on the GPU: the kernel at the product's own size against float64 and against the lax program, then both timed."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..dispatch import record
from ..equation import Equation, operands_of
from ..lowering.execution import execute
from ..spec import Product
from ..target import Target
from ..verify import timing
from ..verify.check import Held, drawing, hold, poisoning
from .plan import NO_KERNELS, Check

Program = Callable[..., Any]


class Ahead(NamedTuple):
    """The programs that a thread compiles before the check's turn. Compiling them needs no GPU.

    poison: fills memory for each of the kernel's outputs with NaN, see `poisoning`.
    """

    kernel: Program
    poison: Callable[[], None]
    draw: Callable[[int], tuple[jax.Array, ...]]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of a check. timing: None if the result is wrong, or if there were no times of the device itself."""

    held: Held
    timing: record.Timing | None = None
    no_device_times: bool = False


def compile_ahead(check: Check) -> Ahead:
    kernel = _compiled(check.kernel.run, check.product)
    sizes = [out.size * out.dtype.itemsize for out in kernel.out_info]
    return Ahead(kernel, poisoning(*sizes), drawing(check.product))


def lax_program(check: Check, target: Target) -> Program:
    """The program that `auto` runs where the kernel is not trusted, compiled. XLA times alternatives on the GPU meanwhile."""
    equation = Equation.of(check.product, ("auto",), NO_KERNELS, check.beside_kernels)
    return _compiled(functools.partial(execute, equation, target), check.product)


def _compiled(f: Program, product: Product) -> jax.stages.Compiled:
    return jax.jit(f).lower(*operands_of(product)).compile()


def examine(check: Check, ahead: Ahead, lax: Program, seed: int) -> Finding:
    """Run both programs on the same operands, compare, and time them if the kernel is right.

    The kernel runs first. Memory then holds no right result yet, which a kernel that writes nothing would leave to be found.
    """
    operands = ahead.draw(seed)
    ahead.poison()
    got = ahead.kernel(*operands)
    held = hold(check.product, operands, got, lax(*operands), seed)
    if not held.right:
        return Finding(held)
    nbytes = sum(a.nbytes for a in operands)
    sets = [operands, *(ahead.draw(seed + i) for i in range(1, timing.copies(nbytes)))]
    times = timing.measure({"kernel": ahead.kernel, "lax": lax}, sets)
    kernel, other = times["kernel"], times["lax"]
    if {kernel.source, other.source} != {"cupti"}:
        return Finding(held, no_device_times=True)
    facts = check.facts
    return Finding(held, record.Timing(facts.series, facts.size, kernel.ms * 1e3, other.ms * 1e3, check.rival))
