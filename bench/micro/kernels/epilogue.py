"""Store: a chunk of an epilogue."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_conv.kernels import mosaic

from .. import stopwatch
from .parts import COLUMNS, Kernel, all_stored, stage, staging, this_block, timed_kernel


def store(
    pixels: int, buffers: int, room: int, blocks: int, *, consumers: int = 1, read_only: bool = True,
    interpret: bool = False,
) -> Kernel:  # fmt: skip
    """Take (plan, bias); take turns of an epilogue, each of a chunk through every one of `buffers`: bias, relu, bfloat16, TMA.

    read_only: waits until a buffer may be written again, not until its store is done.
    Returns each block's last `room` chunks, a multiple of buffers, [blocks, consumers, room, pixels, COLUMNS]: the i-th is
    relu(bias + i), at i % room.
    """

    def body(plan: Any, bias: Any, out: Any, watch: Any, staged: Any) -> None:
        block, me = this_block(), lax.axis_index("thread") if consumers > 1 else jnp.int32(0)
        started = stopwatch.start(interpret)

        def chunk(i: Array, buffer: int) -> None:
            row = mosaic.load(bias, layout=mosaic.Layout.WGMMA.reduce(0), optimized=False) + i.astype(jnp.float32)
            z = jnp.maximum(lax.broadcast_in_dim(row, (pixels, COLUMNS), (1,)), 0)
            stage(z, staged.at[me, buffer], out.at[block, me, lax.rem(i, jnp.int32(room))], buffers, read_only)

        def turn(i: Array, _: None) -> None:
            mosaic.when(lax.rem(i, jnp.int32(room // buffers)) == 0)(all_stored)
            for buffer in range(buffers):
                chunk(i * buffers + buffer, buffer)

        lax.fori_loop(0, plan[block, 0], turn, None)
        all_stored()
        mosaic.when(me == 0)(lambda: stopwatch.stop(started, watch, block))

    out = jax.ShapeDtypeStruct((blocks, consumers, room, pixels, COLUMNS), jnp.bfloat16)
    scratch = [staging(pixels, (consumers, buffers), interpret)]
    return timed_kernel("store", body, out, scratch, blocks, interpret, threads=consumers)


def expected_store(chunks: int, bias: np.ndarray, room: int) -> dict[int, np.ndarray]:
    """A row of the chunks that are left of so many, by where they are."""
    return {i % room: np.maximum(bias + np.float32(i), 0) for i in range(max(0, chunks - room), chunks)}
