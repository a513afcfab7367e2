"""Rows of pixels as Hankel matrices, and what warps do with them: a part of the seam to Mosaic, beside mma.py.

Of the pixels x of a row, of one channel, H[m, k] = x[m + k] is a Hankel matrix: equal along its antidiagonals. Multiplied by
the weights of a row of taps it sums over these, multiplied by a row of a cotangent it sums over pixels:

    y[m]   = sum_k x[m + k] w[k]          m: pixels    k: taps
    dw[m]  = sum_k x[m + k] ct[k]         m: taps      k: pixels

and eight rows of weights, or of cotangents, make that a product of matrices for tensor cores, of which nothing is in vain. Each
warp has a channel of its own.

`mma.sync` wants two neighbours along k in a register. So that they are words of shared memory, whole and aligned, a matrix of
sixteen m has the even ones above the odd ones. Lane 4 g + t then has, of m = 2 g, word g + t of the row; and of m = 2 g + 1 the
upper half of that and the lower half of the next, joined by a funnel shift. All matrices of a row are the same few words:

    word       0     1     2     3   ...              x0 x1 | x2 x3 | x4 x5 | x6 x7 | ...
    even, g=0  t=0   t=1   t=2   t=3                  odd:   x1 x2 | x3 x4 | x5 x6 | ...
    even, g=1        t=0   t=1   t=2 ...
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas.mosaic_gpu import Layout, RefType, ShapeDtypeStruct, inline_mgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, memref, vector

from ..mma import KINDS, ONE_A_LANE, element, fragment, instruction, like, sums_of, word
from .plan import BLOCK, LANES, ROWS, STEP, WARPS, words

SUMS = (WARPS * BLOCK, ROWS)  # the shape of an accumulator: for each warp 16 m, even ones first
EVEN_FIRST = [*range(0, BLOCK, 2), *range(1, BLOCK, 2)]


class Lane(NamedTuple):
    """A thread's place: its warp of the warpgroup, and its g and t, as above. All of them are MLIR's indices."""

    warp: Any
    g: Any
    t: Any

    @classmethod
    def here(cls) -> "Lane":
        index = ir.IndexType.get()
        thread = arith.index_cast(index, utils.thread_idx())
        c = lambda n: utils.c(n, index)
        lane = arith.remui(thread, c(LANES))
        return cls(
            arith.remui(arith.divui(thread, c(LANES)), c(WARPS)), arith.divui(lane, c(4)), arith.remui(lane, c(4))
        )


def multiply_row(
    sums: Sequence[Array], pixels: Any, rows: Sequence[Any], blocks: int, steps: int, *, interpret: bool
) -> list[Array]:
    """The sums, plus the Hankel matrices of a row of pixels times some groups of eight rows.

    sums    [64, 8] float32, of every group and block: 16 m of four warps, and the group's rows
    pixels  [4, >= 16 (blocks + steps)], of a channel for each warp, in shared memory
    rows    [4, 8, >= 16 steps] of every group, likewise
    """
    if interpret:
        return [a + b for a, b in zip(sums, _by_definition(pixels, rows, blocks, steps), strict=True)]
    layout, kind = Layout.WGMMA, KINDS[jnp.dtype(pixels.dtype).name]
    shape = ShapeDtypeStruct(SUMS, jnp.float32, layout=layout)

    @inline_mgpu(arg_types=([layout] * len(sums), RefType(), [RefType()] * len(rows)), return_type=[shape] * len(sums))
    def multiplied(_: Any, sums: list[Any], pixels: Any, rows: list[Any]) -> list[Any]:
        lane, found = Lane.here(), [sums_of(a) for a in sums]
        even, odd = _words(lane, pixels, words(blocks, steps))
        for step in range(steps):
            for group, ref in enumerate(rows):
                right = [_pair(ref, [lane.warp, lane.g], lane.t, STEP * step + 8 * i) for i in range(2)]
                for block in range(blocks):
                    left = [of_row[2 * (block + step) + i] for i in range(2) for of_row in (even, odd)]
                    place = group * blocks + block
                    found[place] = instruction(found[place], left, right, kind)
        return [like(a, b) for a, b in zip(sums, found, strict=True)]

    result: list[Array] = multiplied(list(sums), pixels, list(rows))
    return result


def _by_definition(pixels: Any, rows: Sequence[Any], blocks: int, steps: int) -> list[Array]:
    x, k = pixels[...].astype(jnp.float32), STEP * steps
    found = []
    for ref in rows:
        right = ref[...][:, :, :k].astype(jnp.float32)
        for block in range(blocks):
            hankel = jnp.stack([x[:, BLOCK * block + m : BLOCK * block + m + k] for m in EVEN_FIRST], axis=1)
            found.append(jnp.einsum("cmk,cnk->cmn", hankel, right).reshape(SUMS))
    return found


def _words(lane: Lane, pixels: Any, count: int) -> tuple[list[Any], list[Any]]:
    """A lane's words of a row: of even m, and of odd ones."""
    s, sixteen = arith.addi(lane.g, lane.t), utils.c(16, ir.IntegerType.get_signless(32))
    even, after = ([_pair(pixels, [lane.warp], s, 8 * q + 2 * n) for q in range(count)] for n in range(2))
    return even, [llvm.intr_fshr(high, low, sixteen) for low, high in zip(even, after, strict=True)]


def _pair(ref: Any, at: list[Any], word_: Any, further: int) -> Any:
    """Load the two elements of a word of a row, so many elements further."""
    index = ir.IndexType.get()
    column = arith.addi(arith.muli(word_, utils.c(2, index)), utils.c(further, index))
    pair = ir.VectorType.get((2,), ir.MemRefType(ref.type).element_type)
    return word(vector.load(pair, ref, [*at, column], alignment=4))


def transpose(pixels: Any, to: Any, added: Array | None, *, interpret: bool) -> Array | None:
    """Copy eight rows of pixels in shared memory, [8, columns, 8 channels], to [8 channels, 8, >= columns].

    added: float32 [4, 32], as `mma.ONE_A_LANE`, or None. It is returned with all pixels added to it: lane 4 g + t of a warp has
    some of those of channel g.
    """
    columns = pixels.shape[1]
    if interpret:
        value = pixels[...]
        to.at[:, :, :columns][...] = jnp.transpose(value, (2, 0, 1))
        if added is None:
            return None
        lane_sums = jnp.zeros((WARPS, 8, 4), jnp.float32).at[0, :, 0].set(value.astype(jnp.float32).sum((0, 1)))
        return added + lane_sums.reshape(WARPS, LANES)
    shape = ShapeDtypeStruct((WARPS, LANES), jnp.float32, layout=ONE_A_LANE)
    sums = [] if added is None else [added]

    @inline_mgpu(arg_types=(RefType(), RefType(), [ONE_A_LANE] * len(sums)), return_type=[shape] * len(sums))
    def transposed(_: Any, pixels: Any, to: Any, sums: list[Any]) -> list[Any]:
        lane, index = Lane.here(), ir.IndexType.get()
        c = lambda n: utils.c(n, index)
        pair, number = ir.VectorType.get((2,), ir.MemRefType(pixels.type).element_type), ir.F32Type.get()
        one = ir.VectorType.get((1,), number)
        total = [a.registers.item() for a in sums]
        for i in range(8 // WARPS):
            row = arith.addi(arith.muli(lane.warp, c(8 // WARPS)), c(i))
            for first in range(0, columns, 8):
                column = arith.addi(arith.muli(lane.t, c(2)), c(first))
                two = [memref.load(pixels, [row, arith.addi(column, c(n)), lane.g]) for n in range(2)]
                vector.store(vector.from_elements(pair, two), to, [lane.g, row, column], alignment=4)
                for value in two:
                    total = [arith.addf(a, vector.from_elements(one, [arith.extf(number, value)])) for a in total]
        return [fragment([a], (WARPS, LANES), ONE_A_LANE.to_mgpu()) for a in total]

    result: list[Array] = transposed(pixels, to, sums)
    return result[0] if result else None


def interleave(results: Array, to: Any, *, interpret: bool) -> None:
    """Store results [64, 8], of even pixels above odd ones, to shared memory [4 channels, 8 rows, 16 pixels]."""
    if interpret:
        both = results.reshape(WARPS, 2, BLOCK // 2, ROWS)
        to[...] = jnp.transpose(both, (0, 3, 2, 1)).reshape(WARPS, ROWS, BLOCK)
        return

    @inline_mgpu(arg_types=(Layout.WGMMA, RefType()))
    def interleaved(_: Any, results: Any, to: Any) -> None:
        lane, index = Lane.here(), ir.IndexType.get()
        c = lambda n: utils.c(n, index)
        pair = ir.VectorType.get((2,), ir.MemRefType(to.type).element_type)
        pixel = arith.muli(lane.g, c(2))
        for n in range(2):
            row = arith.addi(arith.muli(lane.t, c(2)), c(n))
            even_odd = [element(register, n) for register in results.registers.flat]
            vector.store(vector.from_elements(pair, even_odd), to, [lane.warp, row, pixel], alignment=_bytes(pair))

    interleaved(results, to)


def merge(channels: Any, to: Any, *, interpret: bool) -> None:
    """Copy [8 channels, 4, >= columns] in shared memory to [4 rows, columns, 8 channels]: results as TMA stores them."""
    columns = to.shape[1]
    if interpret:
        to[...] = jnp.transpose(channels[...][:, :, :columns], (1, 2, 0))
        return

    @inline_mgpu(arg_types=(RefType(), RefType()))
    def merged(_: Any, channels: Any, to: Any) -> None:
        lane, index = Lane.here(), ir.IndexType.get()
        c = lambda n: utils.c(n, index)
        pair = ir.VectorType.get((2,), ir.MemRefType(to.type).element_type)
        channel = arith.muli(lane.t, c(2))
        for first in range(0, columns, 16):
            pixel = arith.addi(arith.muli(lane.g, c(2)), c(first))
            two = [
                vector.load(pair, channels, [arith.addi(channel, c(n)), lane.warp, pixel], alignment=_bytes(pair))
                for n in range(2)
            ]
            for n in range(2):
                both = vector.from_elements(pair, [element(of_channel, n) for of_channel in two])
                vector.store(both, to, [lane.warp, arith.addi(pixel, c(n)), channel], alignment=_bytes(pair))

    merged(channels, to)


def _bytes(pair: Any) -> int:
    """Bytes of two numbers."""
    return 2 * pair.element_type.width // 8


def clear(ref: Any, *, interpret: bool) -> None:
    """Store zeros to shared memory [8, rows, columns], columns in eights."""
    if interpret:
        ref[...] = jnp.zeros(ref.shape, ref.dtype)
        return

    @inline_mgpu(arg_types=(RefType(),))
    def cleared(_: Any, ref: Any) -> None:
        kind, index = ir.MemRefType(ref.type), ir.IndexType.get()
        channels, rows, columns = kind.shape
        eight = ir.VectorType.get((8,), kind.element_type)
        zeros = vector.broadcast(eight, utils.c(0.0, kind.element_type))
        c = lambda n: utils.c(n, index)
        per_row, thread = columns // 8, arith.remui(arith.index_cast(index, utils.thread_idx()), c(128))
        total = channels * rows * per_row
        for first in range(0, total, 128):
            i = arith.addi(thread, c(first))
            if first + 128 > total:  # where none is left, a thread clears its own first ones again
                i = arith.select(arith.cmpi(arith.CmpIPredicate.ult, i, c(total)), i, thread)
            at = arith.divui(i, c(per_row))
            column = arith.muli(arith.remui(i, c(per_row)), c(8))
            vector.store(zeros, ref, [arith.divui(at, c(rows)), arith.remui(at, c(rows)), column], alignment=16)

    cleared(ref)
