"""The weight gradient, and the bias gradient: sums over pixels, of input pixels times the cotangent, for every tap.

    dw[tap] = sum_{images n, output pixels q} x[n, q * in_stride + offset + tap * tap_stride] * ct[n, q]

Blocks walk down the strips of forward products, and beside the input rows of a tile comes its cotangent. A warpgroup takes the
input rows in turn: a fragment of pixels is loaded once for each distance along the row, and multiplied with the cotangent of
every output row and phase that a tap joins it to. A fragment of the cotangent is loaded once for all its taps, and stays in
registers while input rows come that it is joined to.

The sums of all taps stay in registers until a block has seen all its pixels. Each warpgroup then stores its own, in float32
each warp, and XLA adds them, always in the same order.

One thing to know: a tile that ends beyond the cotangent multiplies zeros with pixels. If such a pixel is infinite or NaN, so is
the gradient of taps that never meet it, where the definition has a finite one.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..ring import Ring
from ..scalars import unravel
from .fragments import Fragment, Line
from .plan import CHANNELS, LANES, PIXELS, WARPS
from .schedule import Strip
from .strips import Chunks, Consumer, Global, Shared, Strips
from .taps import Term

type Taps = tuple[int, ...]  # of an accumulator
type Key = tuple[int, int]  # a phase, and an output row of a tile


class _Cotangents(NamedTuple):
    """The cotangents of tiles in shared memory."""

    pixels: Any  # [stages, phases, planes, rows, columns, channels and skew]
    ring: Ring


class _Sums(NamedTuple):
    """The sums of a consumer: of the taps that an accumulator has together, and of the cotangent."""

    taps: dict[Taps, Fragment]
    bias: list[Fragment]  # one, or none


class WeightSums(Strips):
    """See above."""

    def load(self, line: Line, starts: Sequence[int]) -> list[Fragment]:
        return self.engine.load_summed(line, starts)

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(self.tiling.sums_shape(self.schedule.num_sms), jnp.float32)]

    def own_scratch_types(self) -> list[Any]:
        stages = self.tiling.tiles_in_ring
        slots = stages, *self.tiling.cotangent_pixels, self.tiling.pixel_elements
        barriers = Ring.barriers(stages, len(self.problem.phases), self.cfg.consumers, 1)
        return [mgpu.SMEM(slots, self.dtype), *barriers]

    def _cotangents(self, shared: Shared) -> _Cotangents:
        pixels, full, empty = shared.others
        return _Cotangents(pixels, Ring(self.tiling.tiles_in_ring, full, empty))

    def produce(self, gmem: Global, shared: Shared, worker: Array) -> None:
        """Load the cotangent of each tile before the chunks that only that tile and later ones need.

        Were it loaded earlier, its slot might be one that is free only after a tile whose chunks have not been loaded yet.
        """
        tiling, cotangents = self.tiling, self._cotangents(shared)

        def per_strip(strip: Strip, slots: tuple[Array, Array]) -> tuple[Array, Array]:
            slot, ct_slot = slots
            slot = self.load_chunks(gmem, shared, strip, 0, tiling.shared_chunks, slot)

            def per_tile(tile: Array, slots: tuple[Array, Array]) -> tuple[Array, Array]:
                slot, ct_slot = slots
                self._load_cotangent(gmem, cotangents, strip, tile, ct_slot)
                first = tile * tiling.advance + tiling.shared_chunks
                slot = self.load_chunks(gmem, shared, strip, first, first + tiling.advance, slot)
                return slot, cotangents.ring.following(ct_slot)

            found: tuple[Array, Array] = lax.fori_loop(0, strip.tiles, per_tile, (slot, ct_slot))
            return found

        slot, ct_slot = self.each_strip(worker, per_strip, (jnp.int32(0), jnp.int32(0)))
        shared.ring.drain(slot)
        cotangents.ring.drain(ct_slot)

    def _load_cotangent(self, gmem: Global, to: _Cotangents, strip: Strip, tile: Array, slot: Array) -> None:
        """Load the cotangent of a tile, all phases of it, into a slot."""
        _, *extents = self.tiling.cotangent_pixels
        first = strip.plane, strip.row + tile * self.cfg.tile_pixels[1], strip.column
        pixels = [mgpu.ds(at, extent) for at, extent in zip(first, extents, strict=True)]
        to.ring.acquire(slot)
        for number, phase in enumerate(self.problem.phases):
            window = self.views.output_at(strip.image, pixels, phase)
            mgpu.copy_gmem_to_smem(
                gmem.ct.at[(*window, self.views.channels(strip.channel))],
                to.pixels.at[slot, number, *self.views.missing],
                barrier=to.ring.full.at[slot],
                oob_mode=mgpu.OOBFillMode.ZEROS,
            )

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Consumer) -> None:
        cotangents = self._cotangents(shared)
        shared.ring.hand_over()
        cotangents.ring.hand_over()

        def per_strip(strip: Strip, state: tuple[Array, Array, _Sums]) -> tuple[Array, Array, _Sums]:
            first, ct_slot, sums = state
            self.wait_for_shared(shared, first)

            def per_tile(_: Array, state: tuple[Array, Array, _Sums]) -> tuple[Array, Array, _Sums]:
                first, ct_slot, sums = state
                cotangents.ring.wait(ct_slot)
                sums = self._add_tile(sums, shared, strip, first, ct_slot, me)
                mgpu.commit_smem()  # what was read before TMA overwrites it
                cotangents.ring.release(ct_slot)
                return self.release(shared, first, self.tiling.advance), cotangents.ring.following(ct_slot), sums

            first, ct_slot, sums = lax.fori_loop(0, strip.tiles, per_tile, (first, ct_slot, sums))
            return self.release(shared, first, self.tiling.shared_chunks), ct_slot, sums

        *_, sums = self.each_strip(worker, per_strip, (jnp.int32(0), jnp.int32(0), self._no_sums()))
        self._store(gmem, sums, worker, me)

    def _no_sums(self) -> _Sums:
        none = self.engine.no_pixels()
        return _Sums(dict.fromkeys(self.problem.accumulators, none), [self.engine.no_ones()] * self.problem.bias)

    def _add_tile(self, sums: _Sums, shared: Shared, strip: Strip, first: Array, ct_slot: Array, me: Consumer) -> _Sums:
        """Add the products of a tile whose chunks begin in slot `first`.

        A loop over the places of a row, and over planes: their code is the same. The compiler takes a number of trips that it
        knows for leave to unroll all of them, and then does not have registers enough. So it is not told.
        """
        chunks, planes, places = self.chunks_of_tile(shared, first), self.cfg.tile_pixels[0], self.cfg.fragments
        chunks.wait()

        def per_place(i: Array, sums: _Sums) -> _Sums:
            (plane, place), _ = unravel(i, (planes, places))
            return self._add_place(sums, shared, chunks, ct_slot, (plane, place), me)

        if planes * places == 1:
            return per_place(jnp.int32(0), sums)
        found: _Sums = lax.fori_loop(0, jnp.where(strip.tiles > 0, planes * places, 0), per_place, sums)
        return found

    def _add_place(
        self, sums: _Sums, shared: Shared, chunks: Chunks, ct_slot: Array, at: tuple[Array, Array], me: Consumer
    ) -> _Sums:
        """Add the products of 16 columns of a plane of the cotangent, of all its rows in the tile. at: their numbers."""
        taps, bias, loaded, (plane, place) = dict(sums.taps), list(sums.bias), dict[Key, Array](), at
        cotangents, column = self._cotangents(shared).pixels, me.column + place * PIXELS
        channels = mgpu.ds(me.channel, CHANNELS)

        def cotangent(key: Key) -> Array:
            if key not in loaded:
                phase, row = key
                line = lambda first, count: cotangents.at[
                    ct_slot, phase, plane, row, mgpu.ds(column + first, count), channels
                ]
                loaded[key] = self.engine.load_cotangent(line)
                bias[:] = [self.engine.sum_pixels(b, [self.engine.ones()], loaded[key]) for b in bias]
            return loaded[key]

        for row, reached in itertools.product(range(self.tiling.tile_rows), range(self.tiling.reaches[0].length + 1)):
            source = plane * self.problem.dims[0].in_stride + reached
            pixels = functools.partial(self.load_fragments, shared, chunks.lines(row), source, column, me=me)
            self._add_row(taps, self.tiling.row_terms[reached, row], pixels, cotangent)
        if bias:  # of rows that no tap joins to any pixel, too
            for key in itertools.product(range(len(self.problem.phases)), range(self.cfg.tile_pixels[1])):
                cotangent(key)
        return _Sums(taps, bias)

    def _add_row(
        self,
        sums: dict[Taps, Fragment],
        into: dict[Key, list[Term]],
        pixels: Callable[[Sequence[int]], dict[int, Fragment]],
        cotangent: Callable[[Key], Array],
    ) -> None:
        """Add the products of an input row, in a plane that an output plane reaches.

        into: the output rows, of phases, that it is joined to, and the taps. pixels: loads those at distances along the row.
        """
        joined: dict[tuple[int, ...], list[tuple[Key, Taps]]] = {}
        for key, terms in into.items():
            for some in itertools.batched(terms, self.engine.together):
                moves, taps = tuple(term.move for term in some), tuple(term.tap for term in some)
                joined.setdefault(moves, []).append((key, taps))
        loaded: dict[int, Fragment] = {}
        for batch in itertools.batched(sorted(joined.items()), self.engine.at_once):
            loaded |= pixels(sorted({move for moves, _ in batch for move in moves if move not in loaded}))
            for moves, products in batch:
                xs = [loaded[move] for move in moves]
                for key, taps in products:
                    sums[taps] = self.engine.sum_pixels(sums[taps], xs, cotangent(key))

    def _store(self, gmem: Global, sums: _Sums, worker: Array, me: Consumer) -> None:
        """Store a consumer's sums, as a part of the result that no other has."""
        over_columns = lax.div(me.number, jnp.int32(self.cfg.channel_warpgroups))
        part = lax.div(worker, jnp.int32(self.tiling.channel_blocks)) * self.cfg.column_warpgroups + over_columns
        channels = mgpu.ds(self.schedule.strip(worker, jnp.int32(0)).channel + me.channel, CHANNELS)
        store = functools.partial(mgpu.store, gmem.outs[0], interpret=self.views.interpret)
        if self.problem.whole_matrices:
            for place, acc in enumerate([*sums.taps.values(), *sums.bias]):
                store((part, place, mgpu.ds(0, 2 * LANES), channels), acc)
            return
        found = [
            (tap * self.problem.group + i, value)
            for taps, acc in sums.taps.items()
            for tap, of_group in zip(taps, self.engine.of_taps(acc, len(taps)), strict=True)
            for i, value in enumerate(of_group)
        ]
        found += [(self.problem.weights, self.engine.of_taps(acc, 1)[0][0]) for acc in sums.bias]
        for place, value in found:
            parts = part if self.problem.on_tensor_cores else mgpu.ds(part * WARPS, WARPS)
            store((parts, place, channels), value)
