"""The depthwise kernel's problems (`Problem`) and configurations (`Config`)."""

import dataclasses
import functools
import itertools
import math
from typing import Any

from pallas_conv import strict
from pallas_conv.spec import Product

from .. import geometry
from ..family import changed_fields, channels_of_a_group
from .taps import moves_of

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
PIXELS, CHANNELS = 16, 32  # of a fragment: the sums that a warpgroup makes at once, four a thread
LANES = 8  # channels of a warp where tensor cores multiply
WARPS = 4  # of a warpgroup
MOST_FRAGMENTS = 8  # of an input row, in registers at once
# Input rows from a row of taps to the next, at most, if their last taps share an accumulator: pixels wait for so long.
MOST_WAITING = 2
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


def whole_group(product: Product) -> int:
    """Channels of a group once zeros fill it up: the next power of two."""
    return 1 << (max(1, *channels_of_a_group(product)) - 1).bit_length()


def dims_of(product: Product) -> tuple[geometry.TapAxis, ...]:
    """The dimensions of a product as taps: those of a whole backward pass are the input gradient's."""
    if product.role == "bwd":
        product = dataclasses.replace(product, role="dgrad", activation=None, outputs=())
    return geometry.dims(product)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A computation of a depthwise kernel.

    Sums over taps: [N, *in, C] x [*kernel, group, C] -> [N, *out, C], once per output.
    Sums over pixels, the weight gradient: [N, *in, C] x [N, *out, C] -> [*kernel, group, C], and with a bias [C].
    Or both, the whole backward pass. Its taps are the input gradient's: they read the cotangent, which is [N, *in, C] here, and
    dx and x are [N, *out, C].

    batch        N
    channels     C, of all models
    group        channels of a group, on either side: each result sums over those of its own. Tensor cores' tiles hold whole
                 groups, so it is 1, 2, 4 or 8
    pixel_group  channels of a group of pixels as they are given: the others, up to `group`, are zeros
    output_group the same of outputs, and of what is shaped like one
    dims         the dimensions as taps: always (planes, rows, columns), of which a convolution of fewer has the last ones
    ndim         how many it has
    outputs      how many there are, of a size each; none of a weight gradient by itself
    residual     whether there is one more operand, shaped like an output
    weight_sums  whether there are sums over pixels: then there is one more operand, shaped like an output, the partner
    bias         whether the sums of the cotangent are wanted, too
    derivative   the activation by whose derivative a whole backward pass multiplies the cotangent, if any
    """

    batch: int
    channels: int
    group: int
    pixel_group: int
    output_group: int
    dims: tuple[geometry.TapAxis, ...]
    ndim: int
    itemsize: int = 2
    out_itemsize: int = 2
    outputs: int = 1
    residual: bool = False
    weight_sums: bool = False
    bias: bool = False
    derivative: str | None = None

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """The problem of a product. Several models are so many more channels."""
        dims, weight_sums = dims_of(product), product.role in ("wgrad", "bwd")
        of_x, of_ct = channels_of_a_group(product)
        group = whole_group(product)
        pixels, outputs = (of_ct, of_x) if product.role in ("dgrad", "bwd") else (of_x, of_ct)
        return cls(
            batch=product.batch,
            channels=(product.models or 1) * product.spec.groups * group,
            group=group,
            pixel_group=pixels,
            output_group=outputs,
            dims=(*[ONE] * (3 - len(dims)), *dims),
            ndim=len(dims),
            itemsize=ITEMSIZE[product.compute_dtype],
            out_itemsize=ITEMSIZE[product.out_dtype],
            outputs={"wgrad": 0, "bwd": 1}.get(product.role, len(product.outputs)),
            residual=product.residual,
            weight_sums=weight_sums,
            bias="db" in product.outputs,
            derivative=product.activation if product.role == "bwd" else None,
        )

    @property
    def groups(self) -> int:
        """Number of groups, of all models."""
        return self.channels // self.group

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
    def tap_registers(self) -> int:
        """Registers of a thread for the weights of a tap.

        On tensor cores one, which holds a thread's two numbers of an 8x8 matrix, whatever the groups. In float32 one for every
        channel of the group, each of which is multiplied with a pixel of its own: a product has as many terms.
        """
        return 1 if self.on_tensor_cores else self.group

    @property
    def row_fragments(self) -> int:
        """Fragments of an input row in registers at once. In float32 one is as many arrays as a group has channels."""
        return MOST_FRAGMENTS if self.on_tensor_cores else min(MOST_FRAGMENTS, 2 * MOST_FRAGMENTS // self.group)

    @property
    def loaded(self) -> int:
        """Number of operands that come chunk by chunk: pixels, and what an activation saved of them."""
        return 2 if self.derivative else 1

    @property
    def backward(self) -> bool:
        """Whether it is a whole backward pass."""
        return self.weight_sums and self.outputs > 0

    @functools.cached_property
    def accumulators(self) -> tuple[tuple[int, ...], ...]:
        """The taps of each sum over pixels.

        Tensor cores sum for two taps of a phase: neighbours in a row, or, where rows have an odd number, the last of two rows.
        """
        if not self.on_tensor_cores:
            return tuple((tap,) for tap in range(self.taps))
        planes, rows, columns = self.dims
        found = list[tuple[int, ...]]()
        of_phases = lambda d: list(zip(d.first, d.count, strict=True))
        for plane, of_rows, of_columns in itertools.product(range(len(planes.order)), *map(of_phases, (rows, columns))):
            (first_row, row_count), (first, count) = of_rows, of_columns
            row = plane * len(rows.order) + first_row
            starts = [n * len(columns.order) + first for n in range(row, row + row_count)]
            even = count - count % 2 if self.rows_share else count
            for start in starts:
                found += itertools.batched(range(start, start + even), 2)
            found += itertools.batched([start + even for start in starts if even < count], 2)
        return tuple(sorted(found))

    @property
    def rows_share(self) -> bool:
        """Whether the last taps of two rows share an accumulator, where rows have an odd number of taps."""
        return self.on_tensor_cores and self.dims[1].tap_stride <= MOST_WAITING

    @property
    def waiting(self) -> int:
        """Fragments of pixels in registers at once that wait for those of another row, to be multiplied with them."""
        planes, rows, columns = self.dims
        waits = self.rows_share and max(rows.count) > 1
        return waits * len(planes.order) * rows.tap_stride * sum(count % 2 for count in columns.count)

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
