"""The products that the weight-gradient kernel serves, the reasons against others, and the names it files products under."""

import math

from pallas_conv.spec import Product

from .. import geometry
from ..family import DTYPES, Size
from . import work
from .legal import MAX_ELEMENTS
from .plan import Config, M, Problem, tiling

OUTPUTS = (("dw",), ("dw", "db"))
MAX_KERNEL = 64
LEAST_CHANNELS = 16  # of a group: fewer leave most of a tensor core's tile empty


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why the kernel does not serve a product; empty if it does."""
    if product.role != "wgrad":
        return (f"there is no kernel for the product {product.role!r}",)
    return (*_type_reasons(product), *_geometry_reasons(product), *_size_reasons(product))


def _type_reasons(product: Product) -> list[str]:
    found = []
    if product.compute_dtype not in DTYPES:
        found.append(f"operands must be {', '.join(DTYPES)}, not {product.compute_dtype}")
    if product.compute_dtype == "float32" and not product.may_use_tf32:
        found.append(
            f"float32 is multiplied as three bfloat16 products, which precision {product.precision!r} does not allow"
        )
    if product.out_dtype not in (product.compute_dtype, "float32"):
        found.append(
            f"the result must be {product.compute_dtype} like the operands, or float32, not {product.out_dtype}"
        )
    if product.outputs not in OUTPUTS or product.activation is not None:
        found.append("weight and bias gradients are computed, without the derivative of an activation")
    elif "db" in product.outputs and product.compute_dtype == "float32":
        found.append(
            "a bias gradient is summed of cotangents of 16 bits: pieces of float32 have but two thirds of its bits"
        )
    elif "db" in product.outputs and max(product.spec.input_dilation) > 1:
        found.append("a bias gradient is computed beside the weight gradient of a convolution, not of a transposed one")
    return found


def _geometry_reasons(product: Product) -> list[str]:
    spec, found = product.spec, []
    if not 1 <= spec.ndim <= 3:
        found.append(f"1 to 3 spatial dimensions are served, not {spec.ndim}")
    channels = product.in_channels // spec.groups, product.out_channels // spec.groups
    if spec.groups > 1 and min(channels) < LEAST_CHANNELS:
        found.append(f"a group must have at least {LEAST_CHANNELS} channels on either side, not {channels}")
    if any(k > MAX_KERNEL for k in spec.kernel_spatial):
        found.append(f"the kernel must be at most {MAX_KERNEL} a side, not {spec.kernel_spatial}")
    problem = Problem.of(product)
    if not (problem.walkable or problem.transpose().walkable):
        found.append("strides and input dilations leave several phases of x and of its cotangent")
    return found


def _size_reasons(product: Product) -> list[str]:
    spec = product.spec
    shapes = dict(
        zip(("x", "the cotangent", "w"), (*product.operand_shapes[:2], *product.result_shapes[:1]), strict=True)
    )
    if empty := [name for name, shape in shapes.items() if not math.prod(shape)]:
        return [f"{name} is empty: its shape is {shapes[name]}" for name in empty]
    axes = geometry.axes(product)
    if idle := [i for i, axis in enumerate(axes) if len(axis.dim().order) < axis.kernel]:
        return [f"some taps never meet the input in spatial dimensions {idle}"]
    problem, names = Problem.of(product), ("x", "the cotangent", "w")
    whole = lambda channels: -(-channels // M) * M
    tiles = whole(problem.in_channels) * whole(problem.out_channels) * math.prod(spec.kernel_spatial)
    elements = problem.elements if problem.walkable else problem.transpose().elements[::-1]
    sizes = zip(names, (*elements, problem.examples * problem.groups * tiles), strict=True)
    return [f"{name} has more than {MAX_ELEMENTS} elements" for name, count in sizes if count > MAX_ELEMENTS]


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
    if ragged := [i for i, d in enumerate(p.dims) if d.in_size % d.in_stride]:
        found.append(f"{x} is padded to whole strides in spatial dimensions {ragged}")
    if config.fold:
        found.append(f"the strides of {x} are made channels")
    if config.split_k > 1:
        found.append(f"XLA adds {config.split_k} partial sums, in float32 and always in the same order")
    return tuple(found)


def series(product: Product) -> str:
    """A name for products that the kernel treats alike but for their size: rank, dtypes, strides, groups.

    Strides are those of the pixels that are read (s), or of a transposed convolution's results (u, as in up-sampling).
    """
    dtype = DTYPES[product.compute_dtype]
    if product.out_dtype != product.compute_dtype:
        dtype += DTYPES[product.out_dtype]
    up = max(product.spec.input_dilation) > 1
    strides = ("u" if up else "s") + _each(product.spec.input_dilation if up else product.spec.strides)
    several = ["grouped"] * (product.spec.groups > 1) + ["models"] * (product.models is not None)
    return "_".join([f"{product.spec.ndim}d", dtype, strides, *several])


def _each(strides: tuple[int, ...]) -> str:
    """The strides as one word: one number if they are the same in every dimension."""
    return "x".join(map(str, strides if len(set(strides)) > 1 else strides[:1]))


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
        "fold": config.fold,
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
