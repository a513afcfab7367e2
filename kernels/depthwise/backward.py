"""The whole backward pass: input gradient, weight gradient and bias gradient, with x and the cotangent read once.

The taps of the input gradient join rows of the cotangent to rows of dx. The same pairs, with x in the place of dx, are those of
the weight gradient:

    dx[q]    +=                        ct[q + move] * w[tap]
    dw[tap]  +=  sum over pixels q of  ct[q + move] * x[q]

So blocks walk down the strips of dx, the pixels that taps read are the cotangent's, and x is their partner: the loop of
weight_sums.py, with the sums of pixel_sums.py in passing. Every fragment of the cotangent serves both. In 16 bits it is loaded
twice, since a lane has other elements of it for sums over taps than for sums over pixels.

For a bias gradient, a tile of dx adds the cotangent's pixels at its own coordinates, divided by the stride where dx has phases.

With an activation, the cotangent is multiplied by its derivative, which is read from what the forward pass saved. Both come
into a slot of the ring. As a chunk arrives, each consumer multiplies the pixels of its channels, once, in the place of the
cotangent. The sum for a bias gradient is taken on the way, before products are rounded.

One thing to know: at its borders x is multiplied with zeros beyond the cotangent's. If such a pixel of x is infinite or NaN, so
are the gradients of all taps of its channel, where the definition has finite ones of those that never meet it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..derivatives import DERIVATIVES
from ..epilogue import Epilogue
from ..mma import broadcasted_iota
from ..scalars import unravel
from . import fragments
from .fragments import Fragment
from .operands import Views
from .pixel_sums import PixelSums, Staging, Weights
from .plan import CHANNELS, PIXELS
from .schedule import Schedule, Strip
from .strips import Chunks, Consumer, Global, Place, Shared
from .taps import Key, Term
from .weight_sums import At, Products, Slots, Sums, WeightSums

AHEAD = 4  # as weight_sums.AHEAD: each is loaded twice, and there are sums over taps and results in registers, too


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

    def load_weights(self, gmem: Global, worker: Array, me: Consumer) -> Weights:
        """Load the weights, and what sums over taps begin with: zeros."""
        return self.over_taps.weights(gmem, self.schedule.strip(worker, jnp.int32(0)), me)

    def finish_tile(self, gmem: Global, shared: Shared, strip: Strip, tile: Array, me: Consumer) -> None:
        """Store dx of a tile."""
        self.over_taps.store(gmem.outs, self._staging(shared), strip, tile, me)

    def begin_strip(self, sums: Sums, shared: Shared, strip: Strip, slots: Slots, me: Consumer) -> Sums:
        if not self.problem.derivative:
            return super().begin_strip(sums, shared, strip, slots, me)
        chunks = range(self.tiling.shared_chunks)
        arriving = [(self.slot_after(slots.first, chunk), jnp.int32(chunk)) for chunk in chunks]
        return self._multiply(sums, shared, strip, arriving, me)

    def await_tile(self, sums: Sums, shared: Shared, strip: Strip, tile: Array, chunks: Chunks, me: Consumer) -> Sums:
        if not self.problem.derivative:
            return super().await_tile(sums, shared, strip, tile, chunks, me)
        arriving = [(slot, tile * self.tiling.advance + chunk) for chunk, slot in chunks.arriving()]
        return self._multiply(sums, shared, strip, arriving, me)

    def _multiply(
        self, sums: Sums, shared: Shared, strip: Strip, arriving: list[tuple[Array, Array]], me: Consumer
    ) -> Sums:
        """Multiply the cotangent by the derivative in chunks that arrive, and sum the products at the places of outputs.

        arriving: the slots of chunks, and their numbers in the strip.
        """
        bias = sums.bias
        for slot, chunk in arriving:
            shared.ring.wait(slot)
            bias = self._multiply_chunk(bias, shared, strip, slot, chunk, me)
        mgpu.commit_smem()  # warps read what others multiplied
        return sums._replace(bias=bias)

    def _multiply_chunk(
        self, bias: list[Fragment], shared: Shared, strip: Strip, slot: Array, chunk: Array, me: Consumer
    ) -> list[Fragment]:
        """Multiply a chunk that is in a slot. chunk: its number in the strip."""
        planes, rows, columns = self.tiling.load_pixels
        (first_plane, _), (first_row, _), _ = self.tiling.reaches
        boxes = len(self.tiling.residues)

        def per_line(i: Array, bias: list[Fragment]) -> list[Fragment]:
            (box, plane, row), _ = unravel(i, (boxes, planes, rows))
            at_row, at_plane = chunk * rows + row + first_row, plane + first_plane
            own = (at_row >= 0) & (at_row < strip.tiles * self.cfg.tile_pixels[1])
            own &= (at_plane >= 0) & (at_plane < self.cfg.tile_pixels[0])
            return self._multiply_line(bias, shared, (slot, box, plane, row), own, columns, me)

        found: list[Fragment] = lax.fori_loop(0, boxes * planes * rows, per_line, bias)
        return found

    def _multiply_line(
        self, bias: list[Fragment], shared: Shared, at: tuple[Array, ...], own: Array, columns: int, me: Consumer
    ) -> list[Fragment]:
        """Multiply a line. own: whether it is one of outputs."""
        derivative, channels = DERIVATIVES[str(self.problem.derivative)], mgpu.ds(me.channel, CHANNELS)
        for first in range(0, columns, PIXELS):
            where = (*at, mgpu.ds(first, PIXELS), channels)
            ct, saved = (fragments.pixels(self.engine, ref.at[where]) for ref in (shared.pixels, shared.saved))
            g = ct.astype(jnp.float32) * derivative(saved.astype(jnp.float32))
            counted = own & self._at_outputs(first)
            bias = [self.engine.add_pixels(b, jnp.where(counted, g, jnp.float32(0))) for b in bias]
            mgpu.store(shared.pixels, where, g.astype(ct.dtype), interpret=self.views.interpret, in_shared_memory=True)
        return bias

    def _at_outputs(self, first: int) -> Array:
        """Whether each of 16 pixels of a line, from this one on, is at the place of an output: [16, 32]."""
        index = broadcasted_iota(jnp.int32, (PIXELS, CHANNELS), 0, layout=self.engine.layout)
        column = index + (first + self.tiling.first_column)
        return (column >= 0) & (column < self.cfg.columns)

    def bias_of(self, acc: Fragment) -> Array:
        return self.engine.of_pixels(acc) if self.problem.derivative else super().bias_of(acc)

    def add_tile(
        self, sums: Sums, weights: Any, shared: Shared, strip: Strip, tile: Array, slots: Slots, me: Consumer
    ) -> Sums:
        """The same, once TMA has read what was staged of the tile before."""
        self.over_taps.wait_for_staging(self._staging(shared), me)
        return super().add_tile(sums, weights, shared, strip, tile, slots, me)

    def add_place(
        self, sums: Sums, weights: Any, shared: Shared, chunks: Chunks, slots: Slots, at: At, me: Consumer
    ) -> Sums:
        """Add the products of 16 columns of a plane of x, of all its rows in the tile, and stage dx there."""
        products, dx, (plane, place) = Products(self.engine, sums.taps, AHEAD), dict[Key, Array](), at
        column = me.column + place * PIXELS
        x = functools.cache(lambda key: self.load_partner(shared, slots, key, plane, column, me))
        for row, reads in self.rows_read(chunks, plane, column):
            for into, where in reads:
                pixels = functools.partial(self._add_dx, dx, into, weights, shared, where, me)
                self.add_row(products, into, pixels, x)
            for phase, out_row in self.tiling.finished_by(row):
                z = dx.pop((phase, out_row), weights.first)
                self.over_taps.stage(self._staging(shared), (me.number, phase, plane, out_row, place), z)
        if self.problem.derivative:
            return Sums(products.all(), sums.bias)
        return Sums(products.all(), [self._add_cotangent(b, shared, chunks, (plane, column), me) for b in sums.bias])

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
