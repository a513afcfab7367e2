"""The products that the pointwise kernel serves, the reasons against others, and the names it files products under."""

from pallas_conv.spec import Product

from .. import geometry
from ..derivatives import DERIVATIVES
from ..family import (
    DTYPES,
    Size,
    dtype_reasons,
    empty_reasons,
    geometry_reasons,
    large_reasons,
    narrow,
    series_of,
)
from . import legal, search, work
from .plan import Config, Problem, tiling

OUTPUTS = (("dx", "dw"), ("dx", "dw", "db"))


def is_for(product: Product) -> bool:
    """Whether the product is of a layer of 1x1, of one group."""
    return set(product.spec.kernel_spatial) == {1} and product.spec.groups == 1 and not narrow(product)


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why the kernel does not serve a product; empty if it does."""
    found = _layer_reasons(product) + _type_reasons(product)
    return tuple(found or _size_reasons(product))


def _layer_reasons(product: Product) -> list[str]:
    spec = product.spec
    found = [] if product.role == "bwd" else [f"there is no kernel for the product {product.role!r}"]
    if not is_for(product):
        channels = (product.in_channels, product.out_channels)
        what = f"kernel {spec.kernel_spatial}, groups {spec.groups} and channels {channels}"
        found.append(f"one kernel makes all gradients of a 1x1 layer of one group and several channels, not of {what}")
    elif any(
        axis.in_size != axis.out_size or axis.stride * axis.base > 1 or axis.low for axis in geometry.axes(product)
    ):
        found.append("one kernel makes all gradients where x and its cotangent have the same pixels")
    return [*found, *geometry_reasons(product)]


def _type_reasons(product: Product) -> list[str]:
    found = dtype_reasons(product)
    if product.compute_dtype == "float32":
        found.append("one kernel makes all gradients of 16-bit operands: wgmma reads no transposed float32")
    if product.outputs not in OUTPUTS:
        found.append(f"{' and '.join(map(str, OUTPUTS))} are computed, not {product.outputs}")
    if product.activation and product.activation not in DERIVATIVES:
        found.append(f"the derivative of {product.activation} is not fused")
    return found


def _size_reasons(product: Product) -> list[str]:
    names = ("x", "the cotangent", "w")
    if empty := empty_reasons(dict(zip(names, product.operand_shapes, strict=False))):
        return empty
    problem = Problem.of(product)
    x, ct = work.read_elements(problem)
    if large := large_reasons({"x": max(x, work.stored_elements(problem)), "the cotangent": ct}):
        return large
    if not search.any_fits(problem):
        why = legal.illegal(problem, search.narrowest(problem))
        return [f"a block keeps the sums of all its weights in registers; of the narrowest one, {why}"]
    return []


def notes(product: Product, config: Config) -> tuple[str, ...]:
    """The copies that XLA makes around the kernel, for users to read."""
    problem, found = Problem.of(product), list[str]()
    saved = " (and what the activation saved likewise)" if problem.derivative else ""
    for name, channels in (("x", problem.in_channels), (f"the cotangent{saved}", problem.out_channels)):
        if missing := -channels % work.UNIT:
            found.append(f"{name} is padded from {channels} to {channels + missing} channels: TMA strides are 16 bytes")
    if sliced := -problem.in_channels % (16 // problem.out_itemsize):
        found.append(
            f"the input gradient is sliced from {problem.in_channels + sliced} to {problem.in_channels} channels"
        )
    found.append(
        f"XLA adds {tiling(problem, config).parts} partial weight gradients, in float32 and always in the same order"
    )
    return tuple(found)


def series(product: Product) -> str:
    """A name for products that the kernel treats alike but for their size: rank, dtypes, models, derivative, bias gradient."""
    beside = "_derivative" * (product.activation is not None) + "_bias" * ("db" in product.outputs)
    return series_of(product, "s1") + beside


def code_path(product: Product, config: Config) -> str:
    """A name for the code that makes a tile's sums and stores them. Products alike in it are proven together."""
    t = tiling(Problem.of(product), config)
    words = {
        f"{product.spec.ndim}d": True,
        DTYPES[product.compute_dtype]: True,
        # Blocks of the weight gradient are registers: their number is the code's.
        f"{t.row_blocks}x{t.column_blocks}blocks": True,
        "images": config.step_pixels[0] > 1,
        "several": t.n_tiles > 1,
        "examples": t.problem.examples > 1,
        f"n{t.problem.out_itemsize}B": True,
        "bias": t.problem.bias,
        "derivative": t.problem.derivative is not None,
    }
    return " ".join(word for word, holds in words.items() if holds)


def epilogue(product: Product, config: Config) -> str:
    """A name for the arithmetic on the cotangent and on a sum: "bf16 derivative_silu", "bf16 linear"."""
    operand = f"derivative_{product.activation}" if product.activation else "linear"
    return f"{DTYPES[product.out_dtype]} {operand}"


def size(product: Product) -> Size:
    """The size of a product, see `Size`. What an input gradient sums over, not what a weight gradient does."""
    problem = Problem.of(product)
    macs, nbytes = work.useful_macs(problem), work.least_bytes(problem)
    return Size(macs, nbytes, problem.out_channels, problem.in_channels, 1)
