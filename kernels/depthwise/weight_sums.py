"""The weight gradient, and the bias gradient: sums over pixels, of input pixels times the cotangent, for every tap.

    dw[tap] = sum_{images n, output pixels q} x[n, q * in_stride + offset + tap * tap_stride] * ct[n, q]

Blocks walk down the strips of forward products, and beside the input rows of a tile comes their partner, the cotangent. A
warpgroup takes the input rows in turn: a fragment of pixels is loaded once for each distance along the row, and multiplied with
the cotangent of every output row and phase that a tap joins it to. Tensor cores multiply the pixels of two taps: neighbours in
a row, and where there is an odd number, the last of two rows, so that 7x7 taps take 25 products and not 28. A fragment of the
cotangent is loaded once for all its taps, and stays in registers while input rows come that it is joined to.

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
from .fragments import Engine, Fragment
from .plan import CHANNELS, LANES, PIXELS, WARPS
from .schedule import Strip
from .strips import Chunks, Consumer, Global, Shared, Strips
from .taps import Key, Term

type Taps = tuple[int, ...]  # of an accumulator
type At = tuple[Array, Array]  # in a consumer's tile: the number of a plane, and of 16 columns in it


class Partners(NamedTuple):
    """The partners of the pixels in shared memory, tile by tile: the cotangent, or in a backward pass x."""

    pixels: Any  # [stages, phases, planes, rows, columns, channels and skew]
    ring: Ring


class Sums(NamedTuple):
    """The sums of a consumer: of the taps that an accumulator has together, and of the cotangent."""

    taps: dict[Taps, Fragment]
    bias: list[Fragment]  # one, or none


# Fragments of pixels, at most, that are loaded between two barriers of a warp: two rows of 7x7 taps. With more, ptxas spilled.
AHEAD = 14


class Products:
    """The products of a place in a tile, and the sums that they are added to.

    An accumulator of taps in two rows has its products when pixels of both are there; those of the first one wait.

    A place is one long line of code. ptxas begins it with as many loads as it has registers for, and at times with a few more:
    then it spills others. But it moves no load past a barrier of a warp. So one comes before loads that would make more than
    `most_ahead` fragments of pixels since the last one. Those of the partner are not counted.
    """

    def __init__(self, engine: Engine, sums: dict[Taps, Fragment], most_ahead: int):
        self.engine, self.sums, self.most_ahead = engine, dict(sums), most_ahead
        self.accumulator_of = {tap: taps for taps in sums for tap in taps}
        self.waiting: dict[tuple[Key, Taps], dict[int, Fragment]] = {}
        self.ahead = 0

    def about_to_load(self, fragments: int) -> None:
        """Hold these loads back if they are too many, with those since loads were last held back."""
        if self.ahead + fragments > self.most_ahead:
            self.engine.hold_back()
            self.ahead = 0
        self.ahead += fragments

    def add(self, key: Key, pixels: dict[int, Fragment], partner: Callable[[Key], Array]) -> None:
        """Multiply pixels of an input row, by their taps, with the partner of the output row `key`.

        The taps are of one accumulator. Where it has a tap in another row, the pixels of the first one wait for the others.
        """
        taps = self.accumulator_of[min(pixels)]
        pixels = self.waiting.pop((key, taps), {}) | pixels
        if len(pixels) < len(taps):
            self.waiting[key, taps] = pixels
        else:
            xs = [pixels[tap] for tap in taps]
            self.sums[taps] = self.engine.sum_pixels(self.sums[taps], xs, partner(key))

    def all(self) -> dict[Taps, Fragment]:
        """The sums, once no pixels wait."""
        assert not self.waiting, self.waiting.keys()
        return self.sums


class Slots(NamedTuple):
    """The slots of a tile: the first of its chunks, and that of its partner."""

    first: Array
    partner: Array


class WeightSums(Strips):
    """See above."""

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(self.tiling.sums_shape(self.schedule.num_sms), jnp.float32)]

    def own_scratch_types(self) -> list[Any]:
        stages = self.tiling.tiles_in_ring
        slots = stages, *self.tiling.partner_pixels, self.tiling.pixel_elements
        barriers = Ring.barriers(stages, len(self.problem.phases), self.cfg.consumers, 1)
        return [mgpu.SMEM(slots, self.views.dtype), *barriers]

    def _partners(self, shared: Shared) -> Partners:
        pixels, full, empty = shared.others[:3]
        return Partners(pixels, Ring(self.tiling.tiles_in_ring, full, empty))

    def produce(self, gmem: Global, shared: Shared, worker: Array) -> None:
        """Load the partner of each tile before the chunks that only that tile and later ones need.

        Were it loaded earlier, its slot might be one that is free only after a tile whose chunks have not been loaded yet.
        """
        tiling, partners = self.tiling, self._partners(shared)

        def per_strip(strip: Strip, slots: Slots) -> Slots:
            slots = slots._replace(first=self.load_chunks(gmem, shared, strip, 0, tiling.shared_chunks, slots.first))

            def per_tile(tile: Array, slots: Slots) -> Slots:
                self._load_partner(gmem, partners, strip, tile, slots.partner)
                first = tile * tiling.advance + tiling.shared_chunks
                slot = self.load_chunks(gmem, shared, strip, first, first + tiling.advance, slots.first)
                return Slots(slot, partners.ring.next_slot(slots.partner))

            found: Slots = lax.fori_loop(0, strip.tiles, per_tile, slots)
            return found

        slots = self.each_strip(worker, per_strip, Slots(jnp.int32(0), jnp.int32(0)))
        shared.ring.drain(slots.first)
        partners.ring.drain(slots.partner)

    def _load_partner(self, gmem: Global, to: Partners, strip: Strip, tile: Array, slot: Array) -> None:
        """Load the partner of a tile, all phases of it, into a slot."""
        _, *extents = self.tiling.partner_pixels
        first = strip.plane, strip.row + tile * self.cfg.tile_pixels[1], strip.column
        pixels = [mgpu.ds(at, extent) for at, extent in zip(first, extents, strict=True)]
        to.ring.acquire(slot)
        for number, phase in enumerate(self.problem.phases):
            window = self.views.output_at(strip.image, pixels, phase)
            mgpu.copy_gmem_to_smem(
                gmem.partner.at[(*window, self.views.channels(strip.channel))],
                to.pixels.at[slot, number, *self.views.missing],
                barrier=to.ring.full.at[slot],
                oob_mode=mgpu.OOBFillMode.ZEROS,
            )

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Consumer) -> None:
        partners = self._partners(shared)
        shared.ring.hand_over()
        partners.ring.hand_over()
        weights = self.load_weights(gmem, worker, me)

        def per_strip(strip: Strip, state: tuple[Slots, Sums]) -> tuple[Slots, Sums]:
            slots, sums = state
            state = slots, self.begin_strip(sums, shared, strip, slots, me)

            def per_tile(tile: Array, state: tuple[Slots, Sums]) -> tuple[Slots, Sums]:
                slots, sums = state
                partners.ring.wait(slots.partner)
                sums = self.add_tile(sums, weights, shared, strip, tile, slots, me)
                mgpu.commit_smem()  # what was read before TMA overwrites it, and what was staged before TMA reads it
                partners.ring.release(slots.partner)
                slot = self.release(shared, slots.first, self.tiling.advance)
                self.finish_tile(gmem, shared, strip, tile, me)
                return Slots(slot, partners.ring.next_slot(slots.partner)), sums

            slots, sums = lax.fori_loop(0, strip.tiles, per_tile, state)
            return slots._replace(first=self.release(shared, slots.first, self.tiling.shared_chunks)), sums

        begin = Slots(jnp.int32(0), jnp.int32(0)), self._no_sums()
        _, sums = self.each_strip(worker, per_strip, begin)
        self._store(gmem, sums, worker, me)

    def load_weights(self, gmem: Global, worker: Array, me: Consumer) -> Any:
        """Load the weights that a consumer keeps in registers beside its sums: none."""

    def begin_strip(self, sums: Sums, shared: Shared, strip: Strip, slots: Slots, me: Consumer) -> Sums:
        """Wait for what the first two tiles of a strip have in common."""
        self.wait_for_shared(shared, slots.first)
        return sums

    def await_tile(self, sums: Sums, shared: Shared, strip: Strip, tile: Array, chunks: Chunks, me: Consumer) -> Sums:
        """Wait for the chunks of a tile."""
        chunks.wait()
        return sums

    def finish_tile(self, gmem: Global, shared: Shared, strip: Strip, tile: Array, me: Consumer) -> None:
        """Store what came of a tile by itself: nothing."""

    def _no_sums(self) -> Sums:
        none = self.engine.no_pixels()
        return Sums(dict.fromkeys(self.problem.accumulators, none), [self.engine.no_ones()] * self.problem.bias)

    def add_tile(
        self, sums: Sums, weights: Any, shared: Shared, strip: Strip, tile: Array, slots: Slots, me: Consumer
    ) -> Sums:
        """Add the products of a tile that is in these slots.

        A loop over the places of a row, and over planes: their code is the same. The compiler takes a number of trips that it
        knows for leave to unroll all of them, and then does not have registers enough. So it is not told.
        """
        chunks, planes, places = self.chunks_of_tile(shared, slots.first), self.cfg.tile_pixels[0], self.cfg.fragments
        sums = self.await_tile(sums, shared, strip, tile, chunks, me)

        def per_place(i: Array, sums: Sums) -> Sums:
            (plane, place), _ = unravel(i, (planes, places))
            return self.add_place(sums, weights, shared, chunks, slots, (plane, place), me)

        if planes * places == 1:
            return per_place(jnp.int32(0), sums)
        found: Sums = lax.fori_loop(0, jnp.where(strip.tiles > 0, planes * places, 0), per_place, sums)
        return found

    def add_place(
        self, sums: Sums, weights: Any, shared: Shared, chunks: Chunks, slots: Slots, at: At, me: Consumer
    ) -> Sums:
        """Add the products of 16 columns of a plane of the partner, of all its rows in the tile. at: their numbers."""
        products, bias = Products(self.engine, sums.taps, AHEAD), list(sums.bias)
        loaded, (plane, place) = dict[Key, Array](), at
        column = me.column + place * PIXELS

        def cotangent(key: Key) -> Array:
            if key not in loaded:
                loaded[key] = self.load_partner(shared, slots, key, plane, column, me)
                bias[:] = [self.engine.sum_pixels(b, [self.engine.ones()], loaded[key]) for b in bias]
            return loaded[key]

        for _, reads in self.rows_read(chunks, plane, column):
            for into, where in reads:
                pixels = functools.partial(self.load_fragments, shared, where, me=me, load=self.engine.load_summed)
                self.add_row(products, into, pixels, cotangent)
        if bias:  # of rows that no tap joins to any pixel, too
            for key in itertools.product(range(len(self.problem.phases)), range(self.cfg.tile_pixels[1])):
                cotangent(key)
        return Sums(products.all(), bias)

    def load_partner(self, shared: Shared, slots: Slots, key: Key, plane: Array, column: Array, me: Consumer) -> Array:
        """Load the partner of 16 columns of a row and phase."""
        (phase, row), channels = key, mgpu.ds(me.channel, CHANNELS)
        pixels = self._partners(shared).pixels
        line = lambda first, count: pixels.at[
            slots.partner, phase, plane, row, mgpu.ds(column + first, count), channels
        ]
        return self.engine.load_partner(line, [0])[0]

    def add_row(
        self,
        products: Products,
        into: dict[Key, list[Term]],
        pixels: Callable[[Sequence[int]], dict[int, Fragment]],
        partner: Callable[[Key], Array],
    ) -> None:
        """Add the products of an input row, in a plane that an output plane reaches.

        into: the output rows, of phases, that it is joined to, and the taps. pixels: loads those at distances along the row,
        each once. partner: loads that of an output row.
        """
        joined: dict[tuple[int, ...], list[tuple[Key, Taps]]] = {}
        for key, terms in into.items():
            for some in itertools.batched(terms, self.engine.together):
                moves, taps = tuple(term.move for term in some), tuple(term.tap for term in some)
                joined.setdefault(moves, []).append((key, taps))
        loaded: dict[int, Fragment] = {}
        for batch in itertools.batched(sorted(joined.items()), self.engine.at_once):
            missing = sorted({move for moves, _ in batch for move in moves if move not in loaded})
            products.about_to_load(len(missing))
            loaded |= pixels(missing)
            for moves, of_rows in batch:
                for key, taps in of_rows:
                    of_taps = dict(zip(taps, (loaded[move] for move in moves), strict=True))
                    products.add(key, of_taps, partner)

    def bias_of(self, acc: Fragment) -> Array:
        """The sums of the cotangent in their accumulator: [32], or [4, 32], those of each warp."""
        return self.engine.of_taps(acc, 1)[0][0]

    def _store(self, gmem: Global, sums: Sums, worker: Array, me: Consumer) -> None:
        """Store a consumer's sums, as a part of the result that no other has."""
        over_columns = lax.div(me.number, jnp.int32(self.cfg.channel_warpgroups))
        part = lax.div(worker, jnp.int32(self.tiling.channel_blocks)) * self.cfg.column_warpgroups + over_columns
        channels = mgpu.ds(self.schedule.strip(worker, jnp.int32(0)).channel + me.channel, CHANNELS)
        store = functools.partial(mgpu.store, gmem.outs[-1], interpret=self.views.interpret)
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
        found += [(self.problem.weights, self.bias_of(acc)) for acc in sums.bias]
        for place, value in found:
            parts = part if self.problem.on_tensor_cores else mgpu.ds(part * WARPS, WARPS)
            store((parts, place, channels), value)
