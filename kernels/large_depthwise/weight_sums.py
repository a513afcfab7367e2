"""The weight gradient, and the bias gradient: sums over pixels, of input pixels times the cotangent, for every tap.

    dw[r, k] = sum_{n, q, j} x[n, q + r, j + k] ct[n, q, j]

An input row is multiplied with the rows of the cotangent that taps join it to, eight at a time. `right` has a strip's
cotangent, with seven rows of zeros above and eight below: these are read where no row of the cotangent meets the input row. It
is filled from the top as input rows come, and overwritten when all of a strip have been multiplied.

The sums of all taps stay in registers until a block has seen all its pixels. Consumers then store theirs, and XLA adds those of
all blocks, always in the same order. The bias gradient is summed as the cotangent is transposed.

One thing to know: pixels are multiplied with those zeros, too. If one is infinite or NaN, so is the gradient of taps that never
meet it, where the definition has a finite one.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..mma import ONE_A_LANE
from . import hankel
from .plan import CONSUMERS, LANES, ROWS, WARPS
from .schedule import Strip
from .strips import Global, Shared, Strips


class WeightSums(Strips):
    """See above."""

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        sms, views = self.schedule.num_sms, self.views
        shapes = [views.sums_shape(sms), *([views.bias_shape(sms)] if self.problem.bias else [])]
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def own_scratch_types(self) -> list[Any]:
        return [mgpu.Barrier(num_arrivals=CONSUMERS, num_barriers=1)]  # consumers have read a strip's cotangent

    def begin(self, gmem: Global, shared: Shared, worker: Array) -> None:
        hankel.clear(shared.right, interpret=self.views.interpret)
        mgpu.commit_smem()  # before other threads of the warpgroup write there

    def begin_strip(self, shared: Shared) -> None:
        mgpu.barrier_wait(shared.others[0].at[0])

    def own_state(self) -> Any:
        zeros = jnp.zeros((WARPS, LANES), jnp.float32)
        return (mgpu.layout_cast(zeros, ONE_A_LANE),) if self.problem.bias else ()

    def prepare_item(self, shared: Shared, item: Array, slot: Array, state: Any) -> Any:
        """Transpose eight rows of the cotangent, unless the item is beyond those of the strip.

        A loop of one turn or none, not `when`, which could not return the sums of the bias gradient.
        """

        def per_tile(tile: Array, state: Any) -> Any:
            rows = shared.right.at[:, mgpu.ds(ROWS - 1 + tile * ROWS, ROWS)]
            source, (added,) = shared.loaded[1].at[slot], state or (None,)
            added = hankel.transpose(source, rows, added, interpret=self.views.interpret)
            return () if added is None else (added,)

        return lax.fori_loop(item, jnp.minimum(item + 1, self.tiling.output_tiles), per_tile, state)

    def finish_preparing(self, gmem: Global, worker: Array, state: Any) -> None:
        if self.problem.bias:
            part, block = self._place(worker)
            everywhere = mgpu.ds(0, WARPS), mgpu.ds(0, LANES)
            mgpu.store(gmem.outs[1], (part, block, *everywhere), state[0], interpret=self.views.interpret)

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Array) -> None:
        zeros, done = self.tiling.rows_of_zeros, shared.others[0].at[0]
        mgpu.barrier_arrive(done)

        def per_strip(strip: Strip, state: Any) -> Any:
            def per_item(item: Array, state: Any) -> Any:
                buffer, sums = state

                def rows(row: int, group: int) -> Array:
                    first = self.from_first(strip, item - strip.rows.late, row) - group * ROWS
                    return jnp.where((first >= 0) & (first < zeros), first, zeros)

                return 1 - buffer, self.add_chunk(sums, shared, buffer, rows, me)

            def without_pixels(_: Array, state: Any) -> Any:
                buffer, sums = state
                mgpu.barrier_wait(shared.ready.at[buffer])
                mgpu.barrier_arrive(shared.empty.at[buffer])
                return 1 - buffer, sums

            (first, last), (_, _, chunks, late) = self.schedule.items(strip), strip.rows
            state = lax.fori_loop(first, late, without_pixels, state)
            state = lax.fori_loop(late, late + chunks, per_item, state)
            state = lax.fori_loop(late + chunks, last, without_pixels, state)
            mgpu.barrier_arrive(done)
            return state

        _, sums = self.each_strip(worker, per_strip, (jnp.int32(0), self.no_sums(self.tiling.sums)))
        self._store(gmem, sums, worker, me)

    def _place(self, worker: Array) -> tuple[Array, Array]:
        """(part, channel block) of a worker's sums."""
        blocks = jnp.int32(self.problem.channel_blocks)
        return lax.div(worker, blocks), lax.rem(worker, blocks)

    def _store(self, gmem: Global, sums: list[Array], worker: Array, me: Array) -> None:
        """Store a consumer's sums, as a part of the result that no other has."""
        part, block = self._place(worker)
        places = itertools.product(range(self.tiling.groups), range(self.tiling.blocks))
        whole = mgpu.ds(0, hankel.SUMS[0]), mgpu.ds(0, ROWS)
        for place, value in zip(places, sums, strict=True):
            where = part, block * CONSUMERS + me, *place, *whole
            mgpu.store(gmem.outs[0], where, value, interpret=self.views.interpret)
