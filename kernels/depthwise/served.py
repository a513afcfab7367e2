"""The products that the depthwise kernel serves, the reasons against others, and the names that it files products under."""

import math

from pallas_conv.spec import Product

from .. import geometry
from ..family import (
    DTYPES,
    Size,
    as_word,
    channels_of_a_group,
    dtype_reasons,
    empty_reasons,
    epilogue_reasons,
    fused,
    geometry_reasons,
    group_reasons,
    large_reasons,
    series_of,
)
from . import legal, search, work
from .plan import LANES, Config, Problem, tiling

ROLES = ("fprop", "dgrad")
MOST_TAPS = 128  # whose weights fit in registers


def is_for(product: Product) -> bool:
    """Whether each group has one channel on either side."""
    return channels_of_a_group(product) == (1, 1)


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why the kernel does not serve a product; empty if it does."""
    if not is_for(product):
        few = group_reasons(product, or_one=True)
        return tuple(few or [f"a group must have one channel on either side, not {channels_of_a_group(product)}"])
    found = [] if product.role in ROLES else [f"there is no kernel for the product {product.role!r}"]
    found += [*dtype_reasons(product), *epilogue_reasons(product), *geometry_reasons(product)]
    if (taps := math.prod(product.spec.kernel_spatial)) > MOST_TAPS:
        found.append(f"a channel must have at most {MOST_TAPS} weights, not {taps}: they stay in registers")
    return tuple(found or _size_reasons(product))


def _size_reasons(product: Product) -> list[str]:
    names = {"fprop": ("x", "w", "y"), "dgrad": ("the cotangent", "w", "dx")}[product.role]
    shapes = (*product.operand_shapes[:2], product.result_shapes[0])
    if empty := empty_reasons(dict(zip(names, shapes, strict=True))):
        return empty
    if idle := [i for i, d in enumerate(geometry.dims(product)) if not d.order]:
        return [f"no tap ever meets the input in spatial dimensions {idle}"]
    problem = Problem.of(product)
    if large := large_reasons({names[0]: work.read_elements(problem), names[2]: work.stored_elements(problem)}):
        return large
    if product.models is not None and problem.itemsize == 2 and product.in_channels % LANES:
        return [
            f"models of {product.in_channels} channels would share tensor cores' matrices of {LANES}, and their NaNs"
        ]
    if not search.any_fits(problem):
        return [f"no tile fits on an SM; of the smallest one, {legal.illegal(problem, search.least(problem))}"]
    return []


def notes(product: Product, config: Config) -> tuple[str, ...]:
    """The copies of activations that XLA makes around the kernel of a served product, beyond changes of layout."""
    source, result = ("x", "y") if product.role == "fprop" else ("the cotangent", "the input gradient")
    problem, dims, found = Problem.of(product), geometry.dims(product), []
    unit = 16 // problem.itemsize
    if problem.channels % unit:
        whole = -(-problem.channels // unit) * unit
        found.append(f"{source} is padded from {problem.channels} to {whole} channels: TMA strides are 16 bytes")
    if dims[-1].in_size % dims[-1].in_stride:
        found.append(f"{source} is padded to whole strides in its last dimension")
    unit = 16 // problem.out_itemsize
    result += " (and the residual likewise)" if product.residual else ""
    if problem.channels % unit:
        found.append(f"{result} is sliced from {-(-problem.channels // unit) * unit} to {problem.channels} channels")
    if ragged := [i for i, d in enumerate(dims) if d.out_size % d.out_stride]:
        found.append(f"{result} is sliced from whole output phases in spatial dimensions {ragged}")
    return tuple(found)


def series(product: Product) -> str:
    """A name for products that the kernel treats alike but for their size and epilogue: role, rank, dtypes, strides.

    Strides are those of the pixels that are read (s) and of the output phases (u, as in up-sampling).
    """
    dims = geometry.dims(product)
    strides = "s" + as_word([d.in_stride for d in dims])
    if any(d.out_stride > 1 for d in dims):
        strides += "u" + as_word([d.out_stride for d in dims])
    return f"{product.role}_{series_of(product, strides)}"


def code_path(product: Product, config: Config) -> str:
    """A name for the code that makes a tile's sums and stores them. Products alike in it are proven together."""
    problem, t = Problem.of(product), tiling(Problem.of(product), config)
    dims = problem.dims
    words = {
        f"{problem.ndim}d": True,
        DTYPES[product.compute_dtype]: True,
        "strided": any(d.in_stride > 1 for d in dims),
        "phased": len(problem.phases) > 1,
        # Some output phase has no taps: its sums are the bias.
        "idle": any(0 in d.count for d in dims),
        # Some boxes begin before the array.
        "padded": any(r.low < 0 for r in t.reaches),
        f"{config.channel_warpgroups}x{config.column_warpgroups}wgs": True,
        # The code of a tile is one long line, whose length depends on its sizes and on the taps; these words tell its kinds.
        "planes": config.tile_pixels[0] > 1,
        "rows": config.tile_pixels[1] > 1,
        "fragments": config.fragments > 1,
        "batches": len(problem.column_moves) > legal.MOST_FRAGMENTS,
        "chunks": config.chunk_rows > 1,
        # Tiles of a strip read chunks of the one before.
        "shared": t.tile_chunks > t.advance and config.strip_tiles > 1,
        f"n{problem.out_itemsize}B": True,
        "outputs": problem.outputs > 1,
        "residual": problem.residual,
    }
    return " ".join(word for word, holds in words.items() if holds)


def epilogue(product: Product, config: Config) -> str:
    """A name for the arithmetic on a sum before it is stored: "bf16 bias_relu"."""
    return f"{DTYPES[product.out_dtype]} {fused(product)}"


def size(product: Product) -> Size:
    """The size of a product, see `Size`."""
    problem = Problem.of(product)
    macs = work.useful_macs(problem)
    elements = problem.batch * problem.channels * math.prod(d.out_size for d in problem.dims)
    return Size(macs, work.least_bytes(problem), 1, 1, macs / elements)
