"""Judges whether a kernel is right on this device: run on poisoned memory, twice, against float64 and XLA's own error."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.spec import Product
from pallas_conv.verify.check import hold_small, nans
from workloads import cases, configured

from . import products
from .runner import SKIPPED, Context, Program, Row, Source, Step

type Draw = Callable[[Context], Sequence[Any]]  # operands of a product

POISON_BYTES = 4e9  # of a GPU's memory, at most a quarter


def configured_step(kind: str, case: configured.Case, interpret: bool, **about: str) -> Step:
    """A step on a small product under its own configuration. about: goes into its row."""
    question = about.get("rung", "")
    ours = products.kernel(str(case), case.kernel, interpret, question)
    return _step(kind, str(case), case.product, ours, lambda _: case.operands(), (), about)


def correctness(case: cases.Case, direction: str, gpu: Gpu, interpret: bool) -> Step:
    """A step on a product of a layer, under the configuration that is chosen; what no kernel serves is said to be so."""
    name, product = f"{case.name}/{direction}", case.products()[direction]
    found = serve.find(product, gpu)
    if not isinstance(found, Kernel):
        return Step("correctness", name, lambda _: [{"status": "unsupported", "reasons": found}])
    drawn = products.operands(case, direction, on_cpu=True)

    def draw(context: Context) -> list[Any]:
        return case.as_product(direction, context.compiled(drawn).call(np.uint32(context.seed)))

    ours = products.kernel(name, found, interpret)
    return _step("correctness", name, product, ours, draw, (drawn,), {})


def _step(
    kind: str, name: str, product: Product, ours: Program, draw: Draw, drawn: tuple[Program, ...], about: Row
) -> Step:
    usual = products.usual(name, product)
    work = functools.partial(check, product=product, ours=ours, usual=usual, draw=draw, about=about)
    return Step(kind, name, work, (ours, usual, *drawn, *poisoning()))


def check(context: Context, product: Product, ours: Program, usual: Program, draw: Draw, about: Row) -> Iterator[Row]:
    """Run a kernel twice on the same operands, and judge what came out."""
    shapes = products.operands_of(product)
    operands = tuple(np.asarray(a).astype(s.dtype) for a, s in zip(draw(context), shapes, strict=True))
    launched = []  # on the device until both are there, so that the second is not given the memory of the first
    for _ in range(1 if context.dry else 2):
        yield from poison(context)
        launched.append(jax.block_until_ready(context.launch(ours, *operands, **about)))
        context.alive()
    results = [[np.asarray(y) for y in outputs] for outputs in launched]
    baseline = context.compiled(usual).call(*operands)
    held = hold_small(product, operands, results[0], baseline)
    same = all(np.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    yield {
        "status": "ok" if held.right and same else "wrong",
        "deterministic": same,
        "seed": context.seed,
        **dataclasses.asdict(held.worst),
        **about,
        **context.compiled(ours).about,
    }


# ------------------------------------------------------------ poison


def poison(context: Context) -> Iterator[Row]:
    """Fill free memory with NaN, so that an element the kernel does not write cannot be right by chance.

    Yields a row if that fails. It does not reach small free blocks, so no other program may make the same result before ours.
    """
    try:
        for program in poisoning():
            jax.block_until_ready(context.compiled(program).call())
    except Exception as error:
        yield {"status": f"{SKIPPED}not poisoned", "exception": f"{type(error).__name__}: {error}"[:300]}


def poisoning() -> tuple[Program, ...]:
    """The program that fills memory and lets go of it, of one size, so that it is compiled once; none without a GPU."""
    stats = jax.devices()[0].memory_stats() or {}
    size = int(min(POISON_BYTES, stats.get("bytes_limit", 0) / 4))
    return (Program(f"poison of {size} bytes", functools.partial(_poison, size), alone=False),) if size else ()


def _poison(size: int) -> Source:
    return Source(lambda: nans(size), ())
