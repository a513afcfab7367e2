"""Check one product at full size: draw its operands on the device, hold a result against float64 and another program's.

For doctor and the benchmarks on a GPU, where programs for every shape are compiled anew: they are small ones.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..kernels import families
from ..spec import Product
from .verdict import Verdict, agree, judge, judge_at, some_places

BLOCK = 2**24 - 3  # normal numbers that operands are cut from; a prime, so that no two images are alike


@functools.cache
def _block() -> jax.Array:
    """BLOCK normal numbers on the default device. Drawing every operand by itself would compile for two seconds each."""
    return jax.jit(lambda: jax.random.normal(jax.random.key(0, impl="rbg"), (BLOCK,), "float32"))()


def drawing(product: Product) -> Callable[[int], tuple[jax.Array, ...]]:
    """Compile, now, what draws operands for a seed: normal ones, scaled so that sums are of order one."""
    scales, shapes = standard_deviations(product), product.operand_shapes

    def cut(block: jax.Array, starts: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(
            (_cut(block, starts[i], shape) * np.float32(scales[i])).astype(product.compute_dtype)
            for i, shape in enumerate(shapes)
        )

    program = jax.jit(cut).lower(_block(), jax.ShapeDtypeStruct((len(shapes),), "uint32")).compile()
    starts = lambda seed: np.random.default_rng(seed).integers(BLOCK, size=len(shapes), dtype=np.uint32)
    return lambda seed: program(_block(), jnp.asarray(starts(seed)))


def standard_deviations(product: Product) -> tuple[float, ...]:
    """Standard deviations of operands: of weights, and of a cotangent that is summed over pixels, for sums of order one."""
    size, pixels = families.size(product), product.batch * math.prod(product.spec.out_spatial)
    ct = 1.0 if product.role == "dgrad" else 1 / math.sqrt(pixels)
    w = 1 / math.sqrt(size.summed * size.taps) / (ct if product.role == "bwd" else 1.0)
    return tuple({"w": w, "ct": ct}.get(name, 1.0) for name in product.operands)


def _cut(block: jax.Array, start: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """An array of this shape, filled with the numbers of the block from `start` on, and around again."""
    count = jax.lax.iota("uint32", math.prod(shape))
    return block[(count % np.uint32(BLOCK) + start) % np.uint32(BLOCK)].reshape(shape)


@functools.cache
def poisoning(*sizes: int) -> Callable[[], None]:
    """Compile, now, what fills a block of memory of each size, in bytes, with NaN, and lets go of all of them.

    The next arrays of these sizes take their place: what a kernel leaves out of its result is then no number.
    """
    program = jax.jit(lambda: [nans(nbytes) for nbytes in sizes]).lower().compile()
    return lambda: jax.block_until_ready(program()).clear()


def nans(nbytes: int) -> jax.Array:
    """An array of so many bytes that is NaN to whoever reads it as float32, float16 or bfloat16."""
    return jnp.full(-(-nbytes // 4), 0x7FFF7FFF, "uint32")


@dataclasses.dataclass(frozen=True)
class Held:
    """The outcome of a comparison: some places of each output against float64, all of them against another program's."""

    verdicts: tuple[Verdict, ...]
    agreements: tuple[tuple[bool, float], ...]

    @property
    def right(self) -> bool:
        return all(v.right for v in self.verdicts) and all(agreed for agreed, _ in self.agreements)

    @property
    def worst(self) -> Verdict:
        """The verdict on the output that is nearest to its bound, or furthest beyond."""
        return max(self.verdicts, key=lambda v: (not v.right, v.error / (v.bound or 1)))


def hold(product: Product, operands: tuple[Any, ...], got: Sequence[Any], baseline: Sequence[Any], seed: int) -> Held:
    """Hold all outputs of a product against float64 at some places, and coarsely against a baseline everywhere."""
    outputs = list(_outputs(product, got, baseline))
    return Held(
        tuple(judge_at(one, some_places(one, seed), operands, ours, other) for one, ours, other in outputs),
        tuple(agree(ours, other, product.compute_dtype) for _, ours, other in outputs),
    )


def hold_small(product: Product, operands: tuple[Any, ...], got: Sequence[Any], baseline: Sequence[Any]) -> Held:
    """`hold`, where float64 is fast enough for everything."""
    return Held(
        tuple(judge(one, operands, ours, other) for one, ours, other in _outputs(product, got, baseline)), ()
    )  # fmt: skip


def _outputs(product: Product, got: Sequence[Any], baseline: Sequence[Any]) -> Iterator[tuple[Product, Any, Any]]:
    """The product of each output by itself, and what was made of it."""
    for name, ours, other in zip(product.outputs, got, baseline, strict=True):
        yield dataclasses.replace(product, outputs=(name,)), ours, other


def lost() -> Exception | None:
    """The error of the default device if it no longer does anything, since a kernel took its context down. Else None."""
    try:
        jax.block_until_ready(jax.device_put(0.0) + 1)
    except Exception as error:
        return error
    return None
