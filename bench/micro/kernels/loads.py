"""Fill: TMA loads into a ring of slots."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_conv.kernels import mosaic

from .. import stopwatch
from .parts import Kernel, Ring, cut, following, next_slot, swizzled_rows, this_block, timed_kernel, visited


def fill(
    shape: tuple[int, ...], box: tuple[int, ...], slots: int, blocks: int, *, copies: int = 1, cluster: int = 1,
    one_warp: bool = False, spare_bytes: int = 0, interpret: bool = False,
) -> Kernel:  # fmt: skip
    """Take (plan, x); keep `slots` loads in flight, each of `copies` boxes of x, a bfloat16 array of this shape.

    In clusters every block loads half of each box and gets all of it. A warpgroup of 128 threads issues loads and arrives
    at barriers, as in the dense kernel, or one warp does. spare_bytes: more shared memory for a block to have.
    Returns the last load of each block, [blocks, copies, *box].
    """

    def body(plan: Any, x: Any, out: Any, watch: Any, ring: Any, full: Any, *others: Any) -> None:
        block, count = this_block(cluster), plan[this_block(cluster), 0]
        empty = others[0] if cluster > 1 else None
        it = Ring(x, plan, ring, full, block, box, cluster)
        started = stopwatch.start(interpret)

        def again(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            slot, at = carry
            mosaic.barrier_wait(full.at[slot])
            if empty is not None:  # the other block writes here, too
                mosaic.barrier_arrive(empty.at[slot])
                mosaic.barrier_wait(empty.at[slot])
            mosaic.when(i + slots < count)(lambda: it.load(slot, at))
            return next_slot(slot, slots), following(at, plan, block)

        def work() -> None:
            at = plan[block, 1]
            for slot in range(slots):
                mosaic.when(slot < count)(functools.partial(it.load, jnp.int32(slot), at))
                at = following(at, plan, block)
            lax.fori_loop(0, count, again, (jnp.int32(0), at))

        _in_one_warp(work) if one_warp else work()
        stopwatch.stop(started, watch, block)
        last = lax.rem(jnp.maximum(count - 1, 0), jnp.int32(slots))

        @mosaic.when(count > 0)
        def _() -> None:
            mosaic.copy_smem_to_gmem(ring.at[last], out.at[block])
            mosaic.wait_smem_to_gmem(0)

    scratch = [
        swizzled_rows(box, (slots, copies), jnp.bfloat16, interpret),
        mosaic.Barrier(num_arrivals=copies, num_barriers=slots),
    ]
    if cluster > 1:
        scratch.append(mosaic.ClusterBarrier(collective_axes=("cta",), num_barriers=slots))
    if spare_bytes:
        scratch.append(plgpu.SMEM((spare_bytes,), jnp.int8))
    out = jax.ShapeDtypeStruct((blocks, copies, *box), jnp.bfloat16)
    return timed_kernel("fill", body, out, scratch, blocks, interpret, cluster)


def _in_one_warp(work: Callable[[], None]) -> None:
    """The first warp of this warpgroup; the others wait for it."""

    def warp(number: Array) -> None:
        mosaic.when(number == 0)(work)

    plgpu.warp_map(warp)


def expected_fill(plan: np.ndarray, x: np.ndarray, box: tuple[int, ...], copies: int) -> dict[int, np.ndarray]:
    """The result of each block that loads anything."""
    last = {block: visited(row)[-1] for block, row in enumerate(plan) if row[0]}
    return {b: np.stack([cut(x, box, at * copies + c) for c in range(copies)]) for b, at in last.items()}
