"""The large-kernel depthwise kernel's problems (`Problem`), configurations (`Config`), and what follows (`Tiling`)."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

from pallas_conv import strict
from pallas_conv.spec import Product

from .. import geometry
from ..family import changed_fields
from ..gpu import BARRIER_BYTES, SMEM_ALIGNMENT

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
CHANNELS = 8  # of a thread block: 16 bytes, the least that TMA loads, and a channel for every warp of two consumers
CONSUMERS = 2
MOST_WAVES = 4  # of thread blocks, one after the other on an SM, unless the blocks of channels alone are more
BUFFERS = 2  # of transposed chunks, and of results that are stored
# One mma.sync multiplies [BLOCK, STEP] of pixels by [STEP, ROWS] of weights or of the cotangent, see hankel.py.
ROWS, BLOCK, STEP = 8, 16, 16
WARPS, LANES = 4, 32  # of a warpgroup, of a warp


@dataclasses.dataclass(frozen=True)
class Config:
    """A way to tile the kernel.

    columns      outputs side by side in a strip, or of a weight gradient columns of the cotangent: a multiple of 16
    strip_rows   rows of them that a strip has, one below the other: a multiple of 8
    stages       chunks of eight input rows that TMA loads ahead
    """

    columns: int
    strip_rows: int
    stages: int = 3

    @property
    def complexity(self) -> tuple[float, ...]:
        """A sort key, lower for simpler configurations: narrow strips, short ones, few slots."""
        return self.columns, self.strip_rows, self.stages

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
    """A computation of the kernel.

    Sums over taps: [N, rows, columns, C] x [taps down, taps across, C] -> [N, out_rows, out_columns, C], once per output.
    Sums over pixels, the weight gradient: [N, rows, columns, C] x [N, out_rows, out_columns, C] -> [taps down, taps across, C],
    and with a bias [C].

    batch        N
    channels     C, of all models
    dims         (rows, columns) as taps
    outputs      how many there are, of a size each; none of a weight gradient
    weight_sums  whether there are sums over pixels
    bias         whether the sums of the cotangent are wanted, too
    """

    batch: int
    channels: int
    dims: tuple[geometry.TapAxis, geometry.TapAxis]
    out_itemsize: int
    outputs: int
    weight_sums: bool
    bias: bool

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """The problem of a product. Several models are so many more channels."""
        rows, columns = geometry.dims(product)
        return cls(
            batch=product.batch,
            channels=(product.models or 1) * product.in_channels,
            dims=(rows, columns),
            out_itemsize=ITEMSIZE[product.out_dtype],
            outputs=0 if product.role == "wgrad" else len(product.outputs),
            weight_sums=product.role == "wgrad",
            bias="db" in product.outputs,
        )

    @property
    def taps(self) -> tuple[int, int]:
        """(down, across): numbers of taps."""
        rows, columns = self.dims
        return len(rows.order), len(columns.order)

    @property
    def first(self) -> tuple[int, int]:
        """(down, across): distances from an output to the first pixel that it is a sum of."""
        rows, columns = self.dims
        return rows.offset[0], columns.offset[0]

    @property
    def channel_blocks(self) -> int:
        """Blocks of channels, each of which a thread block has for all its strips."""
        return -(-self.channels // CHANNELS)


def stored_channels(problem: Problem) -> int:
    """Channels of outputs as the kernel stores them: whole 16 bytes, and more than a thread block has."""
    unit = 16 // problem.out_itemsize
    return max(-(-problem.channels // unit) * unit, CHANNELS + unit)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A problem tiled by a configuration: the numbers that the budget, the model and the kernel share."""

    problem: Problem
    cfg: Config

    @property
    def blocks(self) -> int:
        """Matrices side by side: of outputs, or of the taps of a weight gradient."""
        return -(-self.problem.taps[1] // BLOCK) if self.problem.weight_sums else self.cfg.columns // BLOCK

    @property
    def steps(self) -> int:
        """Matrix products that a sum along a row takes: over taps, or over a strip's columns of the cotangent."""
        return self.cfg.columns // STEP if self.problem.weight_sums else -(-self.problem.taps[1] // STEP)

    @property
    def resident(self) -> bool:
        """Whether the sums of all rows of a strip stay in registers. Else they are those of the rows that a chunk meets."""
        return not self.problem.weight_sums and self.output_tiles < self._tiles_met

    @property
    def _tiles_met(self) -> int:
        """Eights of output rows that eight input rows are joined to."""
        return (self.problem.taps[0] + 2 * (ROWS - 1)) // ROWS

    @property
    def groups(self) -> int:
        """Groups of eight rows of `right_shape` that an input row is multiplied with: each has accumulators of its own."""
        if self.problem.weight_sums:
            return -(-self.problem.taps[0] // ROWS)
        return self.output_tiles if self.resident else self._tiles_met

    @property
    def sums(self) -> int:
        """Accumulators of a consumer, four registers each."""
        return self.groups * self.blocks

    @property
    def load_columns(self) -> int:
        """Columns of a chunk of input pixels."""
        return BLOCK * self.blocks + STEP * self.steps

    @property
    def output_tiles(self) -> int:
        """Eights of output rows of a strip."""
        return self.cfg.strip_rows // ROWS

    @property
    def chunks(self) -> int:
        """Eights of input rows that a strip reads, rows of padding among them."""
        return self.output_tiles + (self.problem.taps[0] + ROWS - 2) // ROWS

    def groups_of_row(self, row: int) -> tuple[int, ...]:
        """The groups that an input row of a chunk is joined to by any tap."""
        if self.problem.weight_sums or self.resident:
            return tuple(range(self.groups))
        return tuple(i for i in range(self.groups) if ROWS * i + row < self.problem.taps[0] + ROWS - 1)

    @functools.cached_property
    def chunk_products(self) -> int:
        """Instructions of a warp for a chunk: each multiplies 16 by 16 by 8."""
        return sum(len(self.groups_of_row(row)) for row in range(ROWS)) * self.blocks * self.steps

    # Shared memory.

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """[channels, rows, columns] of a chunk as matrices read it."""
        return transposed_shape(ROWS, self.load_columns)

    @property
    def right_shape(self) -> tuple[int, int, int]:
        """[channels, rows, columns] of what Hankel matrices are multiplied with.

        A strip's cotangent, or weights, whose rows lie from the last tap to the first. Eight rows are read wherever one of them
        is wanted: so there are seven rows of zeros before, and eight after, to read where none is.
        """
        if self.problem.weight_sums:
            return transposed_shape(self.cfg.strip_rows + 2 * ROWS - 1, self.cfg.columns)
        return CHANNELS, self.problem.taps[0] + 2 * ROWS - 1, STEP * self.steps + 8

    @property
    def rows_of_zeros(self) -> int:
        """The first of eight rows of zeros in `right_shape`."""
        return (self.cfg.strip_rows if self.problem.weight_sums else self.problem.taps[0]) + ROWS - 1

    @property
    def loaded_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """[rows, columns, channels] of what TMA loads for a chunk: pixels, and the cotangent of a weight gradient."""
        pixels = ROWS, self.load_columns, CHANNELS
        return (pixels, (ROWS, self.cfg.columns, CHANNELS)) if self.problem.weight_sums else (pixels,)

    @property
    def result_shape(self) -> tuple[int, int, int]:
        """[channels, rows, columns] of eight rows of results."""
        return transposed_shape(ROWS, self.cfg.columns, self.problem.out_itemsize)

    @property
    def staged_shape(self) -> tuple[int, int, int]:
        """[rows, columns, channels] of the results that a consumer stores at once."""
        return ROWS // CONSUMERS, self.cfg.columns, CHANNELS

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot of what TMA loads."""
        return 2 * sum(map(math.prod, self.loaded_shapes))

    @property
    def staged_bytes(self) -> int:
        """Bytes of eight rows of all results."""
        return self.problem.outputs * CONSUMERS * math.prod(self.staged_shape) * self.problem.out_itemsize

    @property
    def smem_bytes(self) -> int:
        """Bytes of shared memory, barriers included."""
        slots = [2 * self.cfg.stages * math.prod(shape) for shape in self.loaded_shapes]
        results = BUFFERS * self.problem.outputs * math.prod(self.result_shape) * self.problem.out_itemsize
        buffers = 2 * BUFFERS * math.prod(self.pixel_shape), 2 * math.prod(self.right_shape)
        sizes = *slots, *buffers, results, BUFFERS * self.staged_bytes
        return sum(-(-size // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for size in sizes) + self.barrier_bytes

    @property
    def barrier_bytes(self) -> int:
        """Bytes of all barriers."""
        own = 1 if self.problem.weight_sums else 1 + BUFFERS
        return BARRIER_BYTES * (self.cfg.stages + 2 * BUFFERS + own)

    # The work of thread blocks.

    @functools.cached_property
    def grid(self) -> tuple[int, int, int, int]:
        """Numbers of strips along (images, rows, columns, channels)."""
        rows, columns = self.problem.dims
        down, across = -(-rows.out_size // self.cfg.strip_rows), -(-columns.out_size // self.cfg.columns)
        return self.problem.batch, down, across, self.problem.channel_blocks

    @property
    def strips(self) -> int:
        """Number of strips of all thread blocks."""
        return math.prod(self.grid)

    def workers(self, num_sms: int) -> int:
        """Number of thread blocks: as many for each block of channels, an SM taking one after the other if there are more.

        So many that the SM with most strips has few: of 48 blocks of channels, 96 would leave a quarter of 132 SMs idle.
        """
        blocks, strips = self.problem.channel_blocks, self.strips // self.problem.channel_blocks
        most = min(strips, max(1, MOST_WAVES * num_sms // blocks))
        return blocks * min(range(1, most + 1), key=lambda n: waves(blocks * n, num_sms) * -(-strips // n))

    def parts(self, num_sms: int) -> int:
        """Partial sums of a weight gradient, which XLA adds: one of each thread block that has its channel."""
        return self.workers(num_sms) // self.problem.channel_blocks

    def rows_read(self, first_row: int) -> "Rows":
        """The input rows that are read of the strip that begins with this output row."""
        return rows_read(self, first_row, _clip)


class Rows(NamedTuple):
    """The input rows of a strip: chunks [first, last) of eight, of which chunk 0 begins at row `top`.

    late: in a weight gradient, how many eights of rows of the cotangent must be there before chunk 0 is multiplied with them.
    """

    top: Any
    first: Any
    last: Any
    late: Any


def rows_read(t: Tiling, first_row: Any, clip: Any) -> Rows:
    """The input rows that a strip reads, those of padding left out, but at least one chunk.

    Where sums move up chunk by chunk, chunk 0 begins with what the first output row reads, be it padding. Else it begins with
    the first row of the image. One formula for Python's numbers and traced ones: clip(value, by, low, high) is value // by
    within these limits, 0 for negative values.
    """
    height, top = t.problem.dims[0].in_size, first_row + t.problem.first[0]
    if not (t.problem.weight_sums or t.resident):
        first = clip(-top, ROWS, 0, t.chunks - 1)
        return Rows(top, first, clip(height - top + ROWS - 1, ROWS, first + 1, t.chunks), 0)
    begin, end = clip(top, 1, 0, height - 1), clip(top + t.cfg.strip_rows + t.problem.taps[0] - 1, 1, 0, height)
    late = clip(begin - top + ROWS - 1, ROWS, 0, t.output_tiles - 1) if t.problem.weight_sums else 0
    return Rows(begin, 0, clip(end - begin + ROWS - 1, ROWS, 1, t.chunks), late)


def _clip(value: int, by: int, low: int, high: int) -> int:
    return min(max(max(value, 0) // by, low), high)


def waves(workers: int, num_sms: int) -> int:
    """Number of thread blocks that an SM takes one after the other."""
    return -(-workers // num_sms)


def words(blocks: int, steps: int) -> int:
    """Number of words that a lane has of a row, as many again of odd pixels: each lies four further than the one before."""
    return 2 * (blocks + steps - 1)


def transposed_shape(rows: int, columns: int, itemsize: int = 2) -> tuple[int, int, int]:
    """[channels, rows, columns] of rows of pixels in shared memory, channel by channel, with a few rows and columns to spare.

    Eight lanes that read eight rows, and eight lanes that write eight channels, then find them in different banks: a row is an
    odd number of units of 16 bytes, and a channel is one such unit more than a multiple of 128 bytes.
    """
    unit = 16 // itemsize
    pitch = columns // unit | 1
    return CHANNELS, rows + (pitch - rows) % 8, unit * pitch


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem, cached with the numbers that were computed of it."""
    return Tiling(problem, cfg)
