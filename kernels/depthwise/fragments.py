"""Fragments: 16 pixels of 32 channels in the registers of a warpgroup, and what multiplies them, group by group.

`TensorCores`, for 16-bit operands: each warp has 8 of the channels. For sums over taps its weights of a tap are an 8x8 matrix
with them on its diagonal, and one `mma.sync` multiplies 16 pixels by two taps, and sums in float32:

                                                            w0  .  .  ...
    y [16 pixels, 8]  +=  [16 pixels of tap 0 | of tap 1] @  .  w0  .  ...     w0, w1: of each channel its own
                                                            ...
                                                            w1  .  .  ...
                                                             .  w1  .  ...

XLA makes these matrices, a kernel only loads them. For sums over pixels, one instruction multiplies the pixels of two taps by
their partner, the cotangent. Of the result's two 8x8 matrices the diagonals are wanted, or blocks on them, which are the
gradients of both taps; what lies beside them is products of different groups:

    dw [8 of tap 0, 8 of tap 1;  8]  +=  [16 pixels of tap 0, 16 pixels of tap 1]^T @  ct [16 pixels, 8]

Seven eighths of its products are with zeros, or in vain. Yet it takes a sixth to an eighth of the instructions that
multiply-adds in float32 would: of those, one for each element of a lane and each tap, and more to convert the operands.

Of groups of two, four or eight channels, to which zeros fill others up (operands.py), the matrices have blocks of as many on
their diagonals, and less is in vain: of eight channels, nothing. That takes no more instructions, and no more registers.

`MultiplyAdds`, for float32: each warp has 4 of the pixels, each lane a channel of the result. A lane loads its pixels once for
each channel of its group. Sums over pixels stay apart for each warp.

An infinite or NaN pixel makes NaN of all 8 channels of a warp in sums over taps: infinity times zero is NaN.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..mma import ONE_A_LANE, diagonal, mma, mma_transposed, multiply_add_rows, warp_barrier, windows
from .plan import CHANNELS, LANES, PIXELS, Problem

# A line of pixels in shared memory: given the first pixel and how many, that part of it, of 32 channels.
type Line = Callable[[int, int], Any]
# Pixels, weights or sums of 32 channels, in registers: an array, and in float32 a tuple of one for each channel of a group.
type Fragment = Any


class Engine(Protocol):
    """A way to multiply fragments.

    layout    which thread holds which element of one
    together  neighbouring taps of a row that are multiplied at once, in sums over pixels
    at_once   accumulators of a line of pixels whose fragments are best loaded at once, for sums over pixels
    """

    layout: Any
    together: int
    at_once: int

    def weights(self, ref: Any, tap: int, channels: Any) -> Fragment:
        """Load the weights of a tap for 32 channels of the result, from global memory as `operands.Views.weights` has them."""

    def multiply(self, acc: Array, xs: Sequence[Fragment], ws: Sequence[Fragment]) -> Array:
        """acc + x0 * w0 + x1 * w1 + ..., summed over the channels of a group."""

    def load(self, line: Line, starts: Sequence[int]) -> list[Fragment]:
        """Load the fragments of a line that begin at these pixels, for sums over taps."""

    def load_summed(self, line: Line, starts: Sequence[int]) -> list[Fragment]:
        """The same for sums over pixels."""

    def load_both(self, line: Line, starts: Sequence[int]) -> list[tuple[Fragment, Fragment]]:
        """The same for sums over taps, and for sums over pixels."""

    def load_partner(self, line: Line, starts: Sequence[int]) -> list[Array]:
        """The same for what pixels are multiplied with in sums over pixels, or for sums of them alone."""

    def ones(self) -> Fragment:
        """A fragment of ones in the place of pixels: times the cotangent, it sums the cotangent."""

    def no_pixels(self) -> Fragment:
        """The sums of an accumulator of taps before any pixel."""

    def no_ones(self) -> Fragment:
        """The sums of the cotangent, the bias gradient's, before any pixel."""

    def sum_pixels(self, acc: Fragment, xs: Sequence[Fragment], partner: Array) -> Fragment:
        """The accumulator, plus the sums over pixels of x0 * partner, x1 * partner, ..., of as many taps as it has, or fewer.

        Each for every channel of the partner, and all of its group in x.
        """

    def add_pixels(self, acc: Fragment, values: Array) -> Fragment:
        """The accumulator of a bias gradient, plus float32 values of 16 pixels, as `layout` has them."""

    def hold_back(self) -> None:
        """Keep loads that follow from being moved to before this."""

    def of_pixels(self, acc: Fragment) -> Array:
        """The sums in such an accumulator: [32], or [4, 32], those of each warp."""

    def of_taps(self, acc: Fragment, count: int) -> list[list[Array]]:
        """The sums of an accumulator's first taps, for each channel of a group: [32], or [4, 32], those of each warp."""


class TensorCores:
    """See above. The interpreter has no mma.sync: there, its definition takes its place."""

    # Lane 4 g + t of a warp has pixels g and g + 8 of the warp's channels 2 t and 2 t + 1.
    layout = mgpu.Layout.MMA_ACC(jnp.bfloat16, m_warps=1)
    # Lane 4 g + t of a warp has, of the warp's matrix, the weights from channels 2 t and 2 t + 1 to channel g.
    matrices = mgpu.tiled_layout((CHANNELS, LANES), (LANES, LANES), (-3, -2), 2)
    # Lane 4 g + t of a warp has, of its channel g, pixels 2 t, 2 t + 1, 2 t + 8 and 2 t + 9.
    transposed = mgpu.tiled_layout((CHANNELS, PIXELS), (LANES, LANES), (-3, -2), 2)
    together, at_once = 2, 1

    def __init__(self, dtype: Any, interpret: bool):
        self.dtype, self.interpret = dtype, interpret

    def weights(self, ref: Any, tap: int, channels: Any) -> Array:
        matrices: Array = mgpu.load(ref.at[tap, channels], layout=self.matrices, optimized=False)
        return matrices

    def multiply(self, acc: Array, xs: Sequence[Array], ws: Sequence[Array]) -> Array:
        if self.interpret:
            return acc + sum(_by_definition(x, w) for x, w in zip(xs, ws, strict=True))
        return mma(acc, xs, ws, (self.layout, self.layout, self.matrices))

    def load(self, line: Line, starts: Sequence[int]) -> list[Array]:
        return [pixels(self, line(start, PIXELS)) for start in starts]

    def load_summed(self, line: Line, starts: Sequence[int]) -> list[Array]:
        return [mgpu.load(line(start, PIXELS).T, layout=self.transposed, optimized=False) for start in starts]

    def load_both(self, line: Line, starts: Sequence[int]) -> list[tuple[Array, Array]]:
        return list(zip(self.load(line, starts), self.load_summed(line, starts), strict=True))

    load_partner = load_summed

    def ones(self) -> Array:
        ones: Array = mgpu.layout_cast(jnp.ones((CHANNELS, PIXELS), self.dtype), self.transposed)
        return ones

    def no_pixels(self) -> Array:
        return zeros(self)

    no_ones = no_pixels

    def sum_pixels(self, acc: Array, xs: Sequence[Array], partner: Array) -> Array:
        if self.interpret:
            return acc + _transposed_by_definition(xs, partner)
        return mma_transposed(acc, xs, partner, (self.layout, self.transposed))

    def add_pixels(self, acc: Array, values: Array) -> Array:
        return acc + values

    def hold_back(self) -> None:
        if not self.interpret:
            warp_barrier()

    def of_pixels(self, acc: Array) -> Array:
        return jnp.sum(acc, axis=0)

    def of_taps(self, acc: Array, count: int) -> list[list[Array]]:
        return [[diagonal(acc, i * LANES, self.layout)] for i in range(count)]


def _by_definition(x: Array, w: Array) -> Array:
    """[16, 32] times the matrices [32, 8] of four warps."""
    x = x.astype(jnp.float32).reshape(PIXELS, -1, LANES)
    w = w.astype(jnp.float32).reshape(-1, LANES, LANES)
    return jnp.einsum("pwi,woi->pwo", x, w).reshape(PIXELS, CHANNELS)


def _transposed_by_definition(xs: Sequence[Array], partner: Array) -> Array:
    """[32, 16] of up to two taps times [32, 16], of four warps: [2 * 8, 32], zeros where there is no second tap."""
    of_warps = lambda a: a.astype(jnp.float32).reshape(-1, LANES, PIXELS)
    found = [jnp.einsum("wip,wop->iwo", of_warps(x), of_warps(partner)).reshape(LANES, CHANNELS) for x in xs]
    return jnp.concatenate([*found, *[jnp.zeros_like(found[0])] * (2 - len(found))])


class MultiplyAdds:
    """See above."""

    # Lane l of warp w has channel l of pixels 4 w to 4 w + 3.
    layout = mgpu.tiled_layout((PIXELS, CHANNELS), (PIXELS // 4, CHANNELS), (-2,), 1)
    together = 1

    def __init__(self, group: int, at_once: int, interpret: bool):
        self.group, self.at_once, self.interpret = group, at_once, interpret

    def weights(self, ref: Any, tap: int, channels: Any) -> tuple[Array, ...]:
        return tuple(per_channel(self, ref.at[tap, i, channels]) for i in range(self.group))

    def multiply(self, acc: Array, xs: Sequence[tuple[Array, ...]], ws: Sequence[tuple[Array, ...]]) -> Array:
        for x, w in zip(itertools.chain(*xs), itertools.chain(*ws), strict=True):
            acc = acc + x * w
        return acc

    def load(self, line: Line, starts: Sequence[int]) -> list[tuple[Array, ...]]:
        return list(zip(*(self._load(line, starts, i) for i in range(self.group)), strict=True))

    load_summed = load

    def _load(self, line: Line, starts: Sequence[int], i: int) -> list[Array]:
        """Load fragments, of the i-th channel of a group for all of the group's lanes."""
        if self.interpret:
            of_groups = lambda x: jnp.repeat(x[:, i :: self.group], self.group, axis=1)
            return [of_groups(pixels(self, line(start, PIXELS))) for start in starts]
        first = min(starts)
        ref = line(first, max(starts) - first + PIXELS)
        return windows(ref, [start - first for start in starts], (i, self.group), self.layout)

    def load_both(self, line: Line, starts: Sequence[int]) -> list[tuple[Fragment, Fragment]]:
        return [(loaded, loaded) for loaded in self.load(line, starts)]

    def load_partner(self, line: Line, starts: Sequence[int]) -> list[Array]:
        return [pixels(self, line(start, PIXELS)) for start in starts]

    def ones(self) -> tuple[Array, ...]:
        return (mgpu.layout_cast(jnp.ones((PIXELS, CHANNELS), jnp.float32), self.layout),)

    def no_pixels(self) -> tuple[Array, ...]:
        return self.no_ones() * self.group

    def no_ones(self) -> tuple[Array, ...]:
        return (mgpu.layout_cast(jnp.zeros((4, CHANNELS), jnp.float32), ONE_A_LANE),)

    def sum_pixels(self, acc: tuple[Array, ...], xs: Sequence[tuple[Array, ...]], partner: Array) -> tuple[Array, ...]:
        (x,) = xs
        return tuple(self._add_rows(a, b, partner) for a, b in zip(acc, x, strict=True))

    def _add_rows(self, acc: Array, x: Array, y: Array) -> Array:
        if self.interpret:
            return acc + (x * y).reshape(4, PIXELS // 4, CHANNELS).sum(1)
        return multiply_add_rows(acc, x, y, self.layout)

    def add_pixels(self, acc: tuple[Array, ...], values: Array) -> tuple[Array, ...]:
        (one,), (before,) = self.ones(), acc
        return (self._add_rows(before, one, values),)

    def hold_back(self) -> None:
        """Nothing: ptxas has loaded none too early."""

    def of_pixels(self, acc: tuple[Array, ...]) -> Array:
        return acc[0]

    def of_taps(self, acc: tuple[Array, ...], count: int) -> list[list[Array]]:
        return [list(acc)]


def engine(problem: Problem, dtype: Any, interpret: bool) -> Engine:
    """The engine that multiplies a problem's operands, of a dtype."""
    if problem.on_tensor_cores:
        return TensorCores(dtype, interpret)
    return MultiplyAdds(problem.group, problem.row_fragments, interpret)


def zeros(e: Engine) -> Array:
    """The sums of nothing."""
    none: Array = mgpu.layout_cast(jnp.zeros((PIXELS, CHANNELS), jnp.float32), e.layout)
    return none


def pixels(e: Engine, ref: Any) -> Array:
    """Load a fragment from shared memory."""
    loaded: Array = mgpu.load(ref, layout=e.layout, optimized=False)
    return loaded


def per_channel(e: Engine, ref: Any) -> Array:
    """Load one number a channel, for all pixels of a fragment."""
    loaded = mgpu.load(ref, layout=e.layout.reduce(0), optimized=False)
    row: Array = mgpu.layout_cast(lax.broadcast_in_dim(loaded, (PIXELS, CHANNELS), (1,)), e.layout)
    return row
