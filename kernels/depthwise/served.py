"""The products that the depthwise kernel serves, the reasons against others, and the names that it files products under."""

import math

from pallas_conv.spec import Product

from ..derivatives import DERIVATIVES
from ..family import (
    DTYPES,
    MOST_NARROW,
    Size,
    channels_of_a_group,
    dtype_reasons,
    empty_reasons,
    epilogue_reasons,
    fused,
    geometry_reasons,
    group_reasons,
    large_reasons,
    narrow,
    series_of,
    strides_of,
)
from . import legal, search, work
from .plan import LANES, Config, Problem, dims_of, whole_group
from .taps import reach
from .tiling import tiling

ROLES = ("fprop", "dgrad", "wgrad", "bwd")
GRADIENTS = {"wgrad": (("dw",), ("dw", "db")), "bwd": (("dx", "dw"), ("dx", "dw", "db"))}
NAMES = {  # of operands and the result, for users to read
    "fprop": ("x", "w", "y"),
    "dgrad": ("the cotangent", "w", "the input gradient"),
    "wgrad": ("x", "the cotangent", "the weight gradient"),
    "bwd": ("x", "the cotangent", "the input gradient"),
}
MOST_WEIGHTS = 128  # registers of a thread for weights, or for their gradients


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why the kernel does not serve a product; empty if it does."""
    if not narrow(product):
        groups = f"{product.spec.groups} of {channels_of_a_group(product)}"
        return tuple(
            group_reasons(product) or [f"there must be groups, of at most {MOST_NARROW} channels, not {groups}"]
        )
    found = [] if product.role in ROLES else [f"there is no kernel for the product {product.role!r}"]
    fusion = _gradient_reasons(product) if product.role in GRADIENTS else epilogue_reasons(product)
    found += [*dtype_reasons(product), *fusion, *geometry_reasons(product)]
    of_a_tap = whole_group(product) if product.compute_dtype == "float32" else 1  # see `Problem.tap_registers`
    if (registers := (taps := math.prod(product.spec.kernel_spatial)) * of_a_tap) > MOST_WEIGHTS:
        why = f", of {taps} taps and {of_a_tap} channels" if of_a_tap > 1 else ""
        found.append(f"a thread keeps its weights in registers, at most {MOST_WEIGHTS}, not {registers}{why}")
    return tuple(found or _size_reasons(product))


def _gradient_reasons(product: Product) -> list[str]:
    served = GRADIENTS[product.role]
    found = []
    if product.outputs not in served:
        found.append(f"{' and '.join(map(str, served))} are computed, not {product.outputs}")
    if product.activation and (product.role == "wgrad" or product.activation not in DERIVATIVES):
        found.append(f"the derivative of {product.activation} is not fused")
    return found


def _cotangents_beyond(product: Product) -> list[int]:
    """The dimensions in which a whole backward pass would not count every pixel of the cotangent once for the bias gradient.

    Its tiles divide x. It counts a tile's rows and columns of the cotangent: all of them if there are no more than of x, and if
    what taps read includes them.
    """
    found = []
    for i, d in enumerate(dims_of(product)):
        at = reach(d)
        if d.in_stride > 1 or d.rows < d.in_size or not at.low <= 0 <= at.low + at.length:
            found.append(i)
    return found


def _size_reasons(product: Product) -> list[str]:
    names = NAMES[product.role]
    shapes = (*product.operand_shapes[:2], product.result_shapes[0])
    if empty := empty_reasons(dict(zip(names, shapes, strict=True))):
        return empty
    weight_sums = product.role in GRADIENTS
    wanted = product.spec.kernel_spatial if weight_sums else (1,) * product.spec.ndim
    if idle := [i for i, (d, n) in enumerate(zip(dims_of(product), wanted, strict=True)) if len(d.order) < n]:
        which = "some taps never meet" if weight_sums else "no tap ever meets"
        return [f"{which} the input in spatial dimensions {idle}"]
    if product.role == "bwd" and "db" in product.outputs and (beyond := _cotangents_beyond(product)):
        return [
            f"tiles of x do not hold each cotangent once, which the bias gradient needs, in spatial dimensions {beyond}"
        ]
    problem = Problem.of(product)
    x, other, result = names
    pixels, shaped_like_output = {"wgrad": (x, other), "bwd": (other, x)}.get(product.role, (x, result))
    if large := large_reasons({pixels: work.read_elements(problem), shaped_like_output: work.stored_elements(problem)}):
        return large
    of_a_model = problem.channels // (product.models or 1)
    if problem.outputs and product.models is not None and problem.itemsize == 2 and of_a_model % LANES:
        filled = (
            ", zeros that fill groups up included,"
            if of_a_model > min(product.in_channels, product.out_channels)
            else ""
        )
        return [
            f"models of {of_a_model} channels{filled} would share tensor cores' matrices of {LANES}, and their NaNs"
        ]
    if not search.any_fits(problem):
        return [f"no tile fits on an SM; of the smallest one, {legal.illegal(problem, search.least(problem))}"]
    return []


def notes(product: Product, config: Config) -> tuple[str, ...]:
    """The copies of activations that XLA makes around the kernel of a served product, beyond changes of layout."""
    problem, dims, found = Problem.of(product), dims_of(product), list[str]()
    source, other, result = NAMES[product.role]
    if problem.backward:
        source, other = other, source
    source += " (and what the activation saved likewise)" if problem.derivative else ""
    whole = lambda itemsize: -(-problem.channels // (16 // itemsize)) * (16 // itemsize)
    if problem.pixel_group < problem.group:
        found.append(f"{source} is padded from {problem.pixel_group} to {problem.group} channels a group")
    if problem.channels < (read := whole(problem.itemsize)):
        found.append(f"{source} is padded from {problem.channels} to {read} channels: TMA strides are 16 bytes")
    if dims[-1].in_size % dims[-1].in_stride:
        found.append(f"{source} is padded to whole strides in its last dimension")
    ragged = [i for i, d in enumerate(dims) if d.out_size % d.out_stride]
    if problem.weight_sums:
        if problem.output_group < problem.group:
            found.append(f"{other} is padded from {problem.output_group} to {problem.group} channels a group")
        if problem.channels < read:
            found.append(f"{other} is padded to {read} channels, likewise")
        if ragged:
            found.append(f"{other} is padded to whole output phases in spatial dimensions {ragged}")
    if problem.outputs:
        also = ", and the residual padded likewise" if product.residual else ""
        if problem.channels < (stored := whole(problem.out_itemsize)):
            found.append(f"{result} is sliced from {stored} to {problem.channels} channels{also}")
        if problem.output_group < problem.group:
            found.append(f"{result} is sliced from {problem.group} to {problem.output_group} channels a group{also}")
        if ragged:
            found.append(f"{result} is sliced from whole output phases in spatial dimensions {ragged}{also}")
    if problem.weight_sums:
        blocks = ", and takes the groups' blocks out of matrices of eight channels" if problem.whole_matrices else ""
        found.append(f"XLA adds partial sums of all thread blocks, in float32 and always in the same order{blocks}")
    return tuple(found)


def series(product: Product) -> str:
    """A name for products that the kernel treats alike but for their size and epilogue: role, rank, dtypes, strides, groups.

    Groups that zeros fill up are named: XLA's copies take their time.
    """
    filled = "_filled" * (channels_of_a_group(product) != (whole_group(product),) * 2)
    return f"{product.role}_{series_of(product, strides_of(dims_of(product)))}{filled}"


def code_path(product: Product, config: Config) -> str:
    """A name for the code that makes a tile's sums and stores them. Products alike in it are proven together."""
    problem, t = Problem.of(product), tiling(Problem.of(product), config)
    dims = problem.dims
    words = {
        f"{problem.ndim}d": True,
        f"groups{problem.group}": problem.group > 1,
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
        "batches": len(problem.column_moves) > problem.row_fragments,
        "chunks": config.chunk_rows > 1,
        # Tiles of a strip read chunks of the one before.
        "shared": t.tile_chunks > t.advance and config.strip_tiles > 1,
        f"n{problem.out_itemsize}B": problem.outputs > 0,
        "outputs": problem.outputs > 1,
        "residual": problem.residual,
        "weights": problem.weight_sums,
        # Some accumulator has one tap.
        "odd": problem.weight_sums and any(count % 2 for count in dims[2].count),
        "bias": problem.bias,
        "derivative": problem.derivative is not None,
    }
    return " ".join(word for word, holds in words.items() if holds)


def epilogue(product: Product, config: Config) -> str:
    """A name for the arithmetic on a sum before it is stored: "bf16 bias_relu". Sums over pixels are stored as they are."""
    if product.role in GRADIENTS:
        operand = f"derivative_{product.activation}" if product.activation else "linear"
        return f"{'f32' if product.role == 'wgrad' else DTYPES[product.out_dtype]} {operand}"
    return f"{DTYPES[product.out_dtype]} {fused(product)}"


def size(product: Product) -> Size:
    """The size of a product, see `Size`."""
    problem = Problem.of(product)
    macs = work.useful_macs(problem)
    if product.role == "wgrad":
        weights = problem.groups * problem.pixel_group * problem.output_group * problem.taps
        return Size(macs, work.least_bytes(problem), macs / weights, problem.output_group, problem.taps)
    taps = macs / work.elements(problem) / problem.pixel_group / (2 if problem.backward else 1)
    return Size(macs, work.least_bytes(problem), problem.pixel_group, problem.output_group, taps)
