"""The depthwise kernel for Hopper: persistent, warp-specialised sums of shifted pixels, channel by channel.

For a `geometry.TapAxis` per spatial dimension, channels last,

    z[n, q * out_stride + p, c] = bias[c] + residual[n, q * out_stride + p, c]
                                  + sum_{taps i of phase p} x[n, q * in_stride + offset[p] + i * step, c] * w[first[p] + i, c]

There is no sum over channels, so memory is what bounds small kernels: a pixel should come from global memory once. Columns that
its taps reach on either side of a tile come again, from L2.

A thread block walks down a strip of an image. Its producer warpgroup loads chunks of input rows into a ring of slots, as wide
as all taps and phases of a tile read; what lies outside reads as zero. A tile of output rows reads the chunks of its own rows
and those that its taps reach below, which are the next tile's as well, and stay:

    slot 0   rows 0 1   tile 0
    slot 1   rows 2 3   tile 0   tile 1
    slot 2   rows 4 5            tile 1   tile 2       3 taps a column, tiles of 2 rows, chunks of 2

A consumer has 32 channels, or 32 channels of some columns. Their weights stay in its registers. It takes the input rows of a
tile in turn: fragments of 16 pixels, one for each tap of a row, are loaded from shared memory once, and serve every output row
and phase that they are summed into. An output row is finished, and staged for its store, when the last of its input rows has
come. So few sums are in registers at once, however many rows a tile has.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from .. import mosaic as mgpu
from ..epilogue import Epilogue
from ..gpu import Gpu
from ..ring import Ring
from . import fragments
from .legal import MOST_FRAGMENTS, illegal
from .operands import Views, channels_last_operands
from .plan import CHANNELS, PIXELS, Config, Problem, tiling
from .schedule import Schedule, Strip
from .work import useful_macs


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel of a product that `served.reasons` has nothing against. Arrays are channels first.

    fprop: x (N, C, *in), w (C, 1, *kernel), b (C,) if product.bias, r (N, C, *out) if product.residual
           -> (N, C, *out) for each of product.outputs
    dgrad: ct (N, C, *out), w (C, 1, *kernel) -> [(N, C, *in)]

    With product.models, every array has that axis first.
    """
    problem = Problem.of(product)
    if why := illegal(problem, cfg, gpu):
        raise ValueError(why)
    epilogue = Epilogue(product.activation, product.outputs) if product.role == "fprop" else Epilogue()
    x, w, bias, residual = channels_last_operands(product, operands)
    schedule = Schedule(tiling(problem, cfg), gpu.num_sms)
    views = Views(schedule.tiling, jnp.dtype(product.out_dtype), interpret)
    kernel = _Kernel(schedule, views, epilogue, x.dtype)
    given = {"x": views.input(x), "w": views.weights(w)}
    if bias is not None:
        given["bias"] = views.per_channel(bias)
    if residual is not None:
        given["residual"] = views.residual(residual)
    out_type = [jax.ShapeDtypeStruct(views.results.shape, views.results.dtype)] * len(epilogue.outputs)
    size = lambda a: math.prod(a.shape) * a.dtype.itemsize
    cost = mgpu.CostEstimate(
        flops=2 * useful_macs(problem), transcendentals=0, bytes_accessed=sum(map(size, [*given.values(), *out_type]))
    )
    outs = mgpu.kernel(
        functools.partial(kernel.body, tuple(given)),
        out_type=out_type,
        grid=(schedule.workers,),
        grid_names=("sm",),
        num_threads=cfg.consumers + 1,
        thread_name="wg",
        scratch_types=kernel.scratch_types(),
        kernel_name=name,
        cost=cost,
        interpret=interpret,
    )(*given.values())
    return [views.channels_first(out, product.models) for out in outs]


class _Global(NamedTuple):
    """The operands and results in global memory, as the views make them."""

    x: Any
    w: Any
    bias: Any
    residual: Any
    outs: tuple[Any, ...]


class _Shared(NamedTuple):
    """The shared memory of a block, and its barriers."""

    pixels: Any  # [stages, residues, planes, chunk_rows, columns, channels and skew]
    staged: Any  # [consumers, outputs, phases, *tile_pixels, 32]
    ring: Ring
    residual_full: Any  # one barrier a consumer


class _Consumer(NamedTuple):
    """A consumer: its number, its first channel and column within its block's."""

    number: Array
    channel: Array
    column: Array


class _Kernel:
    """The kernel's body. Its fields are static numbers; everything traced is an argument of a method."""

    def __init__(self, schedule: Schedule, views: Views, epilogue: Epilogue, dtype: Any):
        self.schedule, self.views, self.epilogue, self.dtype = schedule, views, epilogue, dtype
        self.problem, self.cfg, self.tiling = schedule.problem, schedule.cfg, schedule.tiling
        self.engine = fragments.engine(dtype, views.interpret)

    def scratch_types(self) -> list[Any]:
        cfg, tiling, outputs, phases = self.cfg, self.tiling, len(self.epilogue.outputs), len(self.problem.phases)
        slots = cfg.stages, len(tiling.residues), *tiling.load_pixels, tiling.pixel_elements
        staged = cfg.consumers, outputs, phases, *cfg.tile_pixels, CHANNELS
        return [
            mgpu.SMEM(slots, self.dtype),
            mgpu.swizzled(staged, self.views.results.dtype, interpret=self.views.interpret),
            *Ring.barriers(cfg.stages, len(tiling.residues), cfg.consumers, 1),
            *([mgpu.Barrier(num_arrivals=phases, num_barriers=cfg.consumers)] if self.problem.residual else []),
        ]

    def body(self, names: tuple[str, ...], *refs: Any) -> None:
        """Run one warpgroup, as the producer or as a consumer. names: those of the operands, which `refs` begins with."""
        n_in, n_out = len(names), len(self.epilogue.outputs)
        operands = dict.fromkeys(("bias", "residual")) | dict(zip(names, refs[:n_in], strict=True))
        gmem = _Global(**operands, outs=refs[n_in : n_in + n_out])
        pixels, staged, full, empty, *others = refs[n_in + n_out :]
        shared = _Shared(pixels, staged, Ring(self.cfg.stages, full, empty), others[0] if others else None)
        wg_idx, worker = lax.axis_index("wg"), lax.axis_index("sm")

        @mgpu.when(wg_idx == self.cfg.consumers)
        def _():
            self._produce(gmem, shared, worker)

        @mgpu.when(wg_idx < self.cfg.consumers)
        def _():
            channels = lax.rem(wg_idx, jnp.int32(self.cfg.channel_warpgroups)) * CHANNELS
            columns = lax.div(wg_idx, jnp.int32(self.cfg.channel_warpgroups)) * self.cfg.tile_pixels[2]
            self._consume(gmem, shared, worker, _Consumer(wg_idx, channels, columns))

    def _slot(self, first: Array, chunk: int) -> Array:
        """The slot of a chunk, counted from one that is in slot `first`."""
        return lax.rem(first + chunk, jnp.int32(self.cfg.stages)) if chunk else first

    def _produce(self, gmem: _Global, shared: _Shared, worker: Array) -> None:
        """Fill slots: the chunks of every strip, from top to bottom."""
        schedule, cfg, tiling, ring = self.schedule, self.cfg, self.tiling, shared.ring
        planes, rows, columns = self.problem.dims

        def per_strip(i: Array, slot: Array) -> Array:
            strip = schedule.strip(worker, i)
            first = [strip.image, strip.plane * planes.in_stride, strip.row * rows.in_stride, strip.column]

            def per_chunk(chunk: Array, slot: Array) -> Array:
                ring.acquire(slot)
                for box, residue in enumerate(tiling.residues):
                    moves = [tiling.reaches[0].low, tiling.reaches[1].low + chunk * cfg.chunk_rows]
                    moves.append(tiling.first_column * columns.in_stride + residue)
                    window = self.views.pixels.at(first, [jnp.int32(m) for m in moves], (1, *tiling.load_pixels))
                    mgpu.copy_gmem_to_smem(
                        gmem.x.at[(*window, *self.views.channels(strip.channel))],
                        shared.pixels.at[slot, box],
                        barrier=ring.full.at[slot],
                        oob_mode=mgpu.OOBFillMode.ZEROS,
                    )
                return ring.following(slot)

            return lax.fori_loop(0, schedule.chunks(strip), per_chunk, slot)

        ring.drain(lax.fori_loop(0, schedule.strips_of(worker), per_strip, jnp.int32(0)))

    def _consume(self, gmem: _Global, shared: _Shared, worker: Array, me: _Consumer) -> None:
        """Sum the tiles of every strip, and store them."""
        schedule, tiling, ring = self.schedule, self.tiling, shared.ring
        ring.hand_over()
        shares = tiling.tile_chunks - tiling.advance  # chunks that two tiles of a strip have in common
        weights = self._weights(gmem, schedule.strip(worker, jnp.int32(0)), me)

        def per_strip(i: Array, first: Array) -> Array:
            strip = schedule.strip(worker, i)
            for chunk in range(shares):
                ring.wait(self._slot(first, chunk))

            def per_tile(tile: Array, first: Array) -> Array:
                self._load_residual(gmem, shared, strip, tile, me)
                self._sum(shared, first, weights, me)
                mgpu.commit_smem()  # results before TMA reads them, and what was read before TMA overwrites it
                for chunk in range(tiling.advance):
                    ring.release(self._slot(first, chunk))
                for output, phase in itertools.product(range(len(gmem.outs)), range(len(self.problem.phases))):
                    to = gmem.outs[output].at[self._window(strip, tile, phase, me)]
                    mgpu.copy_smem_to_gmem(shared.staged.at[me.number, output, phase], to)
                return self._slot(first, tiling.advance)

            first = lax.fori_loop(0, strip.tiles, per_tile, first)
            for chunk in range(shares):
                ring.release(self._slot(first, chunk))
            return self._slot(first, shares)

        lax.fori_loop(0, schedule.strips_of(worker), per_strip, jnp.int32(0))
        mgpu.wait_smem_to_gmem(0)

    def _weights(self, gmem: _Global, strip: Strip, me: _Consumer) -> tuple[list[Array], Array]:
        """The weights of all taps for a consumer's channels, and what its sums begin with: the bias, or zeros."""
        channels = mgpu.ds(strip.channel + me.channel, CHANNELS)
        weights = [self.engine.weights(gmem.w, tap, channels) for tap in range(self.problem.taps)]
        if gmem.bias is None:
            return weights, fragments.zeros(self.engine)
        return weights, fragments.per_channel(self.engine, gmem.bias.at[channels])

    def _window(self, strip: Strip, tile: Array, phase: int, me: _Consumer) -> tuple[Any, ...]:
        """Indices of a consumer's tile in a result, and in the residual."""
        planes, rows, columns = self.cfg.tile_pixels
        first = strip.plane, strip.row + tile * rows, strip.column + me.column, strip.channel + me.channel
        extents = planes, rows, columns, CHANNELS
        *pixels, channels = [mgpu.ds(at, extent) for at, extent in zip(first, extents, strict=True)]
        return (*self.views.results.window([strip.image, *pixels], self.problem.phases[phase], 0), channels)

    def _load_residual(self, gmem: _Global, shared: _Shared, strip: Strip, tile: Array, me: _Consumer) -> None:
        """Load the residual, if any, into the staging buffers of the first output, once they are free."""
        if gmem.residual is None:
            return
        mgpu.wait_smem_to_gmem(0, wait_read_only=True)
        for phase in range(len(self.problem.phases)):
            mgpu.copy_gmem_to_smem(
                gmem.residual.at[self._window(strip, tile, phase, me)],
                shared.staged.at[me.number, 0, phase],
                barrier=shared.residual_full.at[me.number],
                oob_mode=mgpu.OOBFillMode.ZEROS,
            )

    def _sum(self, shared: _Shared, first: Array, weights: tuple[list[Array], Array], me: _Consumer) -> None:
        """Sum a tile whose chunks begin in slot `first`, and stage it. Everything here but that slot is known beforehand.

        It waits for the chunks that the tile before did not have, each when the first of its rows is due.
        """
        cfg, tiling = self.cfg, self.tiling
        slots, may_stage = [self._slot(first, chunk) for chunk in range(tiling.tile_chunks)], False
        due = dict(enumerate(slots[tiling.tile_chunks - tiling.advance :], tiling.tile_chunks - tiling.advance))
        for plane, place in itertools.product(range(cfg.tile_pixels[0]), range(cfg.fragments)):
            sums: dict[tuple[int, int], Array] = {}
            for row in range(tiling.tile_rows):
                if (chunk := row // cfg.chunk_rows) in due:
                    shared.ring.wait(due.pop(chunk))
                lines = slots[row // cfg.chunk_rows], row % cfg.chunk_rows
                for reached in range(tiling.reaches[0].length + 1):
                    self._add(sums, shared, weights, lines, (plane, reached, row, place), me)
                for phase, out_row in tiling.finished_by(row):
                    if not may_stage:
                        self._wait_for_staging(shared, me)
                        may_stage = True
                    z = sums.pop((phase, out_row), weights[1])
                    self._stage(shared, (me.number, phase, plane, out_row, place), z)
        for slot in due.values():  # of rows that a stride leaves out
            shared.ring.wait(slot)

    def _add(
        self,
        sums: dict[tuple[int, int], Array],
        shared: _Shared,
        weights: tuple[list[Array], Array],
        lines: tuple[Array, int],
        at: tuple[int, int, int, int],
        me: _Consumer,
    ) -> None:
        """Add an input row, of a plane that an output plane reaches, to all sums that it belongs to."""
        tiling, (plane, reached, row, place) = self.tiling, at
        d, _, w = self.problem.dims
        into = tiling.row_terms[reached, row]
        moves = sorted({term.move for terms in into.values() for term in terms})
        slot, line = lines
        for some in itertools.batched(moves, MOST_FRAGMENTS):
            loaded = {}
            for move in some:
                box = tiling.residues.index(move % w.in_stride)
                column = me.column + (move // w.in_stride - tiling.first_column + place * PIXELS)
                pixels = mgpu.ds(column, PIXELS), mgpu.ds(me.channel, CHANNELS)
                ref = shared.pixels.at[(slot, box, plane * d.in_stride + reached, line, *pixels)]
                loaded[move] = fragments.pixels(self.engine, ref)
            for key, terms in into.items():
                if here := [term for term in terms if term.move in loaded]:
                    xs, ws = [loaded[term.move] for term in here], [weights[0][term.tap] for term in here]
                    sums[key] = self.engine.multiply(sums.get(key, weights[1]), xs, ws)

    def _wait_for_staging(self, shared: _Shared, me: _Consumer) -> None:
        """Wait until results may be staged: the last tile's have been stored, and then the residual, if any, is there."""
        if shared.residual_full is None:
            mgpu.wait_smem_to_gmem(0, wait_read_only=True)
        else:
            mgpu.barrier_wait(shared.residual_full.at[me.number])

    def _stage(self, shared: _Shared, at: tuple[Any, int, int, int, int], z: Array) -> None:
        """Finish sums, and put them where TMA will store them from."""
        consumer, phase, plane, row, place = at
        pixels = mgpu.ds(place * PIXELS, PIXELS)
        where = lambda output: (consumer, output, phase, plane, row, pixels)
        if shared.residual_full is not None:
            z = z + fragments.pixels(self.engine, shared.staged.at[where(0)]).astype(z.dtype)
        for output, value in self.epilogue(z, self.views.results.dtype):
            mgpu.store(shared.staged, where(output), value, interpret=self.views.interpret, in_shared_memory=True)
