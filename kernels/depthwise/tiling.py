"""The numbers that follow from a problem and a configuration: the budget, the model and the kernel share them."""

import dataclasses
import functools
import math

from ..gpu import BARRIER_BYTES, SMEM_ALIGNMENT
from .plan import CHANNELS, LANES, PIXELS, WARPS, Config, Problem
from .taps import Reach, RowTerms, moves_of, reach, row_terms

COPY_BYTES = 128  # of which every TMA copy is a multiple
# Mosaic reserves these in a kernel that sums along an axis, which is how a diagonal is taken.
REDUCTION_BYTES = 2048
SKEW = 16  # bytes after each pixel of 16-bit numbers in shared memory: so eight pixels lie in different banks


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A problem tiled by a configuration: the numbers that the budget, the model and the kernel share."""

    problem: Problem
    cfg: Config

    @functools.cached_property
    def reaches(self) -> tuple[Reach, ...]:
        """The reaches of all dimensions."""
        return tuple(map(reach, self.problem.dims))

    @functools.cached_property
    def residues(self) -> tuple[int, ...]:
        """Remainders modulo the stride of the columns that taps read: a box each."""
        return tuple(sorted({move % self.problem.dims[2].in_stride for move in self.problem.column_moves}))

    @functools.cached_property
    def first_column(self) -> int:
        """The quotient by the stride of the first column that a tap reads, relative to the tile's first."""
        return self.problem.column_moves[0] // self.problem.dims[2].in_stride

    @functools.cached_property
    def pixel_elements(self) -> int:
        """Elements of shared memory from a pixel to the next: the block's channels, and a few against bank conflicts."""
        return self.cfg.channels + (SKEW // 2 if self.problem.itemsize == 2 else 0)

    @functools.cached_property
    def load_pixels(self) -> tuple[int, int, int]:
        """(planes, rows, columns) of one load. Its bytes are whole multiples of what a TMA copy takes.

        Columns that are multiplied by a derivative are whole fragments.
        """
        depth, _, width = self.problem.dims
        planes = (self.cfg.tile_pixels[0] - 1) * depth.in_stride + self.reaches[0].length + 1
        columns = self.cfg.columns + self.problem.column_moves[-1] // width.in_stride - self.first_column
        column_bytes = planes * self.cfg.chunk_rows * self.pixel_elements * self.problem.itemsize
        step = PIXELS if self.problem.derivative else COPY_BYTES // math.gcd(COPY_BYTES, column_bytes)
        return planes, self.cfg.chunk_rows, -(-columns // step) * step

    @property
    def advance(self) -> int:
        """Chunks by which the next tile of a strip begins later."""
        return self.cfg.tile_pixels[1] * self.problem.dims[1].in_stride // self.cfg.chunk_rows

    @functools.cached_property
    def tile_rows(self) -> int:
        """Input rows that a tile reads, from its first to its last."""
        return (self.cfg.tile_pixels[1] - 1) * self.problem.dims[1].in_stride + self.reaches[1].length + 1

    @functools.cached_property
    def tile_chunks(self) -> int:
        """Chunks that a tile reads. Those after the first `advance` are the next tile's, too."""
        return max(self.advance, -(-self.tile_rows // self.cfg.chunk_rows))

    @property
    def shared_chunks(self) -> int:
        """Chunks that a tile of a strip and the next have in common."""
        return self.tile_chunks - self.advance

    @functools.cached_property
    def grid(self) -> tuple[int, int, int, int, int]:
        """Numbers of strips along (images, planes, rows, columns, channels)."""
        planes, rows, _ = self.cfg.tile_pixels
        extents = planes, rows * self.cfg.strip_tiles, self.cfg.columns
        space = [-(-d.rows // extent) for d, extent in zip(self.problem.dims, extents, strict=True)]
        return self.problem.batch, space[0], space[1], space[2], -(-self.problem.channels // self.cfg.channels)

    @property
    def strips(self) -> int:
        """Number of strips of all thread blocks."""
        return math.prod(self.grid)

    @property
    def channel_blocks(self) -> int:
        """Blocks of channels, each of which a thread block has for all its strips."""
        return self.grid[-1]

    def workers(self, num_sms: int) -> int:
        """Number of persistent thread blocks: as many for each block of channels, and together as the chip holds.

        Where a chip holds less than there are blocks of channels, a thread block for each, one after the other.
        """
        of_each = max(1, num_sms * self.cfg.ctas_per_sm // self.channel_blocks)
        return self.channel_blocks * min(of_each, self.strips // self.channel_blocks)

    def parts(self, num_sms: int) -> int:
        """Partial sums of a weight, which XLA adds: one for each consumer that has its channel, or for each of its warps."""
        consumers = self.workers(num_sms) // self.channel_blocks * self.cfg.column_warpgroups
        return consumers * (1 if self.problem.on_tensor_cores else WARPS)

    def sums_shape(self, num_sms: int) -> tuple[int, ...]:
        """The shape of a weight gradient's sums over pixels, of all parts; the bias gradient is the last.

        [parts, weights, C]; or [parts, accumulators, 16, C], where an accumulator has two taps' matrices one below the other, a
        row for each of a warp's eight channels of the pixels and a column for each of their partner's.
        """
        p, channels = self.problem, self.channel_blocks * self.cfg.channels
        sums = (len(p.accumulators) + p.bias, 2 * LANES) if p.whole_matrices else (p.weights + p.bias,)
        return (self.parts(num_sms), *sums, channels)

    @property
    def row_tiles(self) -> int:
        """Number of tiles that the rows of an image are divided into."""
        return -(-self.problem.dims[1].rows // self.cfg.tile_pixels[1])

    @property
    def row_terms(self) -> RowTerms:
        """The taps with which each input row of a tile is added to sums."""
        return row_terms(self.problem.dims, self.problem.phases, self.cfg.tile_pixels[1])

    @functools.cached_property
    def tile_products(self) -> int:
        """Products of a fragment and a tap, of a consumer's tile."""
        return self._place_products * self.cfg.tile_pixels[0] * self.cfg.fragments

    @functools.cached_property
    def issued_products(self) -> int:
        """Products of a consumer's tile that are issued: tensor cores multiply zeros where an accumulator has one tap."""
        if not (self.problem.weight_sums and self.problem.on_tensor_cores):
            return self.tile_products
        over_taps = self.problem.backward * sum(self._taps_of_rows)
        over_pixels = 2 * (self.cfg.tile_pixels[1] * len(self.problem.accumulators) + len(self._ones_of_rows))
        return (over_taps + over_pixels) * self.cfg.tile_pixels[0] * self.cfg.fragments

    @property
    def unrolled_products(self) -> int:
        """Products of a tile that are code: where there are sums over pixels, places of a row and planes are a loop."""
        return (self._place_products if self.problem.weight_sums else self.tile_products) * self.problem.tap_registers

    @functools.cached_property
    def _place_products(self) -> int:
        """Products of a fragment and a tap, of 16 columns of a plane. In a backward pass each pair is multiplied twice."""
        return sum(self._taps_of_rows) * (2 if self.problem.backward else 1) + sum(self._ones_of_rows)

    @functools.cached_property
    def _taps_of_rows(self) -> list[int]:
        """Numbers of taps that join an input row to an output row."""
        return [len(terms) for into in self.row_terms.values() for terms in into.values()]

    @property
    def _ones_of_rows(self) -> list[int]:
        """A bias gradient joins each row of the cotangent to ones, as if by a tap, unless it is summed as chunks arrive."""
        rows = self.cfg.tile_pixels[1] * (1 if self.problem.backward else len(self.problem.phases))
        return [1] * (self.problem.bias * rows * (self.problem.derivative is None))

    @functools.cached_property
    def tile_fragments(self) -> int:
        """Fragments of pixels that a consumer loads for a tile, once for each kind of sums on tensor cores."""
        return self.place_fragments * self.cfg.tile_pixels[0] * self.cfg.fragments

    @functools.cached_property
    def place_fragments(self) -> int:
        """Fragments that a consumer loads for 16 columns of a plane."""
        moves = ({term.move for terms in into.values() for term in terms} for into in self.row_terms.values())
        return sum(map(len, moves))

    def finished_by(self, row: int) -> list[tuple[int, int]]:
        """(phase, output row) of the sums that an input row of a tile is the last of, or would be if they had taps."""
        found, rows, low = [], self.problem.dims[1], self.reaches[1].low
        for phase, p in enumerate(self.problem.phases):
            last = max(moves_of(rows, p[1]), default=low) - low
            found += [(phase, out) for out in range(self.cfg.tile_pixels[1]) if out * rows.in_stride + last == row]
        return found

    @functools.cached_property
    def staged_pixels(self) -> int:
        """Pixels of a consumer's results in shared memory, of all phases, for each output."""
        return len(self.problem.phases) * math.prod(self.cfg.tile_pixels)

    @functools.cached_property
    def slot_bytes(self) -> int:
        """Bytes of a slot of the ring: of pixels, and where a derivative is taken of what was saved there."""
        return (
            self.problem.loaded
            * len(self.residues)
            * math.prod(self.load_pixels)
            * self.pixel_elements
            * self.problem.itemsize
        )

    @functools.cached_property
    def staged_bytes(self) -> int:
        """Bytes of shared memory for the results of all consumers, which TMA stores from there."""
        per_output = self.cfg.consumers * self.staged_pixels * CHANNELS * self.problem.out_itemsize
        return self.problem.outputs * per_output

    @property
    def tiles_in_ring(self) -> int:
        """Tiles whose pixels the ring holds, whole or in part: the one that is summed, and those loaded ahead.

        There are as many slots for tiles of the partner: with fewer, the producer could not fill the ring of pixels.
        """
        return 2 + (self.cfg.stages - self.tile_chunks) // self.advance

    @property
    def partner_pixels(self) -> tuple[int, int, int, int]:
        """(phases, planes, rows, columns) of the partner in a block's tile."""
        planes, rows, _ = self.cfg.tile_pixels
        return len(self.problem.phases), planes, rows, self.cfg.columns

    @functools.cached_property
    def partner_bytes(self) -> int:
        """Bytes of the partner in a block's tile, as shared memory has it; 0 if there is none."""
        return self.problem.weight_sums * math.prod(self.partner_pixels) * self.pixel_elements * self.problem.itemsize

    @property
    def barrier_bytes(self) -> int:
        """Bytes of all barriers: two a slot, one a consumer of a residual."""
        slots = self.cfg.stages + self.tiles_in_ring * self.problem.weight_sums
        return BARRIER_BYTES * (2 * slots + self.problem.residual * self.cfg.consumers)

    @property
    def smem_bytes(self) -> int:
        """Bytes of shared memory, barriers included."""
        p = self.problem
        slots = [self.cfg.stages * self.slot_bytes // p.loaded] * p.loaded
        buffers = *slots, self.staged_bytes, self.tiles_in_ring * self.partner_bytes
        reduces = p.weight_sums and p.on_tensor_cores and not p.whole_matrices
        whole = sum(-(-size // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for size in buffers)
        return whole + self.barrier_bytes + REDUCTION_BYTES * reduces


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem, cached with the numbers that were computed of it."""
    return Tiling(problem, cfg)
