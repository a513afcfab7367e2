"""What the dense kernel computes (`Problem`), how it is tiled (`Config`), and the numbers that follow from both (`Tiling`)."""

import dataclasses
import functools
import math
from typing import Any

from pallas_conv import strict
from pallas_conv.spec import Product

from .. import geometry

SMEM_ALIGNMENT = 1024  # of every buffer, which Mosaic rounds up to it
BARRIER_BYTES = 8  # two barriers a slot of the ring, one a staging buffer of a residual, one of resident weights
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclasses.dataclass(frozen=True)
class Config:
    """How the dense kernel is tiled.

    box        (images, *pixels) of one consumer warpgroup's tile: a product of 64 or 128
    bn         output channels of a tile, a multiple of 16; at most 128 * 128 accumulators, see `legal.illegal`
    bk         channels of one step: 128, 64 or 32 bytes of them, which is also the swizzle
    taps       taps of the last dimension loaded in one step (for few channels)
    halo       load the pixels of all taps of the first tiled dimension once
    unfold     make the taps of the last dimension input channels beforehand (for very few of them)
    fold       make the taps of so many last dimensions output channels, which XLA adds (for very few of them)
    resident   keep all weights in shared memory, instead of those of a step in a slot (for few channels)
    stages     slots of the ring between the producer and the consumers
    consumers  warpgroups that multiply; they share the weights of a slot
    cluster    thread blocks that share the weights of their tiles by multicast
    blocks     thread blocks on an SM: two of one consumer each hide each other's epilogue
    split      parts of the channels, which different thread blocks sum (for few tiles); XLA adds them in float32
    out_bufs   staging buffers of each consumer on the way out
    skip       skip taps that read nothing but padding
    """

    box: tuple[int, ...]
    bn: int = 128
    bk: int = 64
    taps: int = 1
    halo: bool = False
    unfold: bool = False
    fold: int = 0
    resident: bool = False
    stages: int = 4
    consumers: int = 2
    cluster: int = 1
    blocks: int = 1
    split: int = 1
    out_bufs: int = 1
    skip: bool = True

    @property
    def pixels(self) -> int:
        """Of one consumer's tile: the M of its wgmma."""
        return math.prod(self.box)

    @property
    def columns(self) -> int:
        """Output channels of a tile staged at a time: at most 32, since the epilogue of 64 would not fit in registers."""
        return math.gcd(self.bn, 32)

    @property
    def finished_by_xla(self) -> bool:
        """The kernel stores bare float32 sums; what is left to add, the bias and the activation take another pass."""
        return self.split > 1 or self.fold > 0

    @property
    def complexity(self) -> tuple[float, ...]:
        """Lower is simpler: whole sums, blocks alone, boxes of one image, and of long lines."""
        return self.split, self.cluster, self.box[0], *(-e for e in reversed(self.box))

    def __str__(self) -> str:
        box, *rest = dataclasses.fields(self)
        changed = [f"{f.name}={getattr(self, f.name)}" for f in rest if f.default != getattr(self, f.name)]
        return ", ".join([f"{box.name}={self.box}", *changed])

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> "Config":
        """The inverse of `to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        return strict.parse(cls, data, where)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What the dense kernel computes: [N, *in, G, C] x [*kernel, G, K, C] -> [N, *out, G, K], once per output.

    residual: one more operand like an output.
    """

    N: int
    G: int
    C: int
    K: int
    dims: tuple[geometry.Dim, ...]
    itemsize: int = 2
    out_itemsize: int = 2
    outputs: int = 1
    residual: bool = False

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """C is what the product sums over: input channels forward, output channels in the input gradient.

        The groups of several models are groups like any.
        """
        groups, models = product.spec.groups, product.models or 1
        channels = product.in_channels // groups, product.out_channels // groups
        c, k = channels if product.role == "fprop" else channels[::-1]
        itemsizes = ITEMSIZE[product.compute_dtype], ITEMSIZE[product.out_dtype]
        outputs = len(product.outputs)
        return cls(product.batch, models * groups, c, k, geometry.dims(product), *itemsizes, outputs, product.residual)

    @property
    def phases(self) -> int:
        """Of the output, each with taps of its own."""
        return math.prod(d.out_stride for d in self.dims)

    def under(self, cfg: Config) -> "Problem":
        """What is left to the kernel if its operands are prepared, and its results finished, as a configuration wants."""
        problem = self
        if cfg.unfold:
            *dims, last = self.dims
            problem = dataclasses.replace(problem, C=self.C * last.count[0], dims=(*dims, last.unfolded()))
        if cfg.fold:
            kept, folded = self.dims[: -cfg.fold], self.dims[-cfg.fold :]
            channels = self.K * math.prod(len(d.order) for d in folded)
            problem = dataclasses.replace(problem, K=channels, dims=(*kept, *(d.folded() for d in folded)))
        if cfg.finished_by_xla:
            problem = dataclasses.replace(problem, out_itemsize=4, outputs=cfg.split, residual=False)
        return problem


@dataclasses.dataclass(frozen=True)
class Tiling:
    """What a Config means for a Problem: the numbers that the budget, the model and the kernel share.

    raw, cfg: a problem, and a configuration that `legal.illegal` has nothing against.
    """

    raw: Problem
    cfg: Config

    @functools.cached_property
    def problem(self) -> Problem:
        """What is left to the kernel: everything below is about this."""
        return self.raw.under(self.cfg)

    @functools.cached_property
    def halo_dim(self) -> int:
        """The spatial dimension whose taps one load serves, or ndim (none)."""
        return next(i for i, e in enumerate(self.cfg.box[1:]) if e > 1) if self.cfg.halo else len(self.problem.dims)

    @property
    def halo_taps(self) -> int:
        """How many taps that is, or 1."""
        return self.problem.dims[self.halo_dim].count[0] if self.cfg.halo else 1

    @property
    def tiles(self) -> int:
        """Tiles of pixels in a thread block: with a halo one, its consumers side by side; else one each."""
        return 1 if self.cfg.halo else self.cfg.consumers

    @functools.cached_property
    def cta_box(self) -> tuple[int, ...]:
        """(images, *pixels) of one of them."""
        return tuple(b * self.cfg.consumers if i == self.halo_dim + 1 else b for i, b in enumerate(self.cfg.box))

    @functools.cached_property
    def load_box(self) -> tuple[int, ...]:
        """(images, *pixels) of one load: with a halo, as many more as its last tap reaches further than its first."""
        if not self.cfg.halo:
            return self.cta_box
        reach = self.problem.dims[self.halo_dim].in_sheet(self.halo_taps - 1)[1]
        return tuple(b + reach if i == self.halo_dim + 1 else b for i, b in enumerate(self.cta_box))

    @property
    def loads(self) -> int:
        """Loads of pixels in a step: of each tile, or with a halo of each sheet of the one."""
        return self.problem.dims[self.halo_dim].sheets if self.cfg.halo else self.cfg.consumers

    @functools.cached_property
    def grid(self) -> tuple[int, ...]:
        """Tiles over (images, *rows of a phase)."""
        sizes = self.problem.N, *(d.rows for d in self.problem.dims)
        return tuple(-(-n // b) for n, b in zip(sizes, self.cta_box, strict=True))

    @property
    def k_tiles(self) -> int:
        """Tiles over output channels."""
        return -(-self.problem.K // self.cfg.bn)

    @property
    def c_steps(self) -> int:
        """Steps over channels, of all parts."""
        return -(-self.problem.C // self.cfg.bk)

    @functools.cached_property
    def units_of_phase(self) -> int:
        """Tiles of one phase, each of a cluster's pixels: over groups and parts, too."""
        of_pixels = -(-math.prod(self.grid) // (self.cfg.cluster * self.tiles))
        return of_pixels * self.cfg.split * self.problem.G * self.k_tiles

    @property
    def units(self) -> int:
        """Tiles of all phases."""
        return self.units_of_phase * self.problem.phases

    def workers(self, num_sms: int) -> int:
        """Persistent clusters: as many as the chip holds, if there is work for so many."""
        return min(num_sms * self.cfg.blocks // self.cfg.cluster, self.units)

    @property
    def weights(self) -> int:
        """Rows of weights in a slot of the ring."""
        return 0 if self.cfg.resident else self.halo_taps * self.cfg.bn

    @property
    def kept_blocks(self) -> tuple[int, int]:
        """(all taps, channel steps): the blocks of resident weights."""
        return math.prod(len(d.order) for d in self.problem.dims), self.c_steps

    @property
    def kept(self) -> int:
        """Rows of weights that stay."""
        return math.prod(self.kept_blocks) * self.cfg.bn if self.cfg.resident else 0

    @functools.cached_property
    def barrier_bytes(self) -> int:
        """Bytes of the ring's barriers and the others."""
        return self.shared_memory(self.cfg.stages, self.cfg.out_bufs)[0]

    @functools.cached_property
    def smem_bytes(self) -> int:
        """Bytes of shared memory, barriers included."""
        return self.shared_memory(self.cfg.stages, self.cfg.out_bufs)[1]

    def shared_memory(self, stages: int, out_bufs: int) -> tuple[int, int]:
        """(barrier_bytes, smem_bytes) with a ring and a staging of such depths."""
        cfg = self.cfg
        row_bytes, slots = cfg.bk * self.problem.itemsize, stages * cfg.taps
        staged = cfg.consumers * out_bufs * cfg.pixels * cfg.columns * self.problem.out_itemsize
        pixels = slots * self.loads * math.prod(self.load_box)
        buffers = pixels * row_bytes, (slots * self.weights + self.kept) * row_bytes, staged
        barriers = BARRIER_BYTES * (2 * stages + cfg.consumers * out_bufs * self.problem.residual + cfg.resident)
        return barriers, sum(-(-size // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for size in buffers) + barriers


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem, kept with what was computed of it."""
    return Tiling(problem, cfg)


def pixels_as_read(problem: Problem) -> int:
    """Elements of the pixels in whole 16 bytes of channels and whole strides."""
    unit = 16 // problem.itemsize
    channels = -(-problem.C // unit) * unit
    return problem.N * problem.G * channels * math.prod(d.in_rows * d.in_stride for d in problem.dims)
