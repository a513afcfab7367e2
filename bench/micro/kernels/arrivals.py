"""Hand over: an arrival at a barrier, and what waits for it; and nothing, which any kernel costs."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.kernels import mosaic

from .. import stopwatch
from .parts import Kernel, this_block, timed_kernel


def hand_over(blocks: int, *, cluster: int = 1, interpret: bool = False) -> Kernel:
    """Take (plan,); arrive at a barrier, which all blocks of a cluster share, and wait for it.

    Returns how often each block did, [blocks, 128].
    """

    def body(plan: Any, out: Any, watch: Any, barrier: Any) -> None:
        block = this_block(cluster)
        started = stopwatch.start(interpret)

        def again(i: Array, done: Array) -> Array:
            mosaic.barrier_arrive(barrier)
            mosaic.barrier_wait(barrier)
            return done + 1

        done = lax.fori_loop(0, plan[block, 0], again, jnp.int32(0))
        stopwatch.stop(started, watch, block)
        out[block] = jnp.broadcast_to(done, (stopwatch.THREADS,))

    barrier = mosaic.ClusterBarrier(collective_axes=("cta",)) if cluster > 1 else mosaic.Barrier()
    out = jax.ShapeDtypeStruct((blocks, stopwatch.THREADS), jnp.int32)
    return timed_kernel("hand_over", body, out, [barrier], blocks, interpret, cluster)


# ------------------------------------------------------------ nothing


def idle(blocks: int, *, interpret: bool = False) -> Kernel:
    """Take (x,), int32 [128], and return x: the cost of any kernel."""

    def body(x: Any, out: Any, watch: Any) -> None:
        started = stopwatch.start(interpret)

        @mosaic.when(this_block() == 0)
        def _() -> None:
            out[...] = x[...]

        stopwatch.stop(started, watch, this_block())

    out = jax.ShapeDtypeStruct((stopwatch.THREADS,), jnp.int32)
    return timed_kernel("idle", body, out, [], blocks, interpret)
