"""Fragments: 16 pixels of 32 channels in the registers of a warpgroup, and what multiplies them by taps, channel by channel.

`TensorCores`, for 16-bit operands: each warp has 8 of the channels. Its weights of a tap are an 8x8 matrix with them on its
diagonal, and one `mma.sync` multiplies 16 pixels by two taps, and sums in float32:

                                                            w0  .  .  ...
    y [16 pixels, 8]  +=  [16 pixels of tap 0 | of tap 1] @  .  w0  .  ...     w0, w1: of each channel its own
                                                            ...
                                                            w1  .  .  ...
                                                             .  w1  .  ...

Seven eighths of its products are with zeros. Yet it takes a sixth to an eighth of the instructions that multiply-adds in
float32 would: of those, one for each element of a lane and each tap, and more to convert the operands.

`MultiplyAdds`, for float32: each warp has 4 of the pixels, each lane a channel.

An infinite or NaN pixel makes NaN of all 8 channels of a warp that sum it: infinity times zero is NaN.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..mma import diagonals, mma
from .plan import CHANNELS, LANES, PIXELS


class Engine(Protocol):
    """A way to multiply fragments. `layout`: which thread holds which element of one."""

    layout: Any

    def weights(self, ref: Any, tap: int, channels: Any) -> Array:
        """Load the weights of a tap for 32 channels."""

    def multiply(self, acc: Array, xs: Sequence[Array], ws: Sequence[Array]) -> Array:
        """acc + x0 * w0 + x1 * w1 + ..."""


class TensorCores:
    """See above. The interpreter has no mma.sync: there, its definition takes its place."""

    # Lane 4 g + t of a warp has pixels g and g + 8 of the warp's channels 2 t and 2 t + 1.
    layout = mgpu.Layout.MMA_ACC(jnp.bfloat16, m_warps=1)
    # Lane 4 g + t of a warp has, of the warp's matrix, the weights from channels 2 t and 2 t + 1 to channel g.
    matrices = mgpu.tiled_layout((CHANNELS, LANES), (LANES, LANES), (-3, -2), 2)

    def __init__(self, interpret: bool):
        self.interpret = interpret

    def weights(self, ref: Any, tap: int, channels: Any) -> Array:
        return diagonals(
            mgpu.load(ref.at[tap, channels], layout=self.matrices.reduce(1), optimized=False), self.matrices
        )

    def multiply(self, acc: Array, xs: Sequence[Array], ws: Sequence[Array]) -> Array:
        if self.interpret:
            return acc + sum(_by_definition(x, w) for x, w in zip(xs, ws, strict=True))
        return mma(acc, xs, ws, (self.layout, self.layout, self.matrices))


def _by_definition(x: Array, w: Array) -> Array:
    """[16, 32] times the matrices [32, 8] of four warps."""
    x = x.astype(jnp.float32).reshape(PIXELS, -1, LANES)
    w = w.astype(jnp.float32).reshape(-1, LANES, LANES)
    return jnp.einsum("pwi,woi->pwo", x, w).reshape(PIXELS, CHANNELS)


class MultiplyAdds:
    """See above."""

    # Lane l of warp w has channel l of pixels 4 w to 4 w + 3.
    layout = mgpu.tiled_layout((PIXELS, CHANNELS), (PIXELS // 4, CHANNELS), (-2,), 1)

    def weights(self, ref: Any, tap: int, channels: Any) -> Array:
        return per_channel(self, ref.at[tap, channels])

    def multiply(self, acc: Array, xs: Sequence[Array], ws: Sequence[Array]) -> Array:
        for x, w in zip(xs, ws, strict=True):
            acc = acc + x * w
        return acc


def engine(dtype: Any, interpret: bool) -> Engine:
    """The engine that multiplies operands of a dtype."""
    return MultiplyAdds() if jnp.dtype(dtype).itemsize == 4 else TensorCores(interpret)


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
