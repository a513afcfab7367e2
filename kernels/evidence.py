"""What a hardware run of a product proves, and about which other products: the keys under which results are filed.

A kernel is right if its main loop is (`code_path`: how pixels and weights move, are multiplied and leave) and if what it
does to a sum on the way out is (`epilogue`: the same arithmetic on float32 registers whatever the tile). Either is proven
by any product that runs it. How fast it is, is a matter of the `family` of products and of their `Size`.
"""

import math
from typing import Any, NamedTuple

from pallas_conv import strict
from pallas_conv.spec import Product

from . import support, work
from .config import Config, Problem, tiling


class Size(NamedTuple):
    """How large a product is.

    macs      multiply-adds of the definition
    nbytes    of all operands, read once, and all results, written once
    summed    channels of a group that are summed over
    produced  channels of a group that result
    taps      that an output element sums over, on average
    """

    macs: float
    nbytes: float
    summed: float
    produced: float
    taps: float

    def distance(self, other: "Size") -> float:
        """In octaves: 1 is twice as large in one respect."""
        return math.hypot(*(math.log2(a / b) for a, b in zip(self, other, strict=True)))


class Facts(NamedTuple):
    """What is filed about a product under a configuration."""

    code_path: str
    epilogue: str
    family: str
    size: Size

    def to_json(self) -> dict[str, Any]:
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "facts") -> "Facts":
        """The inverse of `to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        return strict.parse(cls, data, where)


def facts(product: Product, config: Config) -> Facts:
    """Of a product that `support.reasons` has nothing against, under one of its configurations."""
    return Facts(code_path(product, config), epilogue(product, config), support.family(product), size(product))


def code_path(product: Product, config: Config) -> str:
    """Which code makes a tile's sums, and how they leave: products alike in this are proven together."""
    problem = Problem.of(product)
    seen = problem.under(config)
    outputs = 1 if config.finished_by_xla else seen.outputs
    halo_dim = tiling(problem, config).halo_dim
    words = {
        f"{len(problem.dims)}d": True,
        support.DTYPES[product.compute_dtype]: True,
        "strided": any(d.in_stride > 1 for d in seen.dims),
        "phased": seen.phases > 1,
        # Some output phase has no taps: its tiles load nothing.
        "idle": any(0 in d.count for d in seen.dims),
        # Some boxes begin before the array.
        "padded": any(min(d.offset) < 0 for d in seen.dims),
        "grouped": problem.G > 1,
        f"{config.consumers}x{config.pixels}pixels": True,
        "images": config.box[0] > 1,
        f"k{config.bk * problem.itemsize}B": True,
        "taps": config.taps > 1,
        "halo": config.halo,
        "sheets": config.halo and seen.dims[halo_dim].sheets > 1,
        "resident": config.resident,
        "unfold": config.unfold,
        "fold": config.fold > 0,
        "split": config.split > 1,
        "cluster": config.cluster > 1,
        f"n{config.columns * seen.out_itemsize}B": True,
        "outputs": outputs > 1,
        "residual": seen.residual,
        # No chunk of a residual is loaded before its turn.
        "unprefetched": seen.residual and config.out_bufs <= outputs,
        "one_buffer": config.out_bufs == 1,
        # Buffers of a residual have barriers of their own, of which tiles then begin with different ones.
        "rotating": seen.residual and config.bn // config.columns * outputs % config.out_bufs > 0,
        "unskipped": not config.skip,
    }
    return " ".join(word for word, holds in words.items() if holds)


def epilogue(product: Product, config: Config) -> str:
    """What the kernel does to a sum before it is stored: "bf16 bias_relu"; bare sums are finished by XLA."""
    if config.finished_by_xla:
        return "f32 linear"
    return f"{support.DTYPES[product.out_dtype]} {support.fused(product)}"


def size(product: Product) -> Size:
    """See `Size`."""
    problem = Problem.of(product)
    macs = work.useful_macs(problem)
    elements = problem.N * problem.G * problem.K * math.prod(d.out_size for d in problem.dims)
    return Size(macs, work.least_bytes(problem), problem.C, problem.K, macs / (elements * problem.C))
