"""The products that the large-kernel depthwise kernel serves, the reasons against others, and the names it files them under."""

import math

from pallas_conv.spec import Product

from .. import geometry
from ..family import (
    DTYPES,
    Size,
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
from .plan import Config, Problem, stored_channels, tiling

ROLES = ("fprop", "dgrad", "wgrad")
GRADIENTS = (("dw",), ("dw", "db"))
LEAST_TAPS = 100  # fewer of them are the other depthwise kernel's, which has each of them in a register


def is_for(product: Product) -> bool:
    """Whether groups are of one channel, and kernels of two dimensions, large. (One channel in all is a dense layer's, too.)"""
    return channels_of_a_group(product) == (1, 1) and not _kernel_reasons(product)


def _kernel_reasons(product: Product) -> list[str]:
    taps = math.prod(product.spec.kernel_spatial)
    if product.spec.ndim == 2 and taps >= LEAST_TAPS and product.compute_dtype != "float32":
        return []
    return [f"a large kernel has two dimensions, at least {LEAST_TAPS} taps and operands of 16 bits"]


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why the kernel does not serve a product; empty if it does."""
    if channels_of_a_group(product) != (1, 1):
        return tuple(group_reasons(product) or ["groups must be of one channel"])
    found = [] if product.role in ROLES else [f"for large kernels there is no product {product.role!r}"]
    found += _kernel_reasons(product)
    found += [*dtype_reasons(product), *_fusion_reasons(product), *geometry_reasons(product)]
    return tuple(found or _size_reasons(product))


def _fusion_reasons(product: Product) -> list[str]:
    if product.role != "wgrad":
        found = epilogue_reasons(product)
        if product.residual:
            found.append("a residual is not fused with kernels so large")
        return found
    found = []
    if product.outputs not in GRADIENTS:
        found.append(f"{' and '.join(map(str, GRADIENTS))} are computed, not {product.outputs}")
    if product.activation:
        found.append(f"the derivative of {product.activation} is not fused")
    return found


def _size_reasons(product: Product) -> list[str]:
    names = {"fprop": ("x", "w", "y"), "dgrad": ("the cotangent", "w", "the input gradient")}
    x, other, result = names.get(product.role, ("x", "the cotangent", "the weight gradient"))
    if empty := empty_reasons(
        dict(zip((x, other, result), (*product.operand_shapes[:2], product.result_shapes[0]), strict=True))
    ):
        return empty
    dims = geometry.dims(product)
    plain = lambda d, k: (d.in_stride, d.out_stride, len(d.order)) == (1, 1, k) and (k == 1 or d.tap_stride == 1)
    if not all(map(plain, dims, product.spec.kernel_spatial)):
        return ["kernels so large are served without strides and dilations"]
    problem = Problem.of(product)
    channels = stored_channels(problem)
    pixels = problem.batch * channels * math.prod(d.in_size for d in dims)
    outputs = problem.batch * channels * math.prod(d.out_size for d in dims)
    if large := large_reasons({x: pixels, other if product.role == "wgrad" else result: outputs}):
        return large
    if not search.any_fits(problem):
        return [f"no strip fits on an SM; of the smallest one, {legal.illegal(problem, search.least(problem))}"]
    return []


def notes(product: Product, config: Config) -> tuple[str, ...]:
    """The copies of activations that XLA makes around the kernel of a served product, beyond changes of layout."""
    problem, found = Problem.of(product), list[str]()
    source = "the cotangent" if product.role == "dgrad" else "x"
    if problem.channels < (read := -(-problem.channels // 8) * 8):
        found.append(f"{source} is padded from {problem.channels} to {read} channels: TMA strides are 16 bytes")
        if problem.weight_sums:
            found.append("the cotangent is padded likewise")
    if problem.outputs and problem.channels < (stored := stored_channels(problem)):
        result = "the input gradient" if product.role == "dgrad" else "y"
        found.append(f"{result} is sliced from {stored} to {problem.channels} channels")
    if problem.weight_sums:
        found.append("XLA adds partial sums of all thread blocks, in float32 and always in the same order")
    return tuple(found)


def series(product: Product) -> str:
    """A name for products that the kernel treats alike but for their size and epilogue: role, dtypes, models."""
    return f"{product.role}_{series_of(product, 's1')}"


def code_path(product: Product, config: Config) -> str:
    """A name for the code that makes a strip's sums and stores them. Products alike in it are proven together."""
    problem, t = Problem.of(product), tiling(Problem.of(product), config)
    words = {
        DTYPES[product.compute_dtype]: True,
        # The code of a chunk is one long line, whose length depends on these numbers.
        f"{t.blocks}blocks": True,
        f"{t.steps}steps": True,
        f"{t.groups}groups": True,
        # Some boxes begin before the array.
        "padded": min(problem.first) < 0,
        # All rows of a strip have their sums in registers.
        "resident": t.resident,
        # Some strips begin with chunks of padding alone, which nobody reads.
        "skipped": t.rows_read(0).first > 0,
        # Some input rows come only when the rows of the cotangent that they meet are there.
        "late": t.rows_read(0).late > 0,
        f"n{problem.out_itemsize}B": problem.outputs > 0,
        "outputs": problem.outputs > 1,
        "weights": problem.weight_sums,
        "bias": problem.bias,
    }
    return " ".join(word for word, holds in words.items() if holds)


def epilogue(product: Product, config: Config) -> str:
    """A name for the arithmetic on a sum before it is stored: "bf16 bias_relu". Sums over pixels are stored as they are."""
    return "f32 linear" if product.role == "wgrad" else f"{DTYPES[product.out_dtype]} {fused(product)}"


def size(product: Product) -> Size:
    """The size of a product, see `Size`."""
    problem = Problem.of(product)
    taps = math.prod(problem.taps)
    summed = work.elements(problem) / problem.channels if problem.weight_sums else 1
    return Size(work.useful_macs(problem), work.least_bytes(problem), summed, 1, taps)
