"""The dense kernel's problems (`Problem`), configurations (`Config`), and the numbers that follow from both (`Tiling`)."""

import dataclasses
import functools
import math
from typing import Any

from pallas_conv import strict
from pallas_conv.spec import Product

from .. import geometry
from ..family import changed_fields
from ..gpu import BARRIER_BYTES, SMEM_ALIGNMENT

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
FORMER_NAMES = {  # of fields of Config, in rows of hardware runs that are kept as they were written
    "box": "tile_pixels", "bn": "tile_n", "bk": "tile_k", "taps": "taps_per_step", "unfold": "im2col", "fold": "col2im_dims",
    "consumers": "mma_warpgroups", "blocks": "ctas_per_sm", "split": "split_k", "out_bufs": "epi_stages",
    "skip": "skip_padding",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """A way to tile the dense kernel.

    tile_pixels     (images, *pixels) of one consumer warpgroup's tile: a product of 64 or 128
    tile_n          output channels of a tile, a multiple of 16; at most 128 * 128 accumulators, see `legal.illegal`
    tile_k          channels of one step: 128, 64 or 32 bytes of them, which is also the swizzle
    taps_per_step   taps of the last dimension loaded in one step (for few channels)
    halo            load the pixels of all taps of the first tiled dimension once
    im2col          make the taps of the last dimension input channels beforehand (for very few of them)
    col2im_dims     make the taps of so many last dimensions output channels, which XLA adds (for very few of them)
    resident        keep all weights in shared memory, instead of those of a step in a slot (for few channels)
    stages          slots of the ring between the producer and the consumers
    mma_warpgroups  consumer warpgroups, which multiply; they share the weights of a slot
    cluster         thread blocks that share the weights of their tiles by multicast
    ctas_per_sm     thread blocks on an SM: two of one consumer each hide each other's epilogue
    split_k         parts of the channels, which different thread blocks sum (for few tiles); XLA adds them in float32
    epi_stages      staging buffers of each consumer on the way out
    skip_padding    skip taps that read nothing but padding
    """

    tile_pixels: tuple[int, ...]
    tile_n: int = 128
    tile_k: int = 64
    taps_per_step: int = 1
    halo: bool = False
    im2col: bool = False
    col2im_dims: int = 0
    resident: bool = False
    stages: int = 4
    mma_warpgroups: int = 2
    cluster: int = 1
    ctas_per_sm: int = 1
    split_k: int = 1
    epi_stages: int = 1
    skip_padding: bool = True

    @property
    def tile_m(self) -> int:
        """Pixels of one consumer's tile: the M of its wgmma."""
        return math.prod(self.tile_pixels)

    @property
    def epi_tile_n(self) -> int:
        """Output channels of a tile staged at a time: at most 32, since the epilogue of 64 would not fit in registers."""
        return math.gcd(self.tile_n, 32)

    @property
    def finished_by_xla(self) -> bool:
        """Whether the kernel stores bare float32 sums: XLA then adds them up, and does the epilogue, in another pass."""
        return self.split_k > 1 or self.col2im_dims > 0

    @property
    def complexity(self) -> tuple[float, ...]:
        """A sort key, lower for simpler configurations: whole sums, blocks alone, boxes of one image and of long lines."""
        return self.split_k, self.cluster, self.tile_pixels[0], *(-e for e in reversed(self.tile_pixels))

    def __str__(self) -> str:
        return changed_fields(self)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> "Config":
        """The inverse of `to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        return strict.parse(cls, strict.renamed(data, FORMER_NAMES, where), where)


def adds_zeros(product: Product, cfg: Config) -> bool:
    """Whether the kernel adds zeros for want of a bias: where it activates sums to which it would else add nothing.

    A bias or a residual is loaded chunk by chunk of a tile. Without such loads ptxas computes the activation of all chunks at
    once, for which there are too few registers.
    """
    return (
        product.activation is not None
        and "y" in product.outputs
        and not (product.bias or product.residual or cfg.finished_by_xla)
    )


@dataclasses.dataclass(frozen=True)
class Problem:
    """A computation of the dense kernel: [N, *in, G, C] x [*kernel, G, O, C] -> [N, *out, G, O], once per output.

    batch N, groups G, in_channels C and out_channels O of a group. The sums are over C.

    residual: whether there is one more operand, shaped like an output.
    """

    batch: int
    groups: int
    in_channels: int
    out_channels: int
    dims: tuple[geometry.TapAxis, ...]
    itemsize: int = 2
    out_itemsize: int = 2
    outputs: int = 1
    residual: bool = False

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """The problem of a product, which sums over C: input channels forward, output channels in the input gradient.

        Several models are so many more groups.
        """
        groups, models = product.spec.groups, product.models or 1
        channels = product.in_channels // groups, product.out_channels // groups
        summed, produced = channels if product.role == "fprop" else channels[::-1]
        itemsizes = ITEMSIZE[product.compute_dtype], ITEMSIZE[product.out_dtype]
        dims, outputs = geometry.dims(product), len(product.outputs)
        return cls(product.batch, models * groups, summed, produced, dims, *itemsizes, outputs, product.residual)

    @property
    def phases(self) -> int:
        """Number of phases of the output, each with taps of its own."""
        return math.prod(d.out_stride for d in self.dims)

    def under(self, cfg: Config) -> "Problem":
        """The problem that is left to the kernel when XLA prepares operands and finishes results as a configuration wants."""
        problem = self
        if cfg.im2col:
            *dims, last = self.dims
            problem = dataclasses.replace(
                problem, in_channels=self.in_channels * last.count[0], dims=(*dims, last.im2col())
            )
        if cfg.col2im_dims:
            rest, summed = self.dims[: -cfg.col2im_dims], self.dims[-cfg.col2im_dims :]
            channels = self.out_channels * math.prod(len(d.order) for d in summed)
            problem = dataclasses.replace(problem, out_channels=channels, dims=(*rest, *(d.col2im() for d in summed)))
        if cfg.finished_by_xla:
            problem = dataclasses.replace(problem, out_itemsize=4, outputs=cfg.split_k, residual=False)
        return problem


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A problem tiled by a configuration: the numbers that the budget, the model and the kernel share.

    raw, cfg: a problem, and a configuration that `legal.illegal` has nothing against.
    """

    raw: Problem
    cfg: Config

    @functools.cached_property
    def problem(self) -> Problem:
        """The problem that is left to the kernel. Everything below is about this one."""
        return self.raw.under(self.cfg)

    @functools.cached_property
    def halo_dim(self) -> int:
        """The spatial dimension whose taps one load serves, or ndim (none)."""
        return (
            next(i for i, e in enumerate(self.cfg.tile_pixels[1:]) if e > 1)
            if self.cfg.halo
            else len(self.problem.dims)
        )

    @property
    def halo_taps(self) -> int:
        """Number of taps along the halo's dimension that one load serves; 1 without a halo."""
        return self.problem.dims[self.halo_dim].count[0] if self.cfg.halo else 1

    @property
    def cta_tiles(self) -> int:
        """Tiles of pixels of a thread block: with a halo one, shared by its consumers side by side; else one for each."""
        return 1 if self.cfg.halo else self.cfg.mma_warpgroups

    @functools.cached_property
    def cta_pixels(self) -> tuple[int, ...]:
        """(images, *pixels) of one of the block's tiles of pixels."""
        return tuple(
            b * self.cfg.mma_warpgroups if i == self.halo_dim + 1 else b for i, b in enumerate(self.cfg.tile_pixels)
        )

    @functools.cached_property
    def load_pixels(self) -> tuple[int, ...]:
        """(images, *pixels) of one load. With a halo it is longer: its last tap reaches further than its first."""
        if not self.cfg.halo:
            return self.cta_pixels
        reach = self.problem.dims[self.halo_dim].box_of_tap(self.halo_taps - 1)[1]
        return tuple(b + reach if i == self.halo_dim + 1 else b for i, b in enumerate(self.cta_pixels))

    @property
    def pixel_loads(self) -> int:
        """Loads of pixels in a step: one for each tile, or with a halo one for each box that its taps read."""
        return self.problem.dims[self.halo_dim].residues if self.cfg.halo else self.cfg.mma_warpgroups

    @functools.cached_property
    def m_grid(self) -> tuple[int, ...]:
        """Numbers of tiles along (images, *rows of a phase)."""
        sizes = self.problem.batch, *(d.rows for d in self.problem.dims)
        return tuple(-(-n // b) for n, b in zip(sizes, self.cta_pixels, strict=True))

    @property
    def n_tiles(self) -> int:
        """Number of tiles along output channels."""
        return -(-self.problem.out_channels // self.cfg.tile_n)

    @property
    def k_steps(self) -> int:
        """Number of steps along channels, of all parts together."""
        return -(-self.problem.in_channels // self.cfg.tile_k)

    @functools.cached_property
    def work_tiles_of_phase(self) -> int:
        """Work tiles of one phase. Each is a cluster's pixels of one group, one part and one tile of output channels."""
        of_pixels = -(-math.prod(self.m_grid) // (self.cfg.cluster * self.cta_tiles))
        return of_pixels * self.cfg.split_k * self.problem.groups * self.n_tiles

    @property
    def work_tiles(self) -> int:
        """Work tiles of all phases."""
        return self.work_tiles_of_phase * self.problem.phases

    def workers(self, num_sms: int) -> int:
        """Number of persistent clusters: as many as the chip holds, if there is work for so many."""
        return min(num_sms * self.cfg.ctas_per_sm // self.cfg.cluster, self.work_tiles)

    @property
    def weight_rows(self) -> int:
        """Rows of weights in a slot of the ring."""
        return 0 if self.cfg.resident else self.halo_taps * self.cfg.tile_n

    @property
    def resident_blocks(self) -> tuple[int, int]:
        """Blocks of resident weights: (all taps, channel steps)."""
        return math.prod(len(d.order) for d in self.problem.dims), self.k_steps

    @property
    def resident_rows(self) -> int:
        """Rows of weights that stay in shared memory."""
        return math.prod(self.resident_blocks) * self.cfg.tile_n if self.cfg.resident else 0

    @functools.cached_property
    def barrier_bytes(self) -> int:
        """Bytes of all barriers, the ring's and the others."""
        return self.shared_memory(self.cfg.stages, self.cfg.epi_stages)[0]

    @functools.cached_property
    def smem_bytes(self) -> int:
        """Bytes of shared memory, barriers included."""
        return self.shared_memory(self.cfg.stages, self.cfg.epi_stages)[1]

    def shared_memory(self, stages: int, epi_stages: int) -> tuple[int, int]:
        """(barrier_bytes, smem_bytes) with a ring and a staging of such depths."""
        cfg = self.cfg
        row_bytes, slots = cfg.tile_k * self.problem.itemsize, stages * cfg.taps_per_step
        staged = cfg.mma_warpgroups * epi_stages * cfg.tile_m * cfg.epi_tile_n * self.problem.out_itemsize
        pixels = slots * self.pixel_loads * math.prod(self.load_pixels)
        buffers = pixels * row_bytes, (slots * self.weight_rows + self.resident_rows) * row_bytes, staged
        # Two a slot of the ring, one a staging buffer of a residual, one of resident weights.
        barriers = BARRIER_BYTES * (2 * stages + cfg.mma_warpgroups * epi_stages * self.problem.residual + cfg.resident)
        return barriers, sum(-(-size // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for size in buffers) + barriers


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem, cached with the numbers that were computed of it."""
    return Tiling(problem, cfg)


def pixels_as_read(problem: Problem) -> int:
    """Number of elements of the pixels, with whole 16 bytes of channels and whole strides."""
    unit = 16 // problem.itemsize
    channels = -(-problem.in_channels // unit) * unit
    return problem.batch * problem.groups * channels * math.prod(d.in_rows * d.in_stride for d in problem.dims)
