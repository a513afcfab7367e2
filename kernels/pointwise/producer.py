"""The producer warpgroup: it loads; it multiplies cotangents by the derivative of an activation, and sums them for a bias.

With one slot a step and three of them in the ring, where cotangents are multiplied:

    loads         0 1     2           3           4
    multiplies           0        1           2           3        each in place, then consumers may have it
    consumers                 0        1           2               hand slots back

Once it has multiplied an item, it loads into the slot of the one before, for which it may have to wait. Where consumers keep
the slots of a step until they have seen the last, it is that of an item of the step before: otherwise producer and consumers
would wait for each other. For the same reason x is then loaded one step ahead, not two: the slot that the next but one takes is
free only when the step that has just been multiplied is over.

If cotangents are only summed, consumers have them as soon as they have come, and all slots are loaded ahead.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..derivatives import DERIVATIVES
from ..mma import PAIRS_OF_A_ROW, add_rows
from ..scalars import unravel
from ..views import lines
from .memory import Global, Shared
from .plan import CHUNK, PIXELS, WARPS, X_STAGES
from .schedule import Part, Schedule, out_channels

ROWS = 16  # pixels of a chunk that are in registers together


class Producer:
    """See above. An item is a slot's content: a step has one or several."""

    def __init__(self, schedule: Schedule, gmem: Global, shared: Shared, part: Part):
        self.schedule, self.gmem, self.shared, self.part = schedule, gmem, shared, part
        self.problem, self.tiling, self.interpret = schedule.problem, schedule.tiling, schedule.views.interpret
        self.ahead = schedule.cfg.stages - schedule.tiling.late_slots
        self.x_ahead = X_STAGES - (self.problem.derivative is not None)

    def run(self) -> None:
        """Load everything that consumers multiply, and go through the cotangents."""
        t, ring, x_ring = self.tiling, self.shared.ring, self.shared.x_ring
        lax.fori_loop(0, t.row_blocks * t.column_blocks, self._load_weights, None)
        for step in range(self.x_ahead):
            self._load_x(jnp.int32(step), jnp.int32(step))
        for item in range(self.ahead):
            self._load_cotangent(jnp.int32(item), jnp.int32(item))

        def per_step(step: Array, carry: Any) -> Any:
            slot, to, x_to, biases = carry
            for i in range(t.slots):
                if biases or self.problem.derivative:
                    biases = self._go_through(biases, slot, i)
                self._load_cotangent(step * t.slots + i + self.ahead, to)
                slot, to = ring.next_slot(slot), ring.next_slot(to)
            self._load_x(step + self.x_ahead, x_to)
            return slot, to, x_ring.next_slot(x_to), biases

        to, x_to = jnp.int32(self.ahead % ring.stages), jnp.int32(self.x_ahead % X_STAGES)
        begin = jnp.int32(0), to, x_to, [self._no_bias() for _ in range(t.row_blocks if self.problem.bias else 0)]
        *_, biases = lax.fori_loop(0, self.part.steps, per_step, begin)
        self._store_bias(biases)
        ring.drain(lax.rem(self.part.steps * t.slots, jnp.int32(ring.stages)))
        x_ring.drain(lax.rem(self.part.steps, jnp.int32(X_STAGES)))

    def _load_weights(self, i: Array, _: None) -> None:
        """Load a block of the weights, which stay."""
        (o, c), _rest = unravel(i, [self.tiling.row_blocks, self.tiling.column_blocks])
        block = self.gmem.w.at[self.part.example, out_channels(o), self.schedule.in_channels(self.part, c)]
        self._copy(block, self.shared.w.tma.at[o, c], self.shared.weights_ready)

    def _load_x(self, step: Array, slot: Array) -> None:
        """Load the x of a step, if the part has it."""
        ring = self.shared.x_ring

        @mgpu.when(step < self.part.steps)
        def _():
            ring.acquire(slot)
            window = self.schedule.window(self.part, step)
            for c in range(self.tiling.column_blocks):
                channels = self.schedule.in_channels(self.part, c)
                self._copy(self.gmem.x.at[(*window, channels)], self.shared.x.tma.at[slot, c], ring.full.at[slot])

    def _load_cotangent(self, item: Array, slot: Array) -> None:
        """Load an item, if the part has it: chunks of the cotangent, and of what was saved."""
        t, ring = self.tiling, self.shared.ring
        step, i = lax.div(item, jnp.int32(t.slots)), lax.rem(item, jnp.int32(t.slots))

        @mgpu.when(step < self.part.steps)
        def _():
            ring.acquire(slot)
            window = self.schedule.window(self.part, step)
            for chunk in range(t.slot_chunks):
                at = *window, out_channels(i * t.slot_chunks + chunk)
                self._copy(self.gmem.ct.at[at], self.shared.ct.tma.at[slot, chunk], ring.full.at[slot])
                if self.shared.saved is not None:
                    self._copy(self.gmem.a.at[at], self.shared.saved.tma.at[slot, chunk], ring.full.at[slot])

    def _copy(self, source: Any, to: Any, barrier: Any) -> None:
        mgpu.copy_gmem_to_smem(source, to, barrier=barrier, oob_mode=mgpu.OOBFillMode.ZEROS)

    # The cotangent.

    def _no_bias(self) -> Array:
        zeros = jnp.zeros((WARPS, CHUNK), jnp.float32)
        return zeros if self.interpret else mgpu.layout_cast(zeros, PAIRS_OF_A_ROW)

    def _go_through(self, biases: list[Array], slot: Array, i: int) -> list[Array]:
        """Make g of the i-th slot of a step, in the place of its cotangent, and add it to the bias gradient."""
        self.shared.ring.wait(slot)
        found, first = list(biases), i * self.tiling.slot_chunks
        for chunk in range(self.tiling.slot_chunks):
            own, at = slice(first + chunk, first + chunk + 1), (slot, chunk)
            if self.interpret:
                found[own] = self._go_through_lines(found[own], at)
            else:
                found[own] = lax.fori_loop(0, PIXELS // ROWS, functools.partial(self._go_through_rows, at), found[own])
        mgpu.commit_smem()  # what was written before wgmma reads it, what was read before TMA overwrites it
        if self.problem.derivative:
            mgpu.barrier_arrive(self.shared.multiplied.at[slot])
        return found

    def _go_through_rows(self, at: tuple[Array, int], j: Array, bias: list[Array]) -> list[Array]:
        """The same for some pixels of a chunk. bias: the chunk's, or none."""
        where = *at, mgpu.ds(j * ROWS, ROWS)
        load = lambda buffer: mgpu.load(buffer.mma.at[where], layout=PAIRS_OF_A_ROW, optimized=False)
        g = load(self.shared.ct).astype(jnp.float32)
        if self.shared.saved is not None:
            g = g * self._derivative(load(self.shared.saved))
            rounded = g.astype(self.schedule.views.dtype)
            mgpu.store(self.shared.ct.mma, where, rounded, interpret=False, in_shared_memory=True)
        return [add_rows(total, g) for total in bias]

    def _go_through_lines(self, bias: list[Array], at: tuple[Array, int]) -> list[Array]:
        """The same for a chunk in the interpreter, which has no second view of the pixels: line by line."""
        for _, index in lines(self.schedule.views.pixels.box(self.schedule.cfg.step_pixels)):
            g = self.shared.ct.tma[(*at, *index)].astype(jnp.float32)
            if self.shared.saved is not None:
                g = g * self._derivative(self.shared.saved.tma[(*at, *index)])
                self.shared.ct.tma[(*at, *index)] = g.astype(self.schedule.views.dtype)
            bias = [total.at[0].add(g.sum(0)) for total in bias]
        return bias

    def _derivative(self, saved: Array) -> Array:
        return DERIVATIVES[str(self.problem.derivative)](saved.astype(jnp.float32))

    def _store_bias(self, biases: list[Array]) -> None:
        """Store a part of db, which blocks of other input channels have, too."""

        @mgpu.when(self.part.n_tile == 0)
        def _():
            for chunk, total in enumerate(biases):
                where = self.part.number, self.part.example, mgpu.ds(0, WARPS), out_channels(chunk)
                mgpu.store(self.gmem.db, where, total, interpret=self.interpret)
