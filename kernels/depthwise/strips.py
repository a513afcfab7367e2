"""Thread blocks that walk down strips: what the kernels of this family have in common, whatever they sum.

Rows of input pixels come into a ring of slots, once each, as a strip is walked down from its top: some rows a slot, a chunk.
Strided columns come apart, a box for each remainder: in shared memory, neighbours are what neighbouring outputs read.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import mosaic as mgpu
from ..ring import Ring
from . import fragments
from .fragments import Line
from .operands import Views
from .plan import CHANNELS
from .schedule import Schedule, Strip
from .taps import Key, Term

OPERANDS = ("pixels", "w", "partner", "saved", "bias", "residual")


class Global(NamedTuple):
    """The operands and results in global memory, as the views make them. Operands that a kernel does not have are None."""

    pixels: Any
    w: Any
    partner: Any
    saved: Any
    bias: Any
    residual: Any
    outs: tuple[Any, ...]


class Shared(NamedTuple):
    """The shared memory of a block, and its barriers."""

    pixels: Any  # [stages, residues, planes, chunk_rows, columns, channels and skew]
    saved: Any  # likewise, what an activation saved of these pixels; None if nobody needs it
    ring: Ring
    others: tuple[Any, ...]  # what a kernel has beside them, as its `own_scratch_types`


class Consumer(NamedTuple):
    """A consumer: its number, its first channel and column within its block's."""

    number: Array
    channel: Array
    column: Array


class Lines(NamedTuple):
    """The place of a row of input pixels in shared memory."""

    slot: Array
    line: int


class Place(NamedTuple):
    """The place of what 16 outputs of a row read: a row, its plane within the load, the first column within the tile."""

    lines: Lines
    plane: Array | int
    column: Array


class Strips:
    """A kernel's body. Its fields are static numbers; everything traced is an argument of a method."""

    def __init__(self, schedule: Schedule, views: Views):
        self.schedule, self.views = schedule, views
        self.problem, self.cfg, self.tiling = schedule.problem, schedule.cfg, schedule.tiling
        self.engine = fragments.engine(self.problem, views.dtype, views.interpret)

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        """The results, as the kernel stores them."""
        raise NotImplementedError

    def own_scratch_types(self) -> list[Any]:
        """Shared memory and barriers beside those of the ring."""
        raise NotImplementedError

    def produce(self, gmem: Global, shared: Shared, worker: Array) -> None:
        """Fill slots, as the producer."""
        raise NotImplementedError

    def consume(self, gmem: Global, shared: Shared, worker: Array, me: Consumer) -> None:
        """Sum what is in them, as a consumer."""
        raise NotImplementedError

    def scratch_types(self) -> list[Any]:
        cfg, tiling = self.cfg, self.tiling
        slots = cfg.stages, len(tiling.residues), *tiling.load_pixels, tiling.pixel_elements
        buffers = [mgpu.SMEM(slots, self.views.dtype)] * self.problem.loaded
        ring = Ring.barriers(cfg.stages, len(buffers) * len(tiling.residues), cfg.consumers, 1)
        return [*buffers, *ring, *self.own_scratch_types()]

    def body(self, names: tuple[str, ...], *refs: Any) -> None:
        """Run one warpgroup, as the producer or as a consumer. names: those of the operands, which `refs` begins with."""
        n_in, n_out = len(names), len(self.out_type())
        operands = dict.fromkeys(OPERANDS) | dict(zip(names, refs[:n_in], strict=True))
        gmem = Global(**operands, outs=refs[n_in : n_in + n_out])
        pixels, *others = refs[n_in + n_out :]
        saved = others.pop(0) if self.problem.derivative else None
        full, empty, *others = others
        shared = Shared(pixels, saved, Ring(self.cfg.stages, full, empty), tuple(others))
        wg_idx, worker = lax.axis_index("wg"), lax.axis_index("sm")

        @mgpu.when(wg_idx == self.cfg.consumers)
        def _():
            self.produce(gmem, shared, worker)

        @mgpu.when(wg_idx < self.cfg.consumers)
        def _():
            channels = lax.rem(wg_idx, jnp.int32(self.cfg.channel_warpgroups)) * CHANNELS
            columns = lax.div(wg_idx, jnp.int32(self.cfg.channel_warpgroups)) * self.cfg.tile_pixels[2]
            self.consume(gmem, shared, worker, Consumer(wg_idx, channels, columns))

    def each_strip(self, worker: Array, per_strip: Callable[[Strip, Any], Any], state: Any) -> Any:
        """Apply `per_strip` to all strips of a worker in turn, each time to the state that it returned before."""
        walk = lambda i, state: per_strip(self.schedule.strip(worker, i), state)
        return lax.fori_loop(0, self.schedule.strips_of(worker), walk, state)

    def load_chunks(
        self, gmem: Global, shared: Shared, strip: Strip, first: Array | int, last: Array | int, slot: Array
    ) -> Array:
        """Load the chunks [first, last) of a strip, into this slot and those after it. Returns the next one."""
        cfg, tiling = self.cfg, self.tiling
        planes, rows, columns = self.problem.dims
        at = [strip.image, strip.plane * planes.in_stride, strip.row * rows.in_stride, strip.column]

        def per_chunk(chunk: Array, slot: Array) -> Array:
            shared.ring.acquire(slot)
            for box, residue in enumerate(tiling.residues):
                moves: list[Any] = [tiling.reaches[0].low, tiling.reaches[1].low + chunk * cfg.chunk_rows]
                moves.append(tiling.first_column * columns.in_stride + residue)
                window = (*self.views.pixels_at(at, moves), self.views.channels(strip.channel))
                loaded = [(gmem.pixels, shared.pixels), (gmem.saved, shared.saved)]
                for source, to in loaded[: self.problem.loaded]:
                    mgpu.copy_gmem_to_smem(
                        source.at[window],
                        to.at[slot, box, *self.views.missing],
                        barrier=shared.ring.full.at[slot],
                        oob_mode=mgpu.OOBFillMode.ZEROS,
                    )
            return shared.ring.next_slot(slot)

        end: Array = lax.fori_loop(first, last, per_chunk, slot)
        return end

    def slot_after(self, first: Array, chunks: int) -> Array:
        """The slot so many chunks after one that is in slot `first`."""
        return lax.rem(first + chunks, jnp.int32(self.cfg.stages)) if chunks else first

    def wait_for_shared(self, shared: Shared, first: Array) -> None:
        """Wait for the chunks of a strip's first tile that the second one has, too; the first of them is in slot `first`."""
        for chunk in range(self.tiling.shared_chunks):
            shared.ring.wait(self.slot_after(first, chunk))

    def release(self, shared: Shared, first: Array, chunks: int) -> Array:
        """Hand back so many chunks, of which the first is in slot `first`. Returns the slot after them."""
        for chunk in range(chunks):
            shared.ring.release(self.slot_after(first, chunk))
        return self.slot_after(first, chunks)

    def chunks_of_tile(self, shared: Shared, first: Array) -> "Chunks":
        """The chunks of a tile, of which the first is in slot `first`. What the tile before had, too, is there."""
        slots = [self.slot_after(first, chunk) for chunk in range(self.tiling.tile_chunks)]
        return Chunks(shared.ring, slots, self.tiling.shared_chunks, self.cfg.chunk_rows)

    def rows_read(
        self, chunks: "Chunks", plane: Array | int, column: Array
    ) -> Iterator[tuple[int, list[tuple[dict[Key, list[Term]], Place]]]]:
        """Each input row of a tile in turn, and in every plane that an output plane reaches, its taps and its place.

        plane, column: those of 16 outputs of a row, within the tile.
        """
        for row in range(self.tiling.tile_rows):
            lines, first = chunks.lines(row), plane * self.problem.dims[0].in_stride
            planes = range(self.tiling.reaches[0].length + 1)
            yield row, [(self.tiling.row_terms[i, row], Place(lines, first + i, column)) for i in planes]

    def load_fragments[F](
        self,
        shared: Shared,
        at: Place,
        moves: Sequence[int],
        me: Consumer,
        load: Callable[[Line, Sequence[int]], list[F]],
    ) -> dict[int, F]:
        """Load a row's pixels at some distances along it, 16 pixels of 32 channels each, by those distances.

        load: gives the fragments of a line that begin at some pixels.
        """
        stride, found, channels = self.problem.dims[2].in_stride, dict[int, F](), mgpu.ds(me.channel, CHANNELS)
        for box, residue in enumerate(self.tiling.residues):

            def line(first: int, count: int, box: int = box) -> Any:
                pixels = mgpu.ds(at.column + first, count)
                return shared.pixels.at[at.lines.slot, box, at.plane, at.lines.line, pixels, channels]

            if here := [move for move in moves if move % stride == residue]:
                starts = [move // stride - self.tiling.first_column for move in here]
                found |= dict(zip(here, load(line, starts), strict=True))
        return found


class Chunks:
    """The chunks of a tile in their slots. The first `there` have come; each other is waited for when a row of it is due."""

    def __init__(self, ring: Ring, slots: list[Array], there: int, chunk_rows: int):
        self.ring, self.slots, self.there, self.chunk_rows = ring, slots, there, chunk_rows

    def lines(self, row: int) -> Lines:
        """The place of an input row of the tile. Rows are asked for in turn, perhaps several times."""
        chunk = row // self.chunk_rows
        self._wait_until(chunk + 1)
        return Lines(self.slots[chunk], row % self.chunk_rows)

    def wait(self) -> None:
        """Wait for those that no row was asked of: a stride left theirs out."""
        self._wait_until(len(self.slots))

    def arriving(self) -> list[tuple[int, Array]]:
        """The numbers and slots of those that have not come. Whoever asks waits for them."""
        found = list(enumerate(self.slots))[self.there :]
        self.there = len(self.slots)
        return found

    def _wait_until(self, chunks: int) -> None:
        for slot in self.slots[self.there : chunks]:
            self.ring.wait(slot)
        self.there = max(self.there, chunks)
