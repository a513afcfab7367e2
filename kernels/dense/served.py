"""The products that the dense kernel serves, the reasons against others, and the names that it files products under."""

import math

from pallas_conv.spec import Product

from .. import geometry
from ..family import (
    DTYPES,
    Size,
    dtype_reasons,
    empty_reasons,
    epilogue_reasons,
    fused,
    geometry_reasons,
    group_reasons,
    large_reasons,
    series_of,
    strides_of,
)
from . import work
from .plan import ITEMSIZE, Config, Problem, tiling

ROLES = ("fprop", "dgrad")


def is_for(product: Product) -> bool:
    """Whether groups are large enough to be matrix products."""
    return not group_reasons(product)


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why the kernel does not serve a product; empty if it does."""
    found = [*_type_reasons(product), *epilogue_reasons(product), *geometry_reasons(product)]
    return (*found, *group_reasons(product), *_size_reasons(product))


def _type_reasons(product: Product) -> list[str]:
    found = [] if product.role in ROLES else [f"there is no kernel for the product {product.role!r}"]
    found += dtype_reasons(product)
    if product.compute_dtype == "float32" and not product.may_use_tf32:
        found.append(f"float32 is multiplied as TF32, which precision {product.precision!r} does not allow")
    return found


def _size_reasons(product: Product) -> list[str]:
    spec = product.spec
    shapes = {
        "x": (product.batch, product.in_channels, *spec.in_spatial),
        "w": (product.out_channels, product.in_channels // spec.groups, *spec.kernel_spatial),
        "y": (product.batch, product.out_channels, *spec.out_spatial),
    }
    if empty := empty_reasons(shapes):
        return empty
    if product.role not in ROLES:
        return []
    dims = geometry.dims(product)
    idle = [i for i, d in enumerate(dims) if not d.order]
    if idle:
        return [f"no tap ever meets the input in spatial dimensions {idle}"]
    source, result = ("x", "y") if product.role == "fprop" else ("y", "x")
    whole = {name: -(-channels // 8) * 8 for name, channels in _channels(product).items()}  # 16 bytes, or 32
    all_groups = (product.models or 1) * spec.groups  # as the kernel sees them: strided dimensions in whole strides
    elements = {
        source: all_groups * product.batch * whole[source] * math.prod(d.in_rows * d.in_stride for d in dims),
        "w": all_groups * whole["x"] * whole["y"] * math.prod(spec.kernel_spatial),
        result: all_groups * product.batch * whole[result] * math.prod(d.rows * d.out_stride for d in dims),
    }
    return large_reasons(elements)


def _channels(product: Product) -> dict[str, int]:
    """Channels of one group, by array."""
    return {"x": product.in_channels // product.spec.groups, "y": product.out_channels // product.spec.groups}


def notes(product: Product, cfg: Config) -> tuple[str, ...]:
    """The copies of activations that XLA makes around the kernel of a served product, beyond changes of layout."""
    source, result = ("x", "y") if product.role == "fprop" else ("the cotangent", "the input gradient")
    summed, produced = list(_channels(product).values())[:: 1 if product.role == "fprop" else -1]
    dims, found = geometry.dims(product), []
    of_each = " a group" if product.spec.groups > 1 else ""
    if cfg.im2col:
        found.append(
            f"the {dims[-1].count[0]} taps of {source}'s last dimension become channels: {summed} are too few for a tensor core"
        )
        dims, summed = dims[:-1], summed * dims[-1].count[0]
    unit = 16 // ITEMSIZE[product.compute_dtype]
    if summed % unit:
        found.append(
            f"{source} and w are padded from {summed} to {-(-summed // unit) * unit} channels{of_each}: "
            "TMA strides are 16 bytes"
        )
    uneven = [i for i, d in enumerate(dims) if d.in_size % d.in_stride]
    if uneven:
        found.append(f"{source} is padded to whole strides in spatial dimensions {uneven}")
    if cfg.split_k > 1:
        found.append(f"the float32 sums of {cfg.split_k} parts of the channels are added: {result} has few tiles")
    if cfg.col2im_dims:
        count = math.prod(len(d.order) for d in dims[-cfg.col2im_dims :])
        found.append(
            f"{count} taps become channels, whose float32 sums are added: {produced} are too few for a tensor core"
        )
    if cfg.finished_by_xla:
        return tuple(found)  # in the same pass, what is too much is sliced off
    unit = 16 // ITEMSIZE[product.out_dtype]
    also = ", and the residual padded likewise" if product.residual else ""
    if produced % unit:
        found.append(f"{result} is sliced from {-(-produced // unit) * unit} to {produced} channels{of_each}{also}")
    ragged = [i for i, d in enumerate(geometry.dims(product)) if d.out_size % d.out_stride]
    if ragged:
        found.append(f"{result} is sliced from whole output phases in spatial dimensions {ragged}{also}")
    return tuple(found)


def series(product: Product) -> str:
    """A name for products that the kernel treats alike but for their size and epilogue: role, rank, dtypes, strides, groups."""
    return f"{product.role}_{series_of(product, strides_of(geometry.dims(product)))}"


def code_path(product: Product, config: Config) -> str:
    """A name for the code that makes a tile's sums and stores them. Products alike in it are proven together."""
    problem, t = Problem.of(product), tiling(Problem.of(product), config)
    seen = t.problem
    outputs = 1 if config.finished_by_xla else seen.outputs
    words = {
        f"{len(problem.dims)}d": True,
        DTYPES[product.compute_dtype]: True,
        "strided": any(d.in_stride > 1 for d in seen.dims),
        "phased": seen.phases > 1,
        # Some output phase has no taps: its tiles load nothing.
        "idle": any(0 in d.count for d in seen.dims),
        # Some boxes begin before the array.
        "padded": any(min(d.offset) < 0 for d in seen.dims),
        "grouped": problem.groups > 1,
        f"{config.mma_warpgroups}x{config.tile_m}pixels": True,
        "images": config.tile_pixels[0] > 1,
        f"k{config.tile_k * problem.itemsize}B": True,
        "taps": config.taps_per_step > 1,
        "halo": config.halo,
        # "sheets", "unfold", "fold" and "split" are former names: committed records are filed under these words, so they stay.
        "sheets": config.halo and seen.dims[t.halo_dim].residues > 1,
        "resident": config.resident,
        "unfold": config.im2col,
        "fold": config.col2im_dims > 0,
        "split": config.split_k > 1,
        "cluster": config.cluster > 1,
        f"n{config.epi_tile_n * seen.out_itemsize}B": True,
        "outputs": outputs > 1,
        "residual": seen.residual,
        # No chunk of a residual is loaded before its turn.
        "unprefetched": seen.residual and config.epi_stages <= outputs,
        "one_buffer": config.epi_stages == 1,
        # Buffers of a residual have barriers of their own, of which tiles then begin with different ones.
        "rotating": seen.residual and config.tile_n // config.epi_tile_n * outputs % config.epi_stages > 0,
        "unskipped": not config.skip_padding,
    }
    return " ".join(word for word, holds in words.items() if holds)


def epilogue(product: Product, config: Config) -> str:
    """A name for the arithmetic on a sum before it is stored: "bf16 bias_relu". Bare sums are finished by XLA."""
    if config.finished_by_xla:
        return "f32 linear"
    return f"{DTYPES[product.out_dtype]} {fused(product)}"


def size(product: Product) -> Size:
    """The size of a product, see `Size`."""
    problem = Problem.of(product)
    macs = work.useful_macs(problem)
    elements = problem.batch * problem.groups * problem.out_channels * math.prod(d.out_size for d in problem.dims)
    return Size(
        macs,
        work.least_bytes(problem),
        problem.in_channels,
        problem.out_channels,
        macs / (elements * problem.in_channels),
    )
