"""The whole backward pass: input gradient, weight gradient and bias gradient, with x and the cotangent read once.

The taps of the input gradient join rows of the cotangent to rows of dx. The same pairs, with x in the place of dx, are those of
the weight gradient:

    dx[q]    +=                        ct[q + move] * w[tap]
    dw[tap]  +=  sum over pixels q of  ct[q + move] * x[q]

So blocks walk down the strips of dx, the pixels that taps read are the cotangent's, and x is their partner: the loop of
weight_sums.py, with the sums of pixel_sums.py in passing. Every fragment of the cotangent serves both. In 16 bits it is loaded
twice, since a lane has other elements of it for sums over taps than for sums over pixels.

A bias gradient is the sum of the cotangent's pixels at the places of a tile's outputs, one each.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax import Array

from .. import mosaic as mgpu
from ..epilogue import Epilogue
from .fragments import Fragment
from .operands import Views
from .pixel_sums import Key, PixelSums, Staging, Weights
from .plan import PIXELS
from .schedule import Schedule, Strip
from .strips import Chunks, Consumer, Global, Place, Shared
from .taps import Term
from .weight_sums import Slots, Sums, WeightSums


class Backward(WeightSums):
    """See above."""

    def __init__(self, schedule: Schedule, views: Views):
        super().__init__(schedule, views)
        self.over_taps = PixelSums(schedule, views, Epilogue())

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        return [*self.over_taps.out_type(), *super().out_type()]

    def own_scratch_types(self) -> list[Any]:
        return [*super().own_scratch_types(), *self.over_taps.own_scratch_types()]

    def _staging(self, shared: Shared) -> Staging:
        return Staging(shared.others[-1])

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Consumer) -> None:
        super().consume(gmem, shared, worker, me)
        mgpu.wait_smem_to_gmem(0)

    def kept(self, gmem: Global, worker: Array, me: Consumer) -> Weights:
        """The weights."""
        return self.over_taps.weights(gmem, self.schedule.strip(worker, worker * 0), me)

    def finish_tile(self, gmem: Global, shared: Shared, strip: Strip, tile: Array, me: Consumer) -> None:
        """Store dx of a tile."""
        self.over_taps.store(gmem.outs, self._staging(shared), strip, tile, me)

    def add_tile(self, sums: Sums, kept: Any, shared: Shared, strip: Strip, slots: Slots, me: Consumer) -> Sums:
        """The same, once the tile before has been stored."""
        self.over_taps.wait_for_staging(self._staging(shared), me)
        return super().add_tile(sums, kept, shared, strip, slots, me)

    def add_place(
        self, sums: Sums, kept: Any, shared: Shared, chunks: Chunks, slots: Slots, at: tuple[Array, Array], me: Consumer
    ) -> Sums:
        """Add the products of 16 columns of a plane of x, of all its rows in the tile, and stage dx there."""
        taps, dx, loaded, (plane, place) = dict(sums.taps), dict[Key, Array](), dict[Key, Array](), at
        tiling, column = self.tiling, me.column + place * PIXELS

        def x(key: Key) -> Array:
            if key not in loaded:
                loaded[key] = self.load_partner(shared, slots, key, plane, column, me)
            return loaded[key]

        for row in range(tiling.tile_rows):
            lines = chunks.lines(row)
            for reached in range(tiling.reaches[0].length + 1):
                into = tiling.row_terms[reached, row]
                where = Place(lines, plane * self.problem.dims[0].in_stride + reached, column)
                self.add_row(taps, into, functools.partial(self._add_dx, dx, into, kept, shared, where, me), x)
            for phase, out_row in tiling.finished_by(row):
                z = dx.pop((phase, out_row), kept.first)
                self.over_taps.stage(self._staging(shared), (me.number, phase, plane, out_row, place), z)
        return Sums(taps, [self._add_cotangent(b, shared, chunks, (plane, column), me) for b in sums.bias])

    def _add_dx(
        self,
        dx: dict[Key, Array],
        into: dict[Key, list[Term]],
        weights: Weights,
        shared: Shared,
        at: Place,
        me: Consumer,
        moves: Sequence[int],
    ) -> dict[int, Fragment]:
        """Load a row of the cotangent at some distances along it, and add it to the rows of dx that it belongs to."""
        loaded = self.load_fragments(shared, at, moves, me, self.engine.load_both)
        self.over_taps.add(dx, into, {move: pixels for move, (pixels, _) in loaded.items()}, weights)
        return {move: pixels for move, (_, pixels) in loaded.items()}

    def _add_cotangent(
        self, bias: Fragment, shared: Shared, chunks: Chunks, at: tuple[Array, Array], me: Consumer
    ) -> Fragment:
        """Add the cotangent at the places of a tile's outputs. at: their plane, and the first column."""
        (first_plane, _), (first_row, _), _ = self.tiling.reaches
        for row in range(self.cfg.tile_pixels[1]):
            where = Place(chunks.lines(row - first_row), at[0] - first_plane, at[1])
            (pixels,) = self.load_fragments(shared, where, [0], me, self.engine.load_partner).values()
            bias = self.engine.sum_pixels(bias, [self.engine.ones()], pixels)
        return bias
