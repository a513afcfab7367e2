"""Config of the dense kernel: the tiling it means, its shared memory, and what the kernel takes."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

from pallas_conv import strict
from pallas_conv.spec import Product

from . import taps as geometry

H100_SMS = 132  # streaming multiprocessors of an H100 SXM, assumed where the chip is not known
SMEM_BYTES = 227 * 1024  # what a thread block of an SM may have, beside the system's part of it
SYSTEM_SMEM_BYTES = 1024  # of every block
SMEM_ALIGNMENT = 1024  # of every buffer, which Mosaic rounds up to it
BARRIER_BYTES = 8  # two barriers a slot of the ring, one a staging buffer of a residual, one of resident weights
MAX_ELEMENTS = 2**31 - 1  # of an array: indices are 32 bits
MOST_BARRIERS = 32  # barriers of one kind that Mosaic takes
LEAST_WIDTH = 16  # output channels of a tile: 32 bytes of them are the narrowest swizzle
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclasses.dataclass(frozen=True)
class Config:
    """How the dense kernel is tiled.

    box        (images, *pixels) of one consumer warpgroup's tile: a product of 64 or 128
    bn         output channels of a tile, a multiple of 16; at most 128 * 128 accumulators, see `illegal`
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


class Tiling(NamedTuple):
    """What a Config means for a Problem: the numbers that the budget, the model and the kernel share.

    halo_dim      the spatial dimension whose taps one load serves, or ndim (none)
    halo_taps     how many taps that is, or 1
    tiles         of pixels in a thread block: its consumers side by side, with a halo, else one each
    cta_box       (images, *pixels) of one of them
    load_box      (images, *pixels) of one load
    loads         loads of pixels in a step: of each tile, or with a halo of each sheet of the one
    grid          tiles over (images, *rows of a phase)
    k_tiles       tiles over output channels
    c_steps       steps over channels, of all parts
    units         tiles of one phase, of a cluster's pixels each: over groups and parts, too
    weights       rows of weights in a slot of the ring
    kept          rows of weights that stay
    barrier_bytes  of the ring's barriers and the others
    smem_bytes    of everything
    """

    halo_dim: int
    halo_taps: int
    tiles: int
    cta_box: tuple[int, ...]
    load_box: tuple[int, ...]
    loads: int
    grid: tuple[int, ...]
    k_tiles: int
    c_steps: int
    units: int
    weights: int
    kept: int
    barrier_bytes: int
    smem_bytes: int


@functools.lru_cache(maxsize=64)
def tiling(problem: Problem, cfg: Config) -> Tiling:
    """The tiling of a problem by a configuration that `illegal` has nothing against."""
    problem = problem.under(cfg)
    halo_dim = next(i for i, e in enumerate(cfg.box[1:]) if e > 1) if cfg.halo else len(problem.dims)
    halo_taps, tiles, loads, reach = 1, cfg.consumers, cfg.consumers, 0
    if cfg.halo:
        d = problem.dims[halo_dim]
        halo_taps, tiles, loads, reach = d.count[0], 1, d.sheets, d.in_sheet(d.count[0] - 1)[1]
    cta_box = tuple(b * cfg.consumers if i == halo_dim + 1 else b for i, b in enumerate(cfg.box))
    load_box = tuple(b + reach if i == halo_dim + 1 else b for i, b in enumerate(cta_box))
    sizes = problem.N, *(d.rows for d in problem.dims)
    c_steps = -(-problem.C // cfg.bk)
    weights, kept = halo_taps * cfg.bn, 0
    if cfg.resident:
        weights, kept = 0, c_steps * math.prod(len(d.order) for d in problem.dims) * cfg.bn
    rows = loads * math.prod(load_box), weights, kept
    barrier_bytes, smem_bytes = shared_memory(problem, cfg, *rows, cfg.stages, cfg.out_bufs)
    grid = tuple(-(-n // b) for n, b in zip(sizes, cta_box, strict=True))
    k_tiles = -(-problem.K // cfg.bn)
    return Tiling(
        halo_dim=halo_dim,
        halo_taps=halo_taps,
        tiles=tiles,
        cta_box=cta_box,
        load_box=load_box,
        loads=loads,
        grid=grid,
        k_tiles=k_tiles,
        c_steps=c_steps,
        units=-(-math.prod(grid) // (cfg.cluster * tiles)) * cfg.split * problem.G * k_tiles,
        weights=weights,
        kept=kept,
        barrier_bytes=barrier_bytes,
        smem_bytes=smem_bytes,
    )


def units(problem: Problem, cfg: Config) -> int:
    """Of all phases."""
    return tiling(problem, cfg).units * problem.under(cfg).phases


def workers(problem: Problem, cfg: Config, num_sms: int) -> int:
    """Persistent clusters: as many as the chip holds, if there is work for so many."""
    return min(num_sms * cfg.blocks // cfg.cluster, units(problem, cfg))


def shared_memory(
    problem: Problem, cfg: Config, pixels: int, weights: int, kept: int, stages: int, out_bufs: int
) -> tuple[int, int]:
    """(barrier_bytes, smem_bytes) with so many rows of pixels and of weights in a slot, and rows of weights that stay."""
    row_bytes, slots = cfg.bk * problem.itemsize, stages * cfg.taps
    staged = cfg.consumers * out_bufs * cfg.pixels * cfg.columns * problem.out_itemsize
    buffers = slots * pixels * row_bytes, (slots * weights + kept) * row_bytes, staged
    barriers = BARRIER_BYTES * (2 * stages + cfg.consumers * out_bufs * problem.residual + cfg.resident)
    return barriers, sum(-(-size // SMEM_ALIGNMENT) * SMEM_ALIGNMENT for size in buffers) + barriers


def illegal(problem: Problem, cfg: Config) -> str | None:
    """Why the kernel does not take a configuration, or None."""
    nd, box = len(problem.dims), cfg.box
    if cfg.unfold and problem.dims[-1].out_stride > 1:
        return f"{cfg.unfold=} takes a last dimension of one output phase"
    if cfg.fold and (why := illegal_fold(problem, cfg)):
        return why
    problem = problem.under(cfg)
    if cfg.consumers not in (1, 2) or cfg.cluster not in (1, 2) or cfg.blocks not in (1, 2):
        return f"{cfg.consumers=}, {cfg.cluster=} and {cfg.blocks=} must be 1 or 2"
    if cfg.taps < 1 or cfg.out_bufs < 1:
        return f"{cfg.taps=} and {cfg.out_bufs=} must be at least 1"
    if len(box) != nd + 1 or cfg.pixels not in (64, 128):
        return f"{cfg.box=} must be (images, *pixels) with a product of 64 or 128"
    # Accumulators: more would leave too few registers to an epilogue that adds a residual, or places phases of volumes; or
    # to a second block on the SM.
    most = 128 * (96 if problem.residual or (nd == 3 and problem.phases > 1) else 128) // cfg.blocks
    if cfg.bn % LEAST_WIDTH or not LEAST_WIDTH <= cfg.bn <= 256 or cfg.pixels * cfg.bn > most:
        return f"{cfg.bn=} must be a multiple of {LEAST_WIDTH} up to 256, and {cfg.pixels=} * bn at most {most}"
    if cfg.bk * problem.itemsize not in (32, 64, 128):
        return f"{cfg.bk=} must be 32, 64 or 128 bytes"
    if (
        nd == 3
        and box[0] > 1
        and (problem.G * cfg.split > 1 or any(d.in_stride * d.out_stride > 1 for d in problem.dims))
    ):
        return f"{cfg.box=} must be of one image: a TMA copy has five dimensions"
    if cfg.halo and (why := _illegal_halo(problem, cfg)):
        return why
    if not 1 <= cfg.split <= -(-problem.C // cfg.bk):
        return f"{cfg.split=} must be at least 1, and at most the steps over {problem.C} channels"
    if cfg.resident and (problem.G * cfg.split * cfg.taps * cfg.cluster > 1 or cfg.bn < problem.K):
        return f"{cfg.resident=} takes one group, one part, one tap a step, no cluster, and at most {cfg.bn=} output channels"
    if cfg.unfold and (pixels := pixels_as_read(problem)) > MAX_ELEMENTS:
        return f"{pixels=} unfolded by {cfg.unfold=} must be at most {MAX_ELEMENTS}"
    stored = math.prod(d.rows * d.out_stride for d in problem.dims) * problem.outputs * problem.G
    if cfg.finished_by_xla and (sums := problem.N * stored * (-(-problem.K // 4) * 4)) > MAX_ELEMENTS:
        return f"{sums=} stored by {cfg.split=} or {cfg.fold=} must be at most {MAX_ELEMENTS}"
    if not 2 <= cfg.stages <= MOST_BARRIERS:  # a slot is released once the next one is multiplied
        return f"{cfg.stages=} must be 2 to {MOST_BARRIERS}"
    if problem.residual and cfg.consumers * cfg.out_bufs > MOST_BARRIERS:
        return f"{cfg.consumers=} * {cfg.out_bufs=} must be at most {MOST_BARRIERS}: a residual needs so many barriers"
    if (smem_bytes := tiling(problem, cfg).smem_bytes) > smem_limit(cfg):
        return f"{smem_bytes=} must be at most {smem_limit(cfg)}"
    return None


def smem_limit(cfg: Config) -> int:
    """Of each of the blocks on an SM."""
    return SMEM_BYTES // cfg.blocks - SYSTEM_SMEM_BYTES * (cfg.blocks - 1)


def illegal_fold(problem: Problem, cfg: Config) -> str | None:
    if not 0 <= cfg.fold <= len(problem.dims):
        return f"{cfg.fold=} must be a number of dimensions, of {len(problem.dims)}"
    if any(d.in_stride > 1 for d in problem.dims[-cfg.fold :]):
        return f"{cfg.fold=} takes dimensions without a stride"
    if cfg.unfold or cfg.split > 1:
        return f"{cfg.fold=} takes neither {cfg.unfold=} nor {cfg.split=}"
    return None


def _illegal_halo(problem: Problem, cfg: Config) -> str | None:
    nd, box = len(problem.dims), cfg.box
    halo_dim = next((i for i, e in enumerate(box[1:]) if e > 1), nd)
    if halo_dim >= nd - 1 or box[0] > 1 or math.prod(box[2 + halo_dim :]) % 8:
        return f"{cfg.box=} must be of one image, with multiples of 8 pixels beyond its first tiled dimension"
    d = problem.dims[halo_dim]
    if len(set(d.count)) > 1 or d.count[0] <= d.sheets:
        return "a halo needs the same number of taps in every phase, and two that are whole strides apart"
    if box[1 + halo_dim] * cfg.consumers + d.in_sheet(d.count[0] - 1)[1] > 256:
        return "a TMA box is at most 256 long"
    registers = _registers_of_halo(problem, d, cfg)
    if d.count[0] > 8 and registers > registers_limit(cfg):
        return f"{registers=} of a halo of {d.count[0]} taps must be at most {registers_limit(cfg)}"
    return None


def _registers_of_halo(problem: Problem, d: geometry.Dim, cfg: Config) -> int:
    """Of a thread, with any epilogue: what ptxas was found to need at most, since it computes addresses of taps ahead."""
    accumulators, taps = cfg.pixels * cfg.bn // 128, d.count[0]
    if d.in_stride > 1:
        return 2 * (accumulators + taps) + 14 + 12 * problem.residual
    return accumulators + cfg.pixels // 8 + 60 + taps * (2 + cfg.resident * cfg.pixels // 64)


def registers_limit(cfg: Config) -> int:
    """Of a thread: two warpgroups of consumers and the producer share an SM's, as do two blocks of one consumer each."""
    return 168 if cfg.blocks == 1 else 128


def pixels_as_read(problem: Problem) -> int:
    """Elements of the pixels in whole 16 bytes of channels and whole strides."""
    unit = 16 // problem.itemsize
    channels = -(-problem.C // unit) * unit
    return problem.N * problem.G * channels * math.prod(d.in_rows * d.in_stride for d in problem.dims)
