"""The forward product and the input gradient: sums over taps, of input pixels times weights, for every output pixel.

A warpgroup takes the input rows of a tile in turn. Their fragments are loaded once for each distance along the row, and serve
every output row and phase that they are summed into. An output row is finished, and staged for its store, when the last of its
input rows has come. So few sums are in registers at once, however many rows a tile has.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..epilogue import Epilogue
from . import fragments
from .fragments import Fragment
from .operands import Views
from .plan import CHANNELS, PIXELS
from .schedule import Schedule, Strip
from .strips import Consumer, Global, Place, Shared, Strips
from .taps import Key, Term


class Weights(NamedTuple):
    """Registers that a consumer keeps from beginning to end: its channels' weights, and what sums begin with."""

    taps: list[Fragment]
    first: Array


class Staging(NamedTuple):
    """Shared memory that TMA stores results from, and loads the residual into."""

    buffers: Any  # [consumers, outputs, phases, *tile_pixels, 32]
    residual_full: Any = None  # one barrier a consumer


class PixelSums(Strips):
    """See above."""

    def __init__(self, schedule: Schedule, views: Views, epilogue: Epilogue):
        super().__init__(schedule, views)
        self.epilogue, self.phases = epilogue, len(self.problem.phases)

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        results = self.views.outputs
        return [jax.ShapeDtypeStruct(results.shape, results.dtype)] * len(self.epilogue.outputs)

    def own_scratch_types(self) -> list[Any]:
        staged = self.cfg.consumers, len(self.epilogue.outputs), self.phases, *self.cfg.tile_pixels, CHANNELS
        residual_full = mgpu.Barrier(num_arrivals=self.phases, num_barriers=self.cfg.consumers)
        return [
            mgpu.swizzled(staged, self.views.outputs.dtype, interpret=self.views.interpret),
            *([residual_full] if self.problem.residual else []),
        ]

    def produce(self, gmem: Global, shared: Shared, worker: Array) -> None:
        load = lambda strip, slot: self.load_chunks(gmem, shared, strip, 0, self.schedule.chunks(strip), slot)
        shared.ring.drain(self.each_strip(worker, load, jnp.int32(0)))

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Consumer) -> None:
        staging = Staging(*shared.others)
        shared.ring.hand_over()
        weights = self.weights(gmem, self.schedule.strip(worker, jnp.int32(0)), me)

        def per_strip(strip: Strip, first: Array) -> Array:
            self.wait_for_shared(shared, first)

            def per_tile(tile: Array, first: Array) -> Array:
                self._load_residual(gmem, staging, strip, tile, me)
                self._sum(shared, staging, first, weights, me)
                mgpu.commit_smem()  # results before TMA reads them, and what was read before TMA overwrites it
                first = self.release(shared, first, self.tiling.advance)
                self.store(gmem.outs, staging, strip, tile, me)
                return first

            return self.release(shared, lax.fori_loop(0, strip.tiles, per_tile, first), self.tiling.shared_chunks)

        self.each_strip(worker, per_strip, jnp.int32(0))
        mgpu.wait_smem_to_gmem(0)

    def weights(self, gmem: Global, strip: Strip, me: Consumer) -> Weights:
        """The weights of all taps for a consumer's channels, and the bias, or zeros."""
        channels = mgpu.ds(strip.channel + me.channel, CHANNELS)
        weights = [self.engine.weights(gmem.w, tap, channels) for tap in range(self.problem.taps)]
        if gmem.bias is None:
            return Weights(weights, fragments.zeros(self.engine))
        return Weights(weights, fragments.per_channel(self.engine, gmem.bias.at[channels]))

    def _window(self, strip: Strip, tile: Array, phase: int, me: Consumer) -> tuple[Any, ...]:
        """Indices of a consumer's tile in a result, and in the residual."""
        planes, rows, columns = self.cfg.tile_pixels
        first = strip.plane, strip.row + tile * rows, strip.column + me.column, strip.channel + me.channel
        extents = planes, rows, columns, CHANNELS
        *pixels, channels = [mgpu.ds(at, extent) for at, extent in zip(first, extents, strict=True)]
        return (*self.views.output_at(strip.image, pixels, self.problem.phases[phase]), channels)

    def store(self, outs: Sequence[Any], staging: Staging, strip: Strip, tile: Array, me: Consumer) -> None:
        """Store what is staged of a tile, every output of every phase."""
        for output, phase in itertools.product(range(len(self.epilogue.outputs)), range(self.phases)):
            to = outs[output].at[self._window(strip, tile, phase, me)]
            mgpu.copy_smem_to_gmem(staging.buffers.at[me.number, output, phase, *self.views.missing], to)

    def _load_residual(self, gmem: Global, staging: Staging, strip: Strip, tile: Array, me: Consumer) -> None:
        """Load the residual, if any, into the staging buffers of the first output, once they are free."""
        if gmem.residual is None:
            return
        mgpu.wait_smem_to_gmem(0, wait_read_only=True)
        for phase in range(self.phases):
            mgpu.copy_gmem_to_smem(
                gmem.residual.at[self._window(strip, tile, phase, me)],
                staging.buffers.at[me.number, 0, phase, *self.views.missing],
                barrier=staging.residual_full.at[me.number],
                oob_mode=mgpu.OOBFillMode.ZEROS,
            )

    def _sum(self, shared: Shared, staging: Staging, first: Array, weights: Weights, me: Consumer) -> None:
        """Sum a tile whose chunks begin in slot `first`, and stage it. Everything here but that slot is known beforehand."""
        chunks, may_stage = self.chunks_of_tile(shared, first), False
        for plane, place in itertools.product(range(self.cfg.tile_pixels[0]), range(self.cfg.fragments)):
            sums: dict[Key, Array] = {}
            for row, reads in self.rows_read(chunks, plane, me.column + place * PIXELS):
                for into, at in reads:
                    self._add_row(sums, into, shared, at, weights, me)
                for phase, out_row in self.tiling.finished_by(row):
                    if not may_stage:
                        self.wait_for_staging(staging, me)
                        may_stage = True
                    z = sums.pop((phase, out_row), weights.first)
                    self.stage(staging, (me.number, phase, plane, out_row, place), z)
        chunks.wait()

    def _add_row(
        self,
        sums: dict[Key, Array],
        into: dict[Key, list[Term]],
        shared: Shared,
        at: Place,
        weights: Weights,
        me: Consumer,
    ) -> None:
        """Add an input row, of a plane that an output plane reaches, to all sums that it belongs to."""
        moves = sorted({term.move for terms in into.values() for term in terms})
        for some in itertools.batched(moves, self.problem.row_fragments):
            self.add(sums, into, self.load_fragments(shared, at, some, me, self.engine.load), weights)

    def add(
        self, sums: dict[Key, Array], into: dict[Key, list[Term]], loaded: dict[int, Fragment], weights: Weights
    ) -> None:
        """Add the pixels of an input row at some distances along it to all sums that they belong to."""
        for key, terms in into.items():
            if here := [term for term in terms if term.move in loaded]:
                xs, ws = [loaded[term.move] for term in here], [weights.taps[term.tap] for term in here]
                sums[key] = self.engine.multiply(sums.get(key, weights.first), xs, ws)

    def wait_for_staging(self, staging: Staging, me: Consumer) -> None:
        """Wait until results may be staged: the last tile's have been stored, and then the residual, if any, is there."""
        if staging.residual_full is None:
            mgpu.wait_smem_to_gmem(0, wait_read_only=True)
        else:
            mgpu.barrier_wait(staging.residual_full.at[me.number])

    def stage(self, staging: Staging, at: tuple[Any, int, Any, int, Any], z: Array) -> None:
        """Finish sums, and put them where TMA will store them from."""
        consumer, phase, plane, row, place = at
        pixels = mgpu.ds(place * PIXELS, PIXELS)
        where = lambda output: (consumer, output, phase, plane, row, pixels)
        if staging.residual_full is not None:
            z = z + fragments.pixels(self.engine, staging.buffers.at[where(0)]).astype(z.dtype)
        for output, value in self.epilogue(z, self.views.outputs.dtype):
            mgpu.store(staging.buffers, where(output), value, interpret=self.views.interpret, in_shared_memory=True)
