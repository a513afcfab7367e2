"""The forward product and the input gradient: sums over taps, of input pixels times weights, for every output pixel.

    y[q, j] = sum_{r, k} x[q + r, j + k] w[r, k]

An input row r is added to all output rows that it is joined to, eight at a time. As `right` has the rows of taps from the last
to the first, those that join it to eight output rows lie one below the other, at a place that is the same for every eight. With
a kernel of 31 rows, chunks of eight input rows meet the sums of five eights of output rows:

    chunk 0   rows 0        .          .          .          .
    chunk 1   rows 0     rows 1        .          .          .
    chunk 4   rows 0     rows 1     rows 2     rows 3     rows 4         rows 0 are finished
    chunk 5              rows 1     rows 2     rows 3     rows 4     rows 5

So sums move up by one accumulator each chunk, the last is stored, and the first begins with the bias. Of small images all rows
have their sums in registers, and are stored when the last chunk was added: rows of padding, and rows of taps that join an input
row to no output, are then left out.

One thing to know: pixels are multiplied with the zeros around weights. One that is infinite or NaN makes NaN of up to fifteen
columns and seven rows more than its taps reach, and of all rows of a strip whose sums stay in registers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..epilogue import Epilogue
from . import hankel
from .hankel import SUMS
from .operands import Views
from .plan import BLOCK, BUFFERS, CHANNELS, CONSUMERS, ROWS, WARPS
from .schedule import Schedule, Strip
from .strips import Global, Shared, Strips


class Staging(NamedTuple):
    """Shared memory for results on their way out, and its barriers. Two buffers of each take turns.

    results   [2, outputs, 8 channels, rows, columns], which consumers have four channels of
    stored    [2 consumers, 2, outputs, 4 rows, columns, 8 channels], which TMA stores from
    weights   TMA has loaded the weights
    written   of each buffer of results: both consumers have written it
    """

    results: Any
    stored: Any
    weights: Any
    written: Any


class Mine(NamedTuple):
    """A consumer: the memory it works with, what its sums begin with, its number."""

    gmem: Global
    shared: Shared
    staging: Staging
    first_sums: list[Array]
    number: Array


class PixelSums(Strips):
    """See above."""

    def __init__(self, schedule: Schedule, views: Views, epilogue: Epilogue):
        super().__init__(schedule, views)
        self.epilogue = epilogue

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        results = self.views.outputs
        return [jax.ShapeDtypeStruct(results.shape, results.dtype)] * len(self.epilogue.outputs)

    def own_scratch_types(self) -> list[Any]:
        t, dtype, outputs = self.tiling, self.views.outputs.dtype, self.problem.outputs
        return [
            mgpu.SMEM((BUFFERS, outputs, *t.result_shape), dtype),
            mgpu.SMEM((CONSUMERS, BUFFERS, outputs, *t.staged_shape), dtype),
            mgpu.Barrier(num_arrivals=1, num_barriers=1),
            mgpu.Barrier(num_arrivals=CONSUMERS, num_barriers=BUFFERS),
        ]

    def begin(self, gmem: Global, shared: Shared, worker: Array) -> None:
        channels = mgpu.ds(self.schedule.strip(worker, jnp.int32(0)).channel, CHANNELS)
        mgpu.copy_gmem_to_smem(gmem.w.at[channels], shared.right, barrier=Staging(*shared.others).weights.at[0])

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Array) -> None:
        staging = Staging(*shared.others)
        first_sums = [self._first_sums(gmem, self.schedule.strip(worker, jnp.int32(0)), me)] * self.tiling.blocks
        mgpu.barrier_wait(staging.weights.at[0])
        walk = self._walk_resident if self.tiling.resident else self._walk_moving
        mine = Mine(gmem, shared, staging, first_sums, me)
        self.each_strip(worker, functools.partial(walk, mine), (jnp.int32(0), jnp.int32(0)))
        mgpu.wait_smem_to_gmem(0)

    def _walk_moving(self, mine: Mine, strip: Strip, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """Sum a strip, chunk by chunk, and store what each is the last of. state: the next buffers of pixels and of results."""
        (buffer, place), groups, blocks = state, self.tiling.groups, self.tiling.blocks
        last_row = self.tiling.rows_of_zeros - 1  # of the eight that join a row to itself
        rows = lambda row, group: last_row - ROWS * group - row

        def finish(chunk: Array, sums: list[Array], place: Array) -> tuple[list[Array], Array]:
            """Store the sums that a chunk is the last of, and move up the others."""
            place = self._store(mine, strip, chunk - (groups - 1), sums[-blocks:], place)
            return [*mine.first_sums, *sums[:-blocks]], place

        def per_chunk(chunk: Array, state: Any) -> Any:
            buffer, place, sums = state
            sums, place = finish(chunk, self.add_chunk(sums, mine.shared, buffer, rows, mine.number), place)
            return 1 - buffer, place, sums

        def without_pixels(chunk: Array, state: Any) -> Any:
            sums, place = state
            return finish(chunk, sums, place)

        _, first, last, _ = strip.rows
        sums, place = lax.fori_loop(0, first, without_pixels, (mine.first_sums * groups, place))
        buffer, place, sums = lax.fori_loop(first, last, per_chunk, (buffer, place, sums))
        _, place = lax.fori_loop(last, self.tiling.chunks, without_pixels, (sums, place))
        return buffer, place

    def _walk_resident(self, mine: Mine, strip: Strip, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """Sum a strip, then store it. state: the next buffers of pixels and of results."""
        (buffer, place), tiles, blocks = state, self.tiling.groups, self.tiling.blocks
        zeros = self.tiling.rows_of_zeros

        def per_chunk(chunk: Array, state: Any) -> Any:
            buffer, sums = state

            def rows(row: int, tile: int) -> Array:
                further = self.from_first(strip, chunk, row) - tile * ROWS
                return jnp.where((further >= 0) & (further < zeros), zeros - 1 - further, zeros)

            return 1 - buffer, self.add_chunk(sums, mine.shared, buffer, rows, mine.number)

        buffer, sums = lax.fori_loop(strip.rows.first, strip.rows.last, per_chunk, (buffer, mine.first_sums * tiles))
        for tile in range(tiles):
            place = self._store(mine, strip, jnp.int32(tile), sums[tile * blocks : (tile + 1) * blocks], place)
        return buffer, place

    def _first_sums(self, gmem: Global, strip: Strip, me: Array) -> Array:
        """The bias of a consumer's channels, or zeros."""
        (zeros,) = self.no_sums(1)
        if gmem.bias is None:
            return zeros
        rows = mgpu.ds((strip.channel + me * WARPS) * BLOCK, SUMS[0])
        bias = mgpu.load(gmem.bias.at[rows], layout=mgpu.Layout.WGMMA.reduce(1), optimized=False)
        row: Array = mgpu.layout_cast(lax.broadcast_in_dim(bias, SUMS, (0,)), mgpu.Layout.WGMMA)
        return row

    def _store(self, mine: Mine, strip: Strip, tile: Array, sums: list[Array], place: Array) -> Array:
        """Store eight output rows of a strip, if there are any. Returns the place of the next ones."""
        wanted = (tile >= 0) & (strip.row + tile * ROWS < self.problem.dims[0].out_size)

        @mgpu.when(wanted)
        def _():
            self._store_rows(mine, strip, tile, sums, place)

        return jnp.where(wanted, 1 - place, place)

    def _store_rows(self, mine: Mine, strip: Strip, tile: Array, sums: list[Array], place: Array) -> None:
        """Store eight output rows: each consumer writes its four channels of all, then stores all channels of four of them.

        A buffer of results is free when both consumers have written the other one: they read it before.
        """
        gmem, _, staging, _, me = mine
        channels = mgpu.ds(me * WARPS, WARPS)
        for block, z in enumerate(sums):
            for output, value in self.epilogue(z, self.views.outputs.dtype):
                to = staging.results.at[place, output, channels, mgpu.ds(0, ROWS), mgpu.ds(block * BLOCK, BLOCK)]
                hankel.interleave(value, to, interpret=self.views.interpret)
        mgpu.barrier_arrive(staging.written.at[place])
        mgpu.barrier_wait(staging.written.at[place])
        mgpu.wait_smem_to_gmem(len(gmem.outs), wait_read_only=True)
        rows = ROWS // CONSUMERS
        for output in range(len(gmem.outs)):
            source = staging.results.at[place, output, :, mgpu.ds(me * rows, rows)]
            hankel.merge(source, staging.stored.at[me, place, output], interpret=self.views.interpret)
        mgpu.commit_smem()
        window = self.views.outputs_at(strip.image, strip.row + tile * ROWS + me * rows, strip.column, rows)
        for output, out in enumerate(gmem.outs):
            to = out.at[(*window, mgpu.ds(strip.channel, CHANNELS))]
            mgpu.copy_smem_to_gmem(staging.stored.at[me, place, output], to)
