"""The depthwise kernel's problems (`Problem`), configurations (`Config`), and the numbers that follow from both (`Tiling`)."""

import dataclasses
import functools
import itertools
import math
from typing import Any

from pallas_conv import strict
from pallas_conv.spec import Product

from .. import geometry
from ..family import changed_fields
from ..gpu import BARRIER_BYTES, SMEM_ALIGNMENT
from .taps import Reach, RowTerms, moves_of, reach, row_terms

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
PIXELS, CHANNELS = 16, 32  # of a fragment: the sums that a warpgroup makes at once, four a thread
LANES = 8  # channels of a warp where tensor cores multiply
WARPS = 4  # of a warpgroup
COPY_BYTES = 128  # of which every TMA copy is a multiple
# Mosaic reserves these in a kernel that sums along an axis, which is how a diagonal is taken.
REDUCTION_BYTES = 2048
MOST_FRAGMENTS = 8  # of an input row, in registers at once
SKEW = 16  # bytes after each pixel of 16-bit numbers in shared memory: so eight pixels lie in different banks
ONE = geometry.TapAxis(1, 1, in_stride=1, out_stride=1, tap_stride=1, count=(1,), offset=(0,), order=(0,))


@dataclasses.dataclass(frozen=True)
class Config:
    """A way to tile the depthwise kernel.

    tile_pixels          (planes, rows, columns) of a consumer's tile, of outputs of one phase; columns in sixteens
    chunk_rows           input rows that a slot of the ring holds; they divide those by which a tile moves on
    strip_tiles          tiles that a block takes one below the other, so that they share input rows
    channel_warpgroups   consumer warpgroups side by side over channels, 32 each
    column_warpgroups    consumer warpgroups side by side over columns
    stages               slots of the ring between the producer and the consumers
    ctas_per_sm          thread blocks on an SM
    """

    tile_pixels: tuple[int, int, int]
    chunk_rows: int = 1
    strip_tiles: int = 1
    channel_warpgroups: int = 1
    column_warpgroups: int = 1
    stages: int = 4
    ctas_per_sm: int = 1

    @property
    def consumers(self) -> int:
        """Warpgroups that multiply."""
        return self.channel_warpgroups * self.column_warpgroups

    @property
    def channels(self) -> int:
        """Channels of a thread block."""
        return self.channel_warpgroups * CHANNELS

    @property
    def columns(self) -> int:
        """Columns of a thread block's tile."""
        return self.column_warpgroups * self.tile_pixels[2]

    @property
    def fragments(self) -> int:
        """Fragments side by side in a row of a consumer's tile."""
        return self.tile_pixels[2] // PIXELS

    @property
    def complexity(self) -> tuple[float, ...]:
        """A sort key, lower for simpler configurations: one plane, few consumers, blocks alone, short strips, few slots."""
        return self.tile_pixels[0], self.consumers, self.ctas_per_sm, self.strip_tiles, self.stages

    def __str__(self) -> str:
        return changed_fields(self)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> "Config":
        """The inverse of `to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        return strict.parse(cls, data, where)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A computation of a depthwise kernel: [N, *in, C] x [*kernel, group, C] -> [N, *out, C], once per output.

    Or of the weight gradient: [N, *in, C] x [N, *out, C] -> [*kernel, group, C], and with a bias [C].

    batch        N
    channels     C, of all models
    group        channels of a group, on either side: each result sums over those of its own
    dims         the dimensions as taps: always (planes, rows, columns), of which a convolution of fewer has the last ones
    ndim         how many it has
    outputs      how many there are, of a size each; none beside a weight gradient
    residual     whether there is one more operand, shaped like an output
    weight_sums  whether it is the weight gradient: then sums are over pixels, and the cotangent is an operand
    bias         whether the sums of the cotangent are wanted, too
    """

    batch: int
    channels: int
    group: int
    dims: tuple[geometry.TapAxis, ...]
    ndim: int
    itemsize: int = 2
    out_itemsize: int = 2
    outputs: int = 1
    residual: bool = False
    weight_sums: bool = False
    bias: bool = False

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """The problem of a product. Several models are so many more channels."""
        dims, weight_sums = geometry.dims(product), product.role == "wgrad"
        return cls(
            batch=product.batch,
            channels=(product.models or 1) * product.in_channels,
            group=product.in_channels // product.spec.groups,
            dims=(*[ONE] * (3 - len(dims)), *dims),
            ndim=len(dims),
            itemsize=ITEMSIZE[product.compute_dtype],
            out_itemsize=ITEMSIZE[product.out_dtype],
            outputs=0 if weight_sums else len(product.outputs),
            residual=product.residual,
            weight_sums=weight_sums,
            bias="db" in product.outputs,
        )

    @property
    def taps(self) -> int:
        """Number of taps."""
        return math.prod(len(d.order) for d in self.dims)

    @property
    def weights(self) -> int:
        """Number of weights of a channel of the result: for each tap one of every channel of its group."""
        return self.taps * self.group

    @property
    def loaded_weights(self) -> int:
        """Numbers that a kernel loads for a channel's weights: tensor cores' matrices, with zeros, or the weights."""
        return self.taps * (LANES if self.on_tensor_cores else self.group)

    @property
    def kept(self) -> int:
        """Registers of a thread for the weights of a tap.

        On tensor cores one, which holds a thread's two numbers of an 8x8 matrix, whatever the groups. In float32 one for every
        channel of the group.
        """
        return 1 if self.on_tensor_cores else self.group

    @property
    def row_fragments(self) -> int:
        """Fragments of an input row in registers at once. In float32 one is as many arrays as a group has channels."""
        return MOST_FRAGMENTS if self.on_tensor_cores else min(MOST_FRAGMENTS, 2 * MOST_FRAGMENTS // self.group)

    @property
    def operand_results(self) -> int:
        """Operands that are shaped like an output: the residual, or the cotangent of a weight gradient."""
        return self.residual + self.weight_sums

    @functools.cached_property
    def accumulators(self) -> tuple[tuple[int, ...], ...]:
        """The taps of each sum over pixels of a weight gradient: tensor cores sum for two neighbours in a row of a phase."""
        columns, found = self.dims[2], list[tuple[int, ...]]()
        rows = range(0, self.taps, len(columns.order))
        for row, (first, count) in itertools.product(rows, zip(columns.first, columns.count, strict=True)):
            found += itertools.batched(range(row + first, row + first + count), 2 if self.on_tensor_cores else 1)
        return tuple(sorted(found))

    @property
    def on_tensor_cores(self) -> bool:
        """Whether tensor cores multiply, see fragments.py."""
        return self.itemsize == 2

    @property
    def whole_matrices(self) -> bool:
        """Whether sums over pixels leave the kernel as tensor cores have them, and XLA takes the blocks on their diagonals.

        Of groups of one channel that would be eight numbers for each that is wanted: there the kernel takes the diagonals.
        """
        return self.on_tensor_cores and self.group > 1

    @functools.cached_property
    def column_moves(self) -> tuple[int, ...]:
        """Distances along a row at which some phase has a tap."""
        columns = self.dims[2]
        return tuple(sorted({move for p in range(columns.out_stride) for move in moves_of(columns, p)}))

    @property
    def phases(self) -> tuple[tuple[int, int, int], ...]:
        """The phases of the output, one index a dimension."""
        planes, rows, columns = (range(d.out_stride) for d in self.dims)
        return tuple(itertools.product(planes, rows, columns))


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
        """(planes, rows, columns) of one load. Its bytes are whole multiples of what a TMA copy takes."""
        depth, _, width = self.problem.dims
        planes = (self.cfg.tile_pixels[0] - 1) * depth.in_stride + self.reaches[0].length + 1
        columns = self.cfg.columns + self.problem.column_moves[-1] // width.in_stride - self.first_column
        column_bytes = planes * self.cfg.chunk_rows * self.pixel_elements * self.problem.itemsize
        step = COPY_BYTES // math.gcd(COPY_BYTES, column_bytes)
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
        row for each of a warp's eight channels of x and a column for each of the cotangent.
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
        pairs = sum(-(-taps // 2) for taps in self._taps_of_rows)
        return 2 * pairs * self.cfg.tile_pixels[0] * self.cfg.fragments

    @property
    def unrolled_products(self) -> int:
        """Products of a tile that are code: a weight gradient's kernel has a loop over the places of a row, and over planes."""
        return (self._place_products if self.problem.weight_sums else self.tile_products) * self.problem.kept

    @functools.cached_property
    def _place_products(self) -> int:
        """Products of a fragment and a tap, of 16 columns of a plane."""
        return sum(self._taps_of_rows)

    @property
    def _taps_of_rows(self) -> list[int]:
        """Numbers of taps that join an input row to an output row. A bias gradient joins each output row to ones, as a tap."""
        taps = [len(terms) for into in self.row_terms.values() for terms in into.values()]
        return taps + [1] * (self.problem.bias * len(self.problem.phases) * self.cfg.tile_pixels[1])

    @functools.cached_property
    def tile_fragments(self) -> int:
        """Fragments of pixels that a consumer loads for a tile."""
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
        """Bytes of a slot of the ring."""
        return len(self.residues) * math.prod(self.load_pixels) * self.pixel_elements * self.problem.itemsize

    @functools.cached_property
    def staged_bytes(self) -> int:
        """Bytes of shared memory for the results of all consumers, which TMA stores from there."""
        per_output = self.cfg.consumers * self.staged_pixels * CHANNELS * self.problem.out_itemsize
        return self.problem.outputs * per_output

    @property
    def tiles_in_ring(self) -> int:
        """Tiles whose pixels the ring holds, whole or in part: the one that is summed, and those loaded ahead.

        There are as many slots for tiles of the cotangent: with fewer, the producer could not fill the ring of pixels.
        """
        return 2 + (self.cfg.stages - self.tile_chunks) // self.advance

    @property
    def cotangent_pixels(self) -> tuple[int, int, int, int]:
        """(phases, planes, rows, columns) of the cotangent in a block's tile."""
        planes, rows, _ = self.cfg.tile_pixels
        return len(self.problem.phases), planes, rows, self.cfg.columns

    @functools.cached_property
    def cotangent_bytes(self) -> int:
        """Bytes of the cotangent in a block's tile, as shared memory has it; 0 if no cotangent is read."""
        return self.problem.weight_sums * math.prod(self.cotangent_pixels) * self.pixel_elements * self.problem.itemsize

    @property
    def barrier_bytes(self) -> int:
        """Bytes of all barriers: two a slot, one a consumer of a residual."""
        slots = self.cfg.stages + self.tiles_in_ring * self.problem.weight_sums
        return BARRIER_BYTES * (2 * slots + self.problem.residual * self.cfg.consumers)

    @property
    def smem_bytes(self) -> int:
        """Bytes of shared memory, barriers included."""
        buffers = self.cfg.stages * self.slot_bytes, self.staged_bytes, self.tiles_in_ring * self.cotangent_bytes
        p = self.problem
        reduces = p.weight_sums and p.on_tensor_cores and not p.whole_matrices
        whole = sum(-(-size // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for size in buffers)
        return whole + self.barrier_bytes + REDUCTION_BYTES * reduces


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem, cached with the numbers that were computed of it."""
    return Tiling(problem, cfg)
