"""A consumer warpgroup: at each step it multiplies, and stores dx of its pixels; at the end it stores its part of dw.

Slots of the cotangent and blocks of weights have `opaque` indices. Where the compiler can tell that these are the same in each
step, or for each column of blocks, it keeps the descriptors of the operands in registers in between, and spills.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..mma import opaque
from ..store import Destination, Staging, TileStore
from ..views import lines
from .memory import Global, Shared
from .plan import CHUNK, CONSUMERS, PIXELS
from .schedule import Part, Schedule, out_channels


class _Step(NamedTuple):
    """The slots of a step: those of its cotangent, one after the other, and that of its x."""

    slots: list[Array]
    x_slot: Array


class Consumer:
    """See above. me: its number."""

    def __init__(self, schedule: Schedule, staging: Staging, gmem: Global, shared: Shared, part: Part, me: Array):
        self.schedule, self.staging, self.gmem, self.shared, self.part, self.me = (
            schedule, staging, gmem, shared, part, me
        )  # fmt: skip
        self.tiling, self.interpret = schedule.tiling, schedule.views.interpret

    def run(self) -> None:
        """Take every step of the part."""
        t, ring, x_ring = self.tiling, self.shared.ring, self.shared.x_ring
        ring.hand_over()
        x_ring.hand_over()
        mgpu.barrier_wait(self.shared.weights_ready)

        def accumulate(*sums: Any) -> list[Array]:
            def per_step(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
                slots, x_slot = [self._opaque(carry[0])], carry[1]
                for _ in range(t.slots):
                    slots.append(ring.next_slot(slots[-1]))
                self._step(sums, step, _Step(slots[:-1], x_slot))
                return slots[-1], x_ring.next_slot(x_slot)

            lax.fori_loop(0, self.part.steps, per_step, (jnp.int32(0), jnp.int32(0)))
            return [acc[...] for acc in sums]

        self._store_sums(mgpu.run_scoped(accumulate, *[mgpu.ACC((CHUNK, CHUNK), jnp.float32)] * t.own_blocks))
        mgpu.wait_smem_to_gmem(0)

    def _opaque(self, index: Any) -> Array:
        return jnp.int32(index) if self.interpret else opaque(jnp.int32(index))

    def _step(self, sums: tuple[Any, ...], step: Array, at: _Step) -> None:
        """Multiply a step, and store its dx, one column of blocks after the other."""
        columns = self.tiling.column_blocks
        window = self.schedule.own_window(self.part, step, self.me)
        for c in range(columns):
            multiply = functools.partial(self._multiply, sums, at, c)
            dx = mgpu.run_scoped(multiply, mgpu.ACC((CHUNK, CHUNK), jnp.float32))
            to = Destination(None, None, (self.gmem.dx,), window, jnp.int32(0), self.part.n_tile * columns + c)
            TileStore(self.staging, self.shared.staging, to, step * columns + c, self.me).store(dx)

    def _multiply(self, sums: tuple[Any, ...], step: _Step, c: int, dx: Any) -> Array:
        """Multiply a step's slots for the c-th column of blocks of dx; with the last one for dw, too. Returns dx.

        The last column hands slots back, one late: products run asynchronously.
        """
        t, ring, last = self.tiling, self.shared.ring, c == self.tiling.column_blocks - 1
        for i, slot in enumerate(step.slots):
            if c == 0:
                self.shared.await_cotangent(slot)
            self._add_to_dx(dx, self._opaque(slot) if c else slot, i, c)
            if not last:
                continue
            if i == 0:
                self.shared.x_ring.wait(step.x_slot)
            self._add_to_dw(sums, step, i)
            if i > 0:
                mgpu.wgmma_wait(t.slot_chunks + t.own_columns)  # for all products but this slot's
                ring.release(step.slots[i - 1])
        mgpu.wgmma_wait(0)
        if last:
            ring.release(step.slots[-1])
            self.shared.x_ring.release(step.x_slot)
        return dx[...]

    def _add_to_dx(self, dx: Any, slot: Array, i: int, c: int) -> None:
        """dx[own pixels, c] += g[own pixels, o] @ w[o, c] for the chunks o of a step's i-th slot."""
        ct, box = self.shared.ct, self.staging.box
        for chunk in range(self.tiling.slot_chunks):
            weights = self.shared.w.mma.at[self._opaque(i * self.tiling.slot_chunks + chunk), c]
            if not self.interpret:
                mgpu.wgmma(dx, ct.mma.at[slot, chunk, mgpu.ds(self.me * CHUNK, CHUNK)], weights)
                continue
            for pixel, index in lines(box):  # the interpreter has no second view of the pixels
                own = ct.tma.at[(slot, chunk, *self.schedule.own(index, self.me))]
                mgpu.wgmma(dx.at[mgpu.ds(pixel, box[-1])], own, weights)

    def _add_to_dw(self, sums: tuple[Any, ...], step: _Step, i: int) -> None:
        """dw[o, c] += g[pixels, o].T @ x[pixels, c] for the blocks that a consumer sums of a step's i-th slot."""
        t, shared, own = self.tiling, self.shared, self.tiling.divided == "pixels"
        for column in range(t.own_columns):
            acc = sums[i * t.own_columns + column]
            ct, x = (step.slots[i], self._own_chunk), (step.x_slot, self._own_column(column))
            if not self.interpret:
                pixels = mgpu.ds(self.me * CHUNK, CHUNK) if own else mgpu.ds(0, PIXELS)
                mgpu.wgmma(acc, shared.ct.mma.at[(*ct, pixels)].T, shared.x.mma.at[(*x, pixels)])
                continue
            views, cfg = self.schedule.views.pixels, self.schedule.cfg
            for _, index in lines(self.staging.box if own else views.box(cfg.step_pixels)):
                at = self.schedule.own(index, self.me) if own else index
                mgpu.wgmma(acc, shared.ct.tma.at[(*ct, *at)].T, shared.x.tma.at[(*x, *at)])

    @property
    def _own_chunk(self) -> Array:
        """The chunk of a slot of which the consumer sums blocks of dw."""
        return self.me if self.tiling.divided == "rows" else jnp.int32(0)

    def _own_column(self, column: int) -> Array:
        """The column of blocks of dw that is this one of the consumer's own."""
        first = self.me * self.tiling.own_columns if self.tiling.divided == "columns" else jnp.int32(0)
        return first + column

    def _store_sums(self, sums: list[Array]) -> None:
        """Store the consumer's part of dw."""
        t, part = self.tiling, self.part
        number = part.number * CONSUMERS + self.me if t.divided == "pixels" else part.number
        for i, total in enumerate(sums):
            slot, column = divmod(i, t.own_columns)
            chunk = slot * t.slot_chunks + self._own_chunk
            where = number, part.example, out_channels(chunk), self.schedule.in_channels(part, self._own_column(column))
            mgpu.store(self.gmem.dw, where, total, interpret=self.interpret)
