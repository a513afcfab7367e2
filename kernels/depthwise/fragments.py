"""Fragments: 16 pixels of 32 channels in the registers of a warpgroup, and what multiplies them, channel by channel.

`TensorCores`, for 16-bit operands: each warp has 8 of the channels. For sums over taps its weights of a tap are an 8x8 matrix
with them on its diagonal, and one `mma.sync` multiplies 16 pixels by two taps, and sums in float32:

                                                            w0  .  .  ...
    y [16 pixels, 8]  +=  [16 pixels of tap 0 | of tap 1] @  .  w0  .  ...     w0, w1: of each channel its own
                                                            ...
                                                            w1  .  .  ...
                                                             .  w1  .  ...

For sums over pixels, one multiplies the pixels of two taps by the cotangent. Of the result's two 8x8 matrices the diagonals are
wanted, the gradients of both taps; what lies beside them is products of different channels:

    dw [8 of tap 0, 8 of tap 1;  8]  +=  [16 pixels of tap 0, 16 pixels of tap 1]^T @  ct [16 pixels, 8]

Seven eighths of its products are with zeros, or in vain. Yet it takes a sixth to an eighth of the instructions that
multiply-adds in float32 would: of those, one for each element of a lane and each tap, and more to convert the operands.

`MultiplyAdds`, for float32: each warp has 4 of the pixels, each lane a channel. Sums over pixels stay apart for each warp.

An infinite or NaN pixel makes NaN of all 8 channels of a warp in sums over taps: infinity times zero is NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..mma import ONE_A_LANE, diagonal, diagonals, mma, mma_transposed, multiply_add_rows, windows
from .plan import CHANNELS, LANES, PIXELS

# A line of pixels in shared memory: given the first pixel and how many, that part of it, of 32 channels.
type Line = Callable[[int, int], Any]


class Engine(Protocol):
    """A way to multiply fragments.

    layout    which thread holds which element of one
    together  neighbouring taps whose sums over pixels are one accumulator
    at_once   fragments of a line of pixels that are best loaded at once
    """

    layout: Any
    together: int
    at_once: int

    def weights(self, ref: Any, tap: int, channels: Any) -> Array:
        """Load the weights of a tap for 32 channels."""

    def multiply(self, acc: Array, xs: Sequence[Array], ws: Sequence[Array]) -> Array:
        """acc + x0 * w0 + x1 * w1 + ..."""

    def load(self, line: Line, starts: Sequence[int]) -> list[Array]:
        """Load the fragments of a line that begin at these pixels, for sums over taps."""

    def load_summed(self, line: Line, starts: Sequence[int]) -> list[Array]:
        """The same for sums over pixels."""

    def ones(self) -> Array:
        """A fragment of ones, for sums over pixels."""

    def no_pixels(self) -> Array:
        """The accumulator of sums over no pixels."""

    def sum_pixels(self, acc: Array, xs: Sequence[Array], ct: Array) -> Array:
        """The accumulator, plus the sums over pixels of x0 * ct, x1 * ct, ..., of as many taps as it has, or fewer."""

    def of_tap(self, acc: Array, i: int) -> Array:
        """The sums of an accumulator's i-th tap: [32], or [4, 32], those of each warp."""


class TensorCores:
    """See above. The interpreter has no mma.sync: there, its definition takes its place."""

    # Lane 4 g + t of a warp has pixels g and g + 8 of the warp's channels 2 t and 2 t + 1.
    layout = mgpu.Layout.MMA_ACC(jnp.bfloat16, m_warps=1)
    # Lane 4 g + t of a warp has, of the warp's matrix, the weights from channels 2 t and 2 t + 1 to channel g.
    matrices = mgpu.tiled_layout((CHANNELS, LANES), (LANES, LANES), (-3, -2), 2)
    # Lane 4 g + t of a warp has, of its channel g, pixels 2 t, 2 t + 1, 2 t + 8 and 2 t + 9.
    transposed = mgpu.tiled_layout((CHANNELS, PIXELS), (LANES, LANES), (-3, -2), 2)
    together, at_once = 2, 2

    def __init__(self, dtype: Any, interpret: bool):
        self.dtype, self.interpret = dtype, interpret

    def weights(self, ref: Any, tap: int, channels: Any) -> Array:
        return diagonals(
            mgpu.load(ref.at[tap, channels], layout=self.matrices.reduce(1), optimized=False), self.matrices
        )

    def multiply(self, acc: Array, xs: Sequence[Array], ws: Sequence[Array]) -> Array:
        if self.interpret:
            return acc + sum(_by_definition(x, w) for x, w in zip(xs, ws, strict=True))
        return mma(acc, xs, ws, (self.layout, self.layout, self.matrices))

    def load(self, line: Line, starts: Sequence[int]) -> list[Array]:
        return [pixels(self, line(start, PIXELS)) for start in starts]

    def load_summed(self, line: Line, starts: Sequence[int]) -> list[Array]:
        return [mgpu.load(line(start, PIXELS).T, layout=self.transposed, optimized=False) for start in starts]

    def ones(self) -> Array:
        ones: Array = mgpu.layout_cast(jnp.ones((CHANNELS, PIXELS), self.dtype), self.transposed)
        return ones

    def no_pixels(self) -> Array:
        return zeros(self)

    def sum_pixels(self, acc: Array, xs: Sequence[Array], ct: Array) -> Array:
        if self.interpret:
            return acc + _transposed_by_definition(xs, ct)
        return mma_transposed(acc, xs, ct, (self.layout, self.transposed))

    def of_tap(self, acc: Array, i: int) -> Array:
        return diagonal(acc, i * LANES, self.layout)


def _by_definition(x: Array, w: Array) -> Array:
    """[16, 32] times the matrices [32, 8] of four warps."""
    x = x.astype(jnp.float32).reshape(PIXELS, -1, LANES)
    w = w.astype(jnp.float32).reshape(-1, LANES, LANES)
    return jnp.einsum("pwi,woi->pwo", x, w).reshape(PIXELS, CHANNELS)


def _transposed_by_definition(xs: Sequence[Array], ct: Array) -> Array:
    """[32, 16] of up to two taps times [32, 16], of four warps: [2 * 8, 32], zeros where there is no second tap."""
    of_warps = lambda a: a.astype(jnp.float32).reshape(-1, LANES, PIXELS)
    found = [jnp.einsum("wip,wop->iwo", of_warps(x), of_warps(ct)).reshape(LANES, CHANNELS) for x in xs]
    return jnp.concatenate([*found, *[jnp.zeros_like(found[0])] * (2 - len(found))])


class MultiplyAdds:
    """See above."""

    # Lane l of warp w has channel l of pixels 4 w to 4 w + 3.
    layout = mgpu.tiled_layout((PIXELS, CHANNELS), (PIXELS // 4, CHANNELS), (-2,), 1)
    together, at_once = 1, 8

    def __init__(self, interpret: bool):
        self.interpret = interpret

    def weights(self, ref: Any, tap: int, channels: Any) -> Array:
        return per_channel(self, ref.at[tap, channels])

    def multiply(self, acc: Array, xs: Sequence[Array], ws: Sequence[Array]) -> Array:
        for x, w in zip(xs, ws, strict=True):
            acc = acc + x * w
        return acc

    def load(self, line: Line, starts: Sequence[int]) -> list[Array]:
        if self.interpret:
            return [pixels(self, line(start, PIXELS)) for start in starts]
        first = min(starts)
        return windows(line(first, max(starts) - first + PIXELS), [start - first for start in starts], self.layout)

    load_summed = load

    def ones(self) -> Array:
        ones: Array = mgpu.layout_cast(jnp.ones((PIXELS, CHANNELS), jnp.float32), self.layout)
        return ones

    def no_pixels(self) -> Array:
        none: Array = mgpu.layout_cast(jnp.zeros((4, CHANNELS), jnp.float32), ONE_A_LANE)
        return none

    def sum_pixels(self, acc: Array, xs: Sequence[Array], ct: Array) -> Array:
        (x,) = xs
        if self.interpret:
            return acc + (x * ct).reshape(4, PIXELS // 4, CHANNELS).sum(1)
        return multiply_add_rows(acc, x, ct, self.layout)

    def of_tap(self, acc: Array, i: int) -> Array:
        return acc


def engine(dtype: Any, interpret: bool) -> Engine:
    """The engine that multiplies operands of a dtype."""
    return MultiplyAdds(interpret) if jnp.dtype(dtype).itemsize == 4 else TensorCores(dtype, interpret)


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
