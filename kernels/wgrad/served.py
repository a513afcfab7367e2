"""The products that the weight-gradient kernel serves, the reasons against others, and the names it files products under."""

import math

from pallas_conv.spec import Product

from .. import geometry
from ..family import (
    DTYPES,
    Size,
    as_word,
    dtype_reasons,
    empty_reasons,
    geometry_reasons,
    group_reasons,
    large_reasons,
    series_of,
)
from . import work
from .plan import Config, M, Problem, tiling

OUTPUTS = (("dw",), ("dw", "db"))


def is_for(product: Product) -> bool:
    """Whether groups are large enough to be matrix products."""
    return not group_reasons(product)


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why the kernel does not serve a product; empty if it does."""
    if product.role != "wgrad":
        return (f"there is no kernel for the product {product.role!r}",)
    return (*_type_reasons(product), *_geometry_reasons(product), *_size_reasons(product))


def _type_reasons(product: Product) -> list[str]:
    found = dtype_reasons(product)
    if product.compute_dtype == "float32" and not product.may_use_tf32:
        found.append(
            f"float32 is multiplied as three bfloat16 products where TF32 is allowed, not with precision {product.precision!r}"
        )
    if product.outputs not in OUTPUTS or product.activation is not None:
        found.append("weight and bias gradients are computed, without the derivative of an activation")
    elif "db" in product.outputs and product.compute_dtype == "float32":
        found.append("a bias gradient is summed of cotangents of 16 bits: two of them hold 16 of a float32's 24")
    elif "db" in product.outputs and max(product.spec.input_dilation) > 1:
        found.append("a bias gradient is computed beside the weight gradient of a convolution, not of a transposed one")
    return found


def _geometry_reasons(product: Product) -> list[str]:
    found, problem = [*geometry_reasons(product), *group_reasons(product)], Problem.of(product)
    if not (problem.single_phase or problem.transpose().single_phase):
        found.append("strides and input dilations leave several phases of x and of its cotangent")
    return found


def _size_reasons(product: Product) -> list[str]:
    spec, names = product.spec, ("x", "the cotangent", "w")
    shapes = (*product.operand_shapes[:2], *product.result_shapes[:1])
    if empty := empty_reasons(dict(zip(names, shapes, strict=True))):
        return empty
    axes = geometry.axes(product)
    if idle := [i for i, axis in enumerate(axes) if len(axis.dim().order) < axis.kernel]:
        return [f"some taps never meet the input in spatial dimensions {idle}"]
    problem = Problem.of(product)
    whole = lambda channels: -(-channels // M) * M
    tiles = whole(problem.in_channels) * whole(problem.out_channels) * math.prod(spec.kernel_spatial)
    elements = problem.elements if problem.single_phase else problem.transpose().elements[::-1]
    sizes = (*elements, problem.examples * problem.groups * tiles)
    return large_reasons(dict(zip(names, sizes, strict=True)))


def notes(product: Product, config: Config) -> tuple[str, ...]:
    """The copies that XLA makes around the kernel, for users to read."""
    found, t = [], tiling(Problem.of(product), config)
    p = t.problem
    x, dy = ("the cotangent", "x") if config.transposed else ("x", "the cotangent")
    if p.terms > 1:
        found.append(
            "x and the cotangent are split into two bfloat16 each, for three products in place of one of float32"
        )
    for name, channels in ((x, p.in_channels), (dy, p.out_channels)):
        if channels % 8:
            found.append(f"{name} is padded from {channels} to {-(-channels // 8) * 8} channels")
    padded = [config.space_to_depth and axis.in_size % axis.stride > 0 for axis in t.raw.oriented(config).axes]
    if ragged := [i for i, d in enumerate(p.dims) if padded[i] or d.in_size % d.in_stride]:
        found.append(f"{x} is padded to whole strides in spatial dimensions {ragged}")
    if config.space_to_depth:
        found.append(f"the strides of {x} are made channels")
    if config.split_k > 1:
        found.append(f"XLA adds {config.split_k} partial sums, in float32 and always in the same order")
    if config.row_outputs > 1:
        found.append(f"XLA adds the sums of {config.row_outputs} neighbouring outputs of a row, in float32")
    return tuple(found)


def series(product: Product) -> str:
    """A name for products that the kernel treats alike but for their size: rank, dtypes, strides, groups.

    Strides are those of the pixels that are read (s), or of a transposed convolution's results (u, as in up-sampling).
    """
    up = max(product.spec.input_dilation) > 1
    strides = ("u" if up else "s") + as_word(product.spec.input_dilation if up else product.spec.strides)
    return series_of(product, strides)


def code_path(product: Product, config: Config) -> str:
    """A name for the code that makes a tile's sums and stores them. Products alike in it are proven together."""
    t = tiling(Problem.of(product), config)
    p = t.problem
    words = {
        f"{len(p.dims)}d": True,
        DTYPES[product.compute_dtype]: True,
        "transposed": config.transposed,
        "backwards": any(len(d.order) > 1 and d.order[0] > 0 for d in p.dims),
        "strided": any(d.in_stride > 1 for d in p.dims),
        # Some boxes begin before the array.
        "padded": any(min(d.offset) < 0 for d in p.dims),
        "grouped": p.groups > 1,
        "examples": p.examples > 1,
        f"{config.m_warpgroups}x{config.n_warpgroups}wgs": True,
        f"{config.pixels}pixels": True,
        f"n{config.tile_n}": True,
        "images": config.step_pixels[0] > 1,
        "taps": config.taps_per_tile > 1,
        "channels": config.channel_loads > 1,
        "halo": config.halo,
        "registers": config.dy_registers,
        "bias": p.bias,
        "space_to_depth": config.space_to_depth,
        "rows": config.row_outputs > 1,
        "split": config.split_k > 1,
        f"multicast_{config.multicast}": bool(config.multicast),
    }
    return " ".join(word for word, holds in words.items() if holds)


def epilogue(product: Product, config: Config) -> str:
    """A name for the arithmetic on a sum before it is stored: a cast, or none of partial sums."""
    return f"{DTYPES['float32' if config.finished_by_xla else product.out_dtype]} linear"


def size(product: Product) -> Size:
    """The size of a product, see `Size`. Sums are over pixels, of all images."""
    problem = Problem.of(product)
    macs, taps = work.useful_macs(problem), math.prod(product.spec.kernel_spatial)
    weights = problem.examples * problem.groups * problem.in_channels * problem.out_channels * taps
    return Size(macs, work.least_bytes(problem), macs / weights, problem.out_channels, taps)
