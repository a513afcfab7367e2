"""Thread blocks that walk down strips, eight input rows at a time: what both kernels of this family have in common.

A block has eight channels, one for each warp of two consumer warpgroups. A third warpgroup prepares what they read. TMA brings
pixels as they lie in memory, channels last, into a ring of slots; Hankel matrices want them channel by channel (hankel.py). So
it transposes chunk after chunk, into one of two buffers, while consumers multiply from the other:

    TMA          load 0 | load 1 | load 2 | load 3 ...                  into slots, as they have been transposed
    prepares              transpose 0 -> A | transpose 1 -> B | transpose 2 -> A ...
    consumers                                multiply A       | multiply B       | multiply A ...
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from . import hankel
from .hankel import SUMS
from .operands import Views
from .plan import BUFFERS, CHANNELS, CONSUMERS, ROWS, WARPS
from .schedule import Schedule, Strip

OPERANDS = ("pixels", "cotangent", "w", "bias")


class Global(NamedTuple):
    """The operands and results in global memory. Operands that a kernel does not have are None."""

    pixels: Any
    cotangent: Any
    w: Any
    bias: Any
    outs: tuple[Any, ...]


class Shared(NamedTuple):
    """The shared memory of a block, and its barriers.

    loaded    what TMA loads, [stages, rows, columns, 8 channels] each: pixels, and the cotangent of a weight gradient
    pixels    [2, 8 channels, rows, columns], transposed
    right     [8 channels, rows, columns]: what the matrices of pixels are multiplied with
    full      of each slot: TMA has loaded it
    ready     of each buffer of pixels: it has been written
    empty     of each buffer of pixels: consumers have read it
    others    what a kernel has beside them, as its `own_scratch_types`
    """

    loaded: tuple[Any, ...]
    pixels: Any
    right: Any
    full: Any
    ready: Any
    empty: Any
    others: tuple[Any, ...]


class Cursor(NamedTuple):
    """The chunk that is loaded next: a worker's strip, and the chunk within it."""

    strip: Array
    item: Array


class Strips:
    """A kernel's body. Its fields are static numbers; everything traced is an argument of a method."""

    def __init__(self, schedule: Schedule, views: Views):
        self.schedule, self.views = schedule, views
        self.problem, self.tiling, self.cfg = schedule.problem, schedule.tiling, schedule.tiling.cfg

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        """The results, as the kernel stores them."""
        raise NotImplementedError

    def own_scratch_types(self) -> list[Any]:
        """Shared memory and barriers beside those of all kernels."""
        raise NotImplementedError

    def begin(self, gmem: Global, shared: Shared, worker: Array) -> None:
        """Fill `right` as far as it is the same for all strips, as the warpgroup that prepares."""
        raise NotImplementedError

    def prepare_item(self, shared: Shared, item: Array, slot: Array, state: Any) -> Any:
        """Transpose what else is in a slot than pixels, as the warpgroup that prepares. state: what it returned before."""
        return state

    def finish_preparing(self, gmem: Global, worker: Array, state: Any) -> None:
        """Store what `prepare_item` returned at last."""

    def begin_strip(self, shared: Shared) -> None:
        """Wait, as the warpgroup that prepares, until consumers are done with what only the strip before had."""

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Array) -> None:
        """Sum, as a consumer. me: its number."""
        raise NotImplementedError

    def scratch_types(self) -> list[Any]:
        t, dtype = self.tiling, self.views.dtype
        loaded = [mgpu.SMEM((self.cfg.stages, *shape), dtype) for shape in t.loaded_shapes]
        return [
            *loaded,
            mgpu.SMEM((BUFFERS, *t.pixel_shape), dtype),
            mgpu.SMEM(t.right_shape, dtype),
            mgpu.Barrier(num_arrivals=len(loaded), num_barriers=self.cfg.stages),
            mgpu.Barrier(num_arrivals=1, num_barriers=BUFFERS),
            mgpu.Barrier(num_arrivals=CONSUMERS, num_barriers=BUFFERS),
            *self.own_scratch_types(),
        ]

    def body(self, names: tuple[str, ...], *refs: Any) -> None:
        """Run one warpgroup. names: those of the operands, which `refs` begins with."""
        n_in, n_out, n_loaded = len(names), len(self.out_type()), len(self.tiling.loaded_shapes)
        operands = dict.fromkeys(OPERANDS) | dict(zip(names, refs[:n_in], strict=True))
        gmem = Global(**operands, outs=refs[n_in : n_in + n_out])
        scratch = refs[n_in + n_out :]
        pixels, right, full, ready, empty, *others = scratch[n_loaded:]
        shared = Shared(scratch[:n_loaded], pixels, right, full, ready, empty, tuple(others))
        wg_idx, worker = lax.axis_index("wg"), lax.axis_index("sm")

        @mgpu.when(wg_idx == CONSUMERS)
        def _():
            self.prepare(gmem, shared, worker)

        @mgpu.when(wg_idx < CONSUMERS)
        def _():
            for buffer in range(BUFFERS):
                mgpu.barrier_arrive(shared.empty.at[buffer])
            self.consume(gmem, shared, worker, wg_idx)

    def prepare(self, gmem: Global, shared: Shared, worker: Array) -> None:
        """Load and transpose all chunks of all strips."""
        stages, strips = self.cfg.stages, self.schedule.strips_of(worker)
        first, _ = self.schedule.items(self.schedule.strip(worker, jnp.int32(0)))
        cursor = Cursor(jnp.int32(0), jnp.asarray(first, jnp.int32))
        for slot in range(stages):
            cursor = self._load(gmem, shared, worker, cursor, jnp.int32(slot))
        self.begin(gmem, shared, worker)

        def per_strip(i: Array, state: Any) -> Any:
            self.begin_strip(shared)

            def per_item(item: Array, state: Any) -> Any:
                cursor, slot, buffer, own = state
                mgpu.barrier_wait(shared.full.at[slot])
                mgpu.barrier_wait(shared.empty.at[buffer])
                rows = shared.pixels.at[buffer, :, mgpu.ds(0, ROWS)]
                hankel.transpose(shared.loaded[0].at[slot], rows, None, interpret=self.views.interpret)
                own = self.prepare_item(shared, item, slot, own)
                mgpu.commit_smem()  # what was written before consumers read it, what was read before TMA overwrites it
                mgpu.barrier_arrive(shared.ready.at[buffer])
                cursor = self._load(gmem, shared, worker, cursor, slot)
                return cursor, jnp.where(slot == stages - 1, 0, slot + 1), 1 - buffer, own

            return lax.fori_loop(*self.schedule.items(self.schedule.strip(worker, i)), per_item, state)

        begin = cursor, jnp.int32(0), jnp.int32(0), self.own_state()
        _, _, buffer, own = lax.fori_loop(0, strips, per_strip, begin)
        self.finish_preparing(gmem, worker, own)
        self.begin_strip(shared)  # a block must not end while consumers still arrive at its barriers
        for last in (buffer, 1 - buffer):
            mgpu.barrier_wait(shared.empty.at[last])

    def own_state(self) -> Any:
        """Make the state that `prepare_item` is given first."""
        return ()

    def _load(self, gmem: Global, shared: Shared, worker: Array, cursor: Cursor, slot: Array) -> Cursor:
        """Load the chunk at a cursor into a slot, if there is one. Returns the next."""
        strip = self.schedule.strip(worker, cursor.strip)
        next_strip = self.schedule.strip(worker, cursor.strip + 1)
        chunk = jnp.maximum(cursor.item - strip.rows.late, strip.rows.first)
        first_rows = strip.rows.top + chunk * ROWS - self.problem.first[0], strip.row + cursor.item * ROWS

        @mgpu.when(cursor.strip < self.schedule.strips_of(worker))
        def _():
            boxes = [(gmem.pixels, self.views.pixels_at), (gmem.cotangent, self.views.outputs_at)]
            for (source, at), row, to in zip(boxes, first_rows, shared.loaded, strict=False):
                window = *at(strip.image, row, strip.column), mgpu.ds(strip.channel, CHANNELS)
                mgpu.copy_gmem_to_smem(
                    source.at[window], to.at[slot], barrier=shared.full.at[slot], oob_mode=mgpu.OOBFillMode.ZEROS
                )

        ends = cursor.item + 1 == self.schedule.items(strip)[1]
        item = jnp.where(ends, self.schedule.items(next_strip)[0], cursor.item + 1)
        return Cursor(cursor.strip + ends.astype(jnp.int32), item)

    def each_strip(self, worker: Array, per_strip: Callable[[Strip, Any], Any], state: Any) -> Any:
        """Apply `per_strip` to all strips of a worker in turn, each time to the state that it returned before."""
        walk = lambda i, state: per_strip(self.schedule.strip(worker, i), state)
        return lax.fori_loop(0, self.schedule.strips_of(worker), walk, state)

    def add_chunk(
        self, sums: list[Array], shared: Shared, buffer: Array, rows: Callable[[int, int], Any], me: Array
    ) -> list[Array]:
        """Add the products of a chunk's eight rows, whose pixels are in a buffer, and hand it back.

        sums: of every group and block. rows: for a row of the chunk and a group, the first of the eight rows in `right` that it
        is multiplied with.
        """
        channels, blocks = mgpu.ds(me * WARPS, WARPS), self.tiling.blocks
        mgpu.barrier_wait(shared.ready.at[buffer])
        sums = list(sums)
        for row in range(ROWS):
            groups = self.tiling.groups_of_row(row)
            right = [shared.right.at[channels, mgpu.ds(rows(row, group), ROWS)] for group in groups]
            first, last = blocks * groups[0], blocks * (groups[-1] + 1)
            sums[first:last] = hankel.multiply_row(
                sums[first:last],
                shared.pixels.at[buffer, channels, row],
                right,
                blocks,
                self.tiling.steps,
                interpret=self.views.interpret,
            )
        mgpu.barrier_arrive(shared.empty.at[buffer])
        return sums

    def from_first(self, strip: Strip, chunk: Array, row: int) -> Array:
        """The number of a row of a chunk among the input rows that a strip reads, those of padding counted."""
        return strip.rows.top - (strip.row + self.problem.first[0]) + chunk * ROWS + row

    def no_sums(self, count: int) -> list[Array]:
        """Accumulators before anything was added."""
        return [mgpu.layout_cast(jnp.zeros(SUMS, jnp.float32), mgpu.Layout.WGMMA)] * count
