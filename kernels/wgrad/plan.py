"""The weight-gradient kernel's problems (`Problem`), configurations (`Config`), and what follows from both (`Tiling`)."""

import dataclasses
import functools
import math
from typing import Any

from pallas_conv import strict
from pallas_conv.spec import Product

from .. import geometry
from ..family import changed_fields
from ..gpu import BARRIER_BYTES, SMEM_ALIGNMENT

M = 64  # rows of a wgmma: output channels of one warpgroup
REDUCTION_BYTES = 2048  # that Mosaic reserves in a kernel that sums along an axis, as for a bias gradient
ITEMSIZE = 2  # of an operand in the kernel: bfloat16 or float16


@dataclasses.dataclass(frozen=True)
class Config:
    """A way to tile the weight-gradient kernel.

    step_pixels     (images, *pixels) of one step, whose products are summed: a multiple of 64 pixels
    tile_n          input channels of one load of x, and the N of its wgmma: 64, or with dy in registers also 32 or 16
    taps_per_tile   taps of a tile whose pixels are loaded one by one, beside those of a halo
    channel_loads   loads of tile_n input channels of each of them
    m_warpgroups    consumer warpgroups side by side over output channels, 64 each
    n_warpgroups    consumer warpgroups that divide the loads of x
    halo            load the x of all taps of the first tiled dimension once
    dy_registers    take dy through registers: it is read from shared memory once for all taps, and x may be narrow
    stages          slots of the ring between the producer and the consumers
    split_k         parts of the pixels, which different thread blocks sum; XLA adds them in float32, always in the same order
    ctas_per_sm     thread blocks on an SM
    multicast       what a cluster of two thread blocks shares: "x", for twice the output channels, "dy", for twice the input
                    channels, or "" for no cluster
    transposed      compute the gradient of the transposed convolution: x and dy, input and output channels exchange roles
    space_to_depth  make strides input channels beforehand (for few channels): fewer taps, without a stride
    row_outputs     take so many neighbouring outputs of a row as one, of so many times the output channels (for few of them)
    """

    step_pixels: tuple[int, ...]
    tile_n: int = 64
    taps_per_tile: int = 1
    channel_loads: int = 1
    m_warpgroups: int = 1
    n_warpgroups: int = 1
    halo: bool = False
    dy_registers: bool = False
    stages: int = 4
    split_k: int = 1
    ctas_per_sm: int = 1
    multicast: str = ""
    transposed: bool = False
    space_to_depth: bool = False
    row_outputs: int = 1

    @property
    def pixels(self) -> int:
        """Pixels of a step: the K of its products."""
        return math.prod(self.step_pixels)

    @property
    def x_loads(self) -> int:
        """Loads of x in a step."""
        return self.taps_per_tile * self.channel_loads

    @property
    def mma_warpgroups(self) -> int:
        """Warpgroups that multiply."""
        return self.m_warpgroups * self.n_warpgroups

    @property
    def cluster(self) -> int:
        """Thread blocks that share what is multicast."""
        return 2 if self.multicast else 1

    @property
    def finished_by_xla(self) -> bool:
        """Whether the kernel stores bare float32 sums, which XLA adds."""
        return self.split_k > 1 or self.row_outputs > 1

    @property
    def complexity(self) -> tuple[float, ...]:
        """A sort key, lower for simpler configurations: operands as they lie, few parts, blocks alone, long lines."""
        box = self.step_pixels
        return self.space_to_depth, self.row_outputs, self.split_k, self.cluster, box[0], *(-e for e in reversed(box))

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
    """A computation of the kernel: x [E N, *in, G, C] and dy [E N, *out, G, O] -> dw [E, *kernel, G, O, C].

    examples E, each with a gradient of its own, batch N images of one, groups G, in_channels C and out_channels O of a group.

    axes    the dimensions, of one phase each: what a kernel reads is x, moved by its taps, and dy, as it lies
    bias    whether the sums of dy over pixels are wanted, too: [E, G, O]
    terms   products of pieces of 16 bits that make up one of the operands' own, see `operands.pieces`
    """

    examples: int
    batch: int
    groups: int
    in_channels: int
    out_channels: int
    axes: tuple[geometry.ConvAxis, ...]
    terms: int = 1
    out_itemsize: int = 2
    bias: bool = False

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """The problem of a product. Several models are so many examples."""
        groups = product.spec.groups
        return cls(
            examples=product.models or 1,
            batch=product.batch,
            groups=groups,
            in_channels=product.in_channels // groups,
            out_channels=product.out_channels // groups,
            axes=geometry.axes(product),
            terms=3 if product.compute_dtype == "float32" else 1,
            out_itemsize=4 if product.out_dtype == "float32" else 2,
            bias="db" in product.outputs,
        )

    @functools.cached_property
    def dims(self) -> tuple[geometry.TapAxis, ...]:
        """The dimensions as taps."""
        return tuple(axis.dim() for axis in self.axes)

    def under(self, cfg: Config) -> "Problem":
        """The problem as the kernel computes it under a configuration."""
        problem = self.oriented(cfg)
        problem = problem.space_to_depth() if cfg.space_to_depth else problem
        return problem.with_row_outputs(cfg.row_outputs) if cfg.row_outputs > 1 else problem

    def oriented(self, cfg: Config) -> "Problem":
        """The problem, or the transposed one if the configuration says so."""
        return self.transpose() if cfg.transposed else self

    def transpose(self) -> "Problem":
        """The gradient of the transposed convolution: the same numbers, with x and dy in exchanged roles."""
        return _transposed(self)

    def space_to_depth(self) -> "Problem":
        """The same sums with every stride as channels of x: pixel j * stride + r of a channel is pixel j of channel r."""
        axes = tuple(axis.space_to_depth() for axis in self.axes)
        channels = self.in_channels * math.prod(axis.stride for axis in self.axes)
        return dataclasses.replace(self, in_channels=channels, axes=axes)

    def with_row_outputs(self, count: int) -> "Problem":
        """More sums, with `count` outputs of a row as channels of one: the taps of output r are moved by r strides."""
        *axes, last = self.axes
        return dataclasses.replace(
            self, out_channels=self.out_channels * count, axes=(*axes, last.with_outputs_together(count))
        )

    @property
    def single_phase(self) -> bool:
        """Whether dy has one phase in every dimension: boxes of dy and boxes of x of all taps then lie side by side."""
        return all(d.out_stride == 1 for d in self.dims)

    @property
    def pieces(self) -> int:
        """Arrays of 16 bits that an operand is made of."""
        return 1 if self.terms == 1 else 2

    @property
    def elements(self) -> tuple[int, int]:
        """Numbers of elements of x and of dy as the kernel reads them: whole 16 bytes of channels, and whole strides."""
        image_groups, unit = self.examples * self.batch * self.pieces * self.groups, 16 // ITEMSIZE
        whole = lambda channels: -(-channels // unit) * unit
        x = image_groups * whole(self.in_channels) * math.prod(d.in_rows * d.in_stride for d in self.dims)
        return x, image_groups * whole(self.out_channels) * math.prod(d.out_size for d in self.dims)

    @property
    def images(self) -> int:
        """Images of an example, once for each of the terms that make up its products."""
        return self.batch * self.terms


@functools.lru_cache(maxsize=256)
def _transposed(problem: Problem) -> Problem:
    return dataclasses.replace(
        problem,
        in_channels=problem.out_channels,
        out_channels=problem.in_channels,
        axes=tuple(axis.transpose() for axis in problem.axes),
    )


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A problem tiled by a configuration: the numbers that the budget, the model and the kernel share.

    A tile is 64 output channels of each of m_warpgroups, times tile_n input channels of every load of x and tap of its halo.
    All its sums are registers of the consumers while the kernel walks the pixels of its part.

    raw, cfg: a problem, and a configuration that `legal.illegal` has nothing against.
    """

    raw: Problem
    cfg: Config

    @functools.cached_property
    def problem(self) -> Problem:
        """The problem as the kernel computes it. Everything below is about this one."""
        return self.raw.under(self.cfg)

    @functools.cached_property
    def halo_dim(self) -> int:
        """The spatial dimension whose taps one load serves, or ndim (none)."""
        sizes = self.cfg.step_pixels[1:]
        return next(i for i, e in enumerate(sizes) if e > 1) if self.cfg.halo else len(sizes)

    @property
    def halo_taps(self) -> int:
        """Number of taps that one load of x serves; 1 without a halo."""
        return self.problem.dims[self.halo_dim].count[0] if self.cfg.halo else 1

    @property
    def halo_row(self) -> int:
        """Rows of a load by which the next tap of its halo starts further in it."""
        if not self.cfg.halo:
            return 0
        return self.problem.dims[self.halo_dim].tap_stride * math.prod(self.cfg.step_pixels[2 + self.halo_dim :])

    @functools.cached_property
    def load_pixels(self) -> tuple[int, ...]:
        """(images, *pixels) of one load of x. With a halo it is longer: its last tap reaches further than its first."""
        if not self.cfg.halo:
            return self.cfg.step_pixels
        reach = (self.halo_taps - 1) * self.problem.dims[self.halo_dim].tap_stride
        return tuple(e + reach if i == self.halo_dim + 1 else e for i, e in enumerate(self.cfg.step_pixels))

    @functools.cached_property
    def tap_loads(self) -> tuple[int, ...]:
        """Numbers of places, by dimension, at which x is loaded: one for every tap, or one along a halo."""
        return tuple(1 if i == self.halo_dim else d.count[0] for i, d in enumerate(self.problem.dims))

    @property
    def tap_tiles(self) -> int:
        """Number of tiles along taps."""
        return -(-math.prod(self.tap_loads) // self.cfg.taps_per_tile)

    @property
    def m_tiles(self) -> int:
        """Number of tiles along output channels, in whole clusters."""
        return _whole(-(-self.problem.out_channels // (M * self.cfg.m_warpgroups)), self.cfg.multicast == "x")

    @property
    def n_tiles(self) -> int:
        """Number of tiles along input channels, in whole clusters."""
        return _whole(
            -(-self.problem.in_channels // (self.cfg.tile_n * self.cfg.channel_loads)), self.cfg.multicast == "dy"
        )

    @property
    def image_steps(self) -> int:
        """Boxes that the images of an example are walked in."""
        return -(-self.problem.images // self.cfg.step_pixels[0])

    @property
    def work_tiles(self) -> int:
        """Work tiles of clusters, of all parts."""
        p = self.problem
        tiles = p.examples * p.groups * self.tap_tiles * self.m_tiles * self.n_tiles // self.cfg.cluster
        return tiles * self.cfg.split_k

    def workers(self, num_sms: int) -> int:
        """Number of persistent clusters: as many as the chip holds, if there is work for so many."""
        return min(num_sms * self.cfg.ctas_per_sm // self.cfg.cluster, self.work_tiles)

    @property
    def consumer_loads(self) -> int:
        """Loads of x that one consumer multiplies."""
        return self.cfg.x_loads // self.cfg.n_warpgroups

    @property
    def products(self) -> int:
        """Products of a consumer in a step: one for every load and tap of its halo. Each has sums of its own."""
        return self.consumer_loads * self.halo_taps

    @property
    def accumulators(self) -> int:
        """Registers of a consumer's thread that hold sums."""
        return self.products * self.cfg.tile_n // 2

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the kernel's result: [parts E, places of x, taps of the halo, G, O, C] in whole tiles."""
        p, cfg = self.problem, self.cfg
        places = self.tap_tiles * cfg.taps_per_tile
        rows, columns = self.m_tiles * cfg.m_warpgroups * M, self.n_tiles * cfg.channel_loads * cfg.tile_n
        return cfg.split_k * p.examples, places, self.halo_taps, p.groups, rows, columns

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """The shape of the sums of dy: [parts E, G, O] in whole tiles."""
        parts, _, _, groups, rows, _ = self.out_shape
        return parts, groups, rows

    @property
    def stored_itemsize(self) -> int:
        """Bytes of an element of the kernel's result."""
        return 4 if self.cfg.finished_by_xla else self.problem.out_itemsize

    @property
    def dy_bytes(self) -> int:
        """Bytes of dy in a slot of the ring."""
        return self.cfg.m_warpgroups * M * self.cfg.pixels * ITEMSIZE

    @property
    def x_bytes(self) -> int:
        """Bytes of x in a slot of the ring."""
        return self.cfg.x_loads * self.cfg.tile_n * math.prod(self.load_pixels) * ITEMSIZE

    @functools.cached_property
    def smem_bytes(self) -> int:
        """Bytes of shared memory, those of barriers and reductions included."""
        buffers = (self.cfg.stages * nbytes for nbytes in (self.dy_bytes, self.x_bytes))
        whole = sum(-(-nbytes // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for nbytes in buffers)
        return whole + 2 * self.cfg.stages * BARRIER_BYTES + REDUCTION_BYTES * self.problem.bias


def _whole(tiles: int, in_pairs: bool) -> int:
    return -(-tiles // 2) * 2 if in_pairs else tiles


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem, cached with the numbers that were computed of it."""
    return Tiling(problem, cfg)
