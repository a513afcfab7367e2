"""The pointwise kernel's problems (`Problem`), configurations (`Config`), and what follows from both (`Tiling`)."""

import dataclasses
import functools
import math
from typing import Any

from pallas_conv import strict
from pallas_conv.spec import Product

from .. import geometry
from ..family import changed_fields
from ..gpu import BARRIER_BYTES, SMEM_ALIGNMENT

CHUNK = 64  # channels that are loaded together, 128 bytes; and the rows of a wgmma
CONSUMERS = 2  # warpgroups that multiply
PIXELS = CONSUMERS * CHUNK  # of a step: each consumer has the input gradient of as many as a wgmma has rows
X_STAGES = 2  # steps whose x is in shared memory
BUFFERS = 2  # of a consumer, from which it stores its input gradient
STAGED_BYTES = 64  # of a pixel in one of them
WARPS = 4  # of a warpgroup, each with a sum of its own for the bias gradient
ITEMSIZE = 2  # of an operand: bfloat16 or float16


@dataclasses.dataclass(frozen=True)
class Config:
    """A way to tile the pointwise kernel.

    step_pixels  (images, *pixels) of one step: a box of 128
    tile_n       input channels of a thread block, a multiple of 64
    stages       slots of the ring of cotangents between the producer and the consumers
    split_k      parts of the pixels, which different thread blocks take; XLA adds their weight gradients in float32, always in
                 the same order
    """

    step_pixels: tuple[int, ...]
    tile_n: int = 64
    stages: int = 2
    split_k: int = 1

    @property
    def ctas_per_sm(self) -> int:
        """Thread blocks on an SM: their sums need its registers."""
        return 1

    @property
    def consumer_pixels(self) -> tuple[int, ...]:
        """(images, *pixels) of one consumer's part of a step: half of it, along the first dimension that has several."""
        split = self.split_axis
        return tuple(n // CONSUMERS if i == split else n for i, n in enumerate(self.step_pixels))

    @property
    def split_axis(self) -> int:
        """The axis of a step's box that the consumers divide."""
        return next(i for i, n in enumerate(self.step_pixels) if n > 1)

    @property
    def complexity(self) -> tuple[float, ...]:
        """A sort key, lower for simpler configurations: few parts, long lines."""
        box = self.step_pixels
        return self.split_k, box[0], *(-n for n in reversed(box))

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
    """A computation of the kernel, per example:

        x [N, *space, C], ct [N, *space, O], w [O, C], saved like ct  ->  dx [N, *space, C], dw [O, C], db [O]

    examples E, each with weights and gradients of its own; batch N images of one; in_channels C, out_channels O.

    dims        of the pixels, which are those of x and of ct alike
    derivative  the activation by whose derivative, at what was saved, ct is multiplied; None: by nothing
    bias        whether db is wanted
    """

    examples: int
    batch: int
    in_channels: int
    out_channels: int
    dims: tuple[geometry.TapAxis, ...]
    out_itemsize: int = 2
    derivative: str | None = None
    bias: bool = False

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """The problem of a product. Several models are so many examples."""
        return cls(
            examples=product.models or 1,
            batch=product.batch,
            in_channels=product.in_channels,
            out_channels=product.out_channels,
            dims=tuple(axis.dim() for axis in geometry.axes(product)),
            out_itemsize=4 if product.out_dtype == "float32" else 2,
            derivative=product.activation,
            bias="db" in product.outputs,
        )

    @property
    def pixels(self) -> int:
        """Pixels of all examples."""
        return self.examples * self.batch * math.prod(d.in_size for d in self.dims)

    @property
    def cotangents(self) -> int:
        """Arrays shaped like the cotangent: itself, and what the activation saved."""
        return 2 if self.derivative else 1


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A problem tiled by a configuration: the numbers that the budget, the model and the kernel share.

    A thread block has all output channels, and `tile_n` input channels. Its weights and its weight gradient are blocks of
    64x64 channels, `row_blocks` by `column_blocks` of them.
    """

    problem: Problem
    cfg: Config

    @functools.cached_property
    def row_blocks(self) -> int:
        """Blocks of 64 output channels: all of them."""
        return -(-self.problem.out_channels // CHUNK)

    @property
    def column_blocks(self) -> int:
        """Blocks of 64 input channels that a thread block has."""
        return self.cfg.tile_n // CHUNK

    @property
    def n_tiles(self) -> int:
        """Tiles of input channels, each of another thread block."""
        return -(-self.problem.in_channels // self.cfg.tile_n)

    @property
    def divided(self) -> str:
        """The dimension that the consumers divide for the weight gradient: "columns" or "rows" of its blocks, if it has an even
        number of these. Else it is "pixels": each sums all blocks over its own.
        """
        return "pixels" if self.row_blocks * self.column_blocks % 2 else "rows" if self.column_blocks % 2 else "columns"

    @property
    def own_columns(self) -> int:
        """Columns of blocks of the weight gradient that one consumer sums."""
        return self.column_blocks // (CONSUMERS if self.divided == "columns" else 1)

    @property
    def own_blocks(self) -> int:
        """Blocks of the weight gradient that one consumer sums."""
        return self.row_blocks * self.own_columns // self.slot_chunks

    @property
    def slot_chunks(self) -> int:
        """Chunks of the cotangent in a slot of its ring: where consumers divide rows of blocks, each sums those of one."""
        return CONSUMERS if self.divided == "rows" else 1

    @property
    def slots(self) -> int:
        """Slots of the ring that a step fills."""
        return self.row_blocks // self.slot_chunks

    @property
    def late_slots(self) -> int:
        """Slots that are not loaded ahead: as many as the producer multiplies before one of them is sure to come back."""
        return (self.slots if self.column_blocks > 1 else 1) if self.problem.derivative else 0

    @property
    def least_stages(self) -> int:
        """The fewest slots of the ring. For each column of blocks of dx consumers need all of a step's cotangent."""
        return max(2, self.slots if self.column_blocks > 1 else 0, self.late_slots + 1)

    @property
    def summed_pixels(self) -> int:
        """Pixels of a step that a consumer sums the weight gradient over."""
        return CHUNK if self.divided == "pixels" else PIXELS

    @functools.cached_property
    def grid(self) -> tuple[int, ...]:
        """Steps of an example along (images, *pixels)."""
        sizes = (self.problem.batch, *(d.in_size for d in self.problem.dims))
        return tuple(-(-n // e) for n, e in zip(sizes, self.cfg.step_pixels, strict=True))

    @property
    def steps(self) -> int:
        """Steps of an example, of all parts together."""
        return math.prod(self.grid)

    @property
    def blocks(self) -> int:
        """Thread blocks of a launch."""
        return self.problem.examples * self.n_tiles * self.cfg.split_k

    @property
    def parts(self) -> int:
        """Parts that a weight gradient is the sum of: those of the pixels, of each the consumers' if both sum all blocks."""
        return self.cfg.split_k * (CONSUMERS if self.divided == "pixels" else 1)

    @property
    def sums_shape(self) -> tuple[int, ...]:
        """The shape of the weight gradient's parts: [parts, E, O, C] in whole blocks."""
        p = self.problem
        return self.parts, p.examples, self.row_blocks * CHUNK, self.n_tiles * self.cfg.tile_n

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """The shape of the bias gradient's: [parts, E, warps, O] in whole blocks."""
        return self.cfg.split_k, self.problem.examples, WARPS, self.row_blocks * CHUNK

    @property
    def staged_columns(self) -> int:
        """Channels of the input gradient that are stored together."""
        return STAGED_BYTES // self.problem.out_itemsize

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot of the ring: chunks of the cotangent, and of what was saved."""
        return self.problem.cotangents * self.slot_chunks * PIXELS * CHUNK * ITEMSIZE

    @property
    def x_bytes(self) -> int:
        """Bytes of x of a step."""
        return self.column_blocks * PIXELS * CHUNK * ITEMSIZE

    @property
    def step_bytes(self) -> int:
        """Bytes that a block loads for a step."""
        return self.slots * self.slot_bytes + self.x_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of a thread block's weights, which stay in shared memory."""
        return self.row_blocks * self.column_blocks * CHUNK * CHUNK * ITEMSIZE

    @property
    def buffer_bytes(self) -> int:
        """Bytes of shared memory but for barriers."""
        staging = CONSUMERS * BUFFERS * CHUNK * STAGED_BYTES
        sizes = self.cfg.stages * self.slot_bytes, X_STAGES * self.x_bytes, self.weight_bytes, staging
        return sum(-(-nbytes // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for nbytes in sizes)

    @property
    def barrier_bytes(self) -> int:
        """Bytes of the barriers: two of each slot of either ring, a third where cotangents are multiplied, one for weights."""
        multiplied = self.cfg.stages if self.problem.derivative else 0
        return (2 * (self.cfg.stages + X_STAGES) + multiplied + 1) * BARRIER_BYTES


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem, cached with the numbers that were computed of it."""
    return Tiling(problem, cfg)
