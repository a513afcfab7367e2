"""Multiply: wgmma beside TMA, with and without an epilogue."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_conv.kernels import mosaic

from .. import stopwatch
from .parts import (
    COLUMNS,
    Kernel,
    Ring,
    all_stored,
    following,
    next_slot,
    stage,
    staging,
    swizzled_rows,
    this_block,
    timed_kernel,
    wgmma_matrix,
)


class _Mainloop:
    """A producer that fills slots, consumers that wait for them, and multiply operands which stay in shared memory.

    a_smem [consumers, taps, pixels, 128 bytes], b_smem [taps, columns, 128 bytes]. As in the dense kernel a step waits for
    its slot and hands back that of the step before; what is in a slot is not read.
    """

    def __init__(self, plan: Any, a_smem: Any, b_smem: Any, ring: Any, full: Any, empty: Any, ready: Any):
        self.plan, self.a_smem, self.b_smem, self.ring = plan, a_smem, b_smem, ring
        self.full, self.empty, self.ready = full, empty, ready
        (self.consumers, self.taps, self.pixels), self.columns = a_smem.shape[:3], b_smem.shape[1]
        self.slots = ring.shape[0]

    def produce(self, a: Any, b: Any, x: Any, steps: Array) -> None:
        """Load the operands, then as many slots, with boxes of x."""
        for tap in range(self.taps):
            for consumer in range(self.consumers):
                mosaic.copy_gmem_to_smem(a.at[consumer, tap], self.a_smem.at[consumer, tap], self.ready)
            mosaic.copy_gmem_to_smem(b.at[tap], self.b_smem.at[tap], self.ready)
        block = this_block()
        it = Ring(x, self.plan, self.ring, self.full, block, self.ring.shape[2:], 1)

        def load(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            slot, at = carry
            mosaic.barrier_wait(self.empty.at[slot])
            it.load(slot, at)
            return next_slot(slot, self.slots), following(at, self.plan, block)

        slot, _ = lax.fori_loop(0, steps, load, (jnp.int32(0), self.plan[block, 1]))
        for _ in range(self.slots):  # see every slot handed back before leaving
            mosaic.barrier_wait(self.empty.at[slot])
            slot = next_slot(slot, self.slots)

    def begin(self) -> None:
        """Hand all slots to the producer, and wait for the operands."""
        for slot in range(self.slots):
            mosaic.barrier_arrive(self.empty.at[slot])
        mosaic.barrier_wait(self.ready)

    def tile(self, me: Array, steps: Any, slot: Array) -> tuple[Array, Array]:
        """The sums [pixels, columns] of so many steps from this slot on, and the slot after."""
        release = lambda slot: mosaic.barrier_arrive(self.empty.at[_before(slot, self.slots)])

        def accumulate(acc: Any) -> tuple[Array, Array]:
            def step(i: Array, slot: Array) -> Array:
                mosaic.barrier_wait(self.full.at[slot])
                for tap in range(self.taps):
                    mosaic.wgmma(acc, self.a_smem.at[me, tap], self.b_smem.at[tap].T)
                mosaic.wgmma_wait(self.taps)
                mosaic.when(i > 0)(lambda: release(slot))
                return next_slot(slot, self.slots)

            end = lax.fori_loop(0, steps, step, slot)
            mosaic.wgmma_wait(0)
            mosaic.when(steps > 0)(lambda: release(end))
            return acc[...], end

        return mosaic.run_scoped(accumulate, mosaic.ACC((self.pixels, self.columns), jnp.float32))


def _mainloop_scratch(
    pixels: int, columns: int, consumers: int, taps: int, box_rows: int, slots: int, dtype: str, interpret: bool
) -> list[Any]:
    return [
        wgmma_matrix(pixels, (consumers, taps), dtype, interpret),
        wgmma_matrix(columns, (taps,), dtype, interpret),
        swizzled_rows((box_rows, 128 // jnp.dtype(dtype).itemsize), (slots, 1), dtype, interpret),
        mosaic.Barrier(num_barriers=slots),
        mosaic.Barrier(num_arrivals=consumers, num_barriers=slots),
        mosaic.Barrier(num_arrivals=taps * (consumers + 1)),
    ]


def multiply(
    pixels: int, columns: int, consumers: int, taps: int, box_rows: int, blocks: int, *, dtype: str = "bfloat16",
    slots: int = 3, interpret: bool = False,
) -> Kernel:  # fmt: skip
    """Take (plan, a, b, x); a step multiplies a[pixels, 128 bytes] by b[columns, 128 bytes] for each of its taps and consumers.

    Meanwhile a producer loads `box_rows` rows of x, [rows, 128 bytes].
    Returns the sums of the first block, [consumers, pixels, columns] in float32.
    """

    def body(plan: Any, a: Any, b: Any, x: Any, out: Any, watch: Any, *shared: Any) -> None:
        me, loop, count = lax.axis_index("thread"), _Mainloop(plan, *shared), plan[this_block(), 0]

        @mosaic.when(me == consumers)
        def _() -> None:
            loop.produce(a, b, x, count)

        @mosaic.when(me < consumers)
        def _() -> None:
            loop.begin()
            started = stopwatch.start(interpret)
            sums, _ = loop.tile(me, count, jnp.int32(0))
            mosaic.when(me == 0)(lambda: stopwatch.stop(started, watch, this_block()))

            @mosaic.when(this_block() == 0)
            def tell() -> None:
                out[me] = sums

    scratch = _mainloop_scratch(pixels, columns, consumers, taps, box_rows, slots, dtype, interpret)
    out = jax.ShapeDtypeStruct((consumers, pixels, columns), jnp.float32)
    return timed_kernel("multiply", body, out, scratch, blocks, interpret, threads=consumers + 1)


def tiles(
    pixels: int,
    columns: int,
    consumers: int,
    taps: int,
    steps: int,
    slots: int,
    blocks: int,
    *,
    interpret: bool = False,
) -> Kernel:
    """Take (plan, a, b, x); as `multiply`, but with an epilogue every `steps` steps, which stores the sums in bfloat16.

    Slots hold eight rows. A deeper ring lets one consumer multiply while another stores.
    Returns the last tile of each block, [blocks, consumers, columns / COLUMNS, pixels, COLUMNS].
    """

    def body(plan: Any, a: Any, b: Any, x: Any, out: Any, watch: Any, staged: Any, *shared: Any) -> None:
        me, loop, block = lax.axis_index("thread"), _Mainloop(plan, *shared), this_block()
        count = plan[block, 0]

        def per_tile(i: Array, slot: Array) -> Array:
            sums, slot = loop.tile(me, steps, slot)
            all_stored()  # of the tile before, long ago
            for chunk in range(columns // COLUMNS):
                value = sums[:, chunk * COLUMNS : (chunk + 1) * COLUMNS]
                stage(value, staged.at[me, chunk % 2], out.at[block, me, chunk], buffers=2)
            return slot

        @mosaic.when(me == consumers)
        def _() -> None:
            loop.produce(a, b, x, count * steps)

        @mosaic.when(me < consumers)
        def _() -> None:
            loop.begin()
            started = stopwatch.start(interpret)
            lax.fori_loop(0, count, per_tile, jnp.int32(0))
            all_stored()
            mosaic.when(me == 0)(lambda: stopwatch.stop(started, watch, block))

    scratch = [
        staging(pixels, (consumers, 2), interpret),
        *_mainloop_scratch(pixels, columns, consumers, taps, 8, slots, "bfloat16", interpret),
    ]
    out = jax.ShapeDtypeStruct((blocks, consumers, columns // COLUMNS, pixels, COLUMNS), jnp.bfloat16)
    return timed_kernel("tiles", body, out, scratch, blocks, interpret, threads=consumers + 1)


def expected_multiply(steps: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sums of so many steps, [consumers, pixels, columns]."""
    return steps * np.einsum("utpc,tkc->upk", a.astype(np.float32), b.astype(np.float32))


def expected_tile(steps: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same as `tiles` stores them, [consumers, columns / COLUMNS, pixels, COLUMNS]."""
    sums = expected_multiply(steps, a, b)
    return sums.reshape(*sums.shape[:2], -1, COLUMNS).swapaxes(1, 2)


def _before(slot: Array, slots: int) -> Array:
    return jnp.where(slot == 0, slots - 1, slot - 1)
