"""Which formulation serves a product on a CPU, by rules fitted to the measurements in bench/results.

They name families of products, not layers, and leave out what was not clearly faster (python -m bench.formulations).
"""

import math

import jax.numpy as jnp

from ..spec import Product
from . import catalogue
from .catalogue import CHANNELS_LAST, CROPPED, STOCK, Sizes
from .library import misread_on_cpu
from .rules import Rule, first

CACHE = 16e6  # bytes that blocks of images should stay within: the level above main memory, or so
NEAR_CACHE = 2e6  # bytes of a nearer level
SPARE_MEMORY = 64e6  # bytes of temporary memory that a program may take where stock's takes less
FEW = 4  # channels too few to fill a matrix product
A_PAIR = 2  # outputs of a group
FEW_TAPS = 4  # of which columns are cheap
LONG = 16  # taps in a row that fill vectors
MANY_TAPS = 40  # that fill vectors, whatever the rows they are in
LANES = 8  # float32 elements of a vector
PIXELS = 64  # fewer are too few for one side of a matrix product, or to loop over
BROAD = 32  # output channels that are worth a matrix product a model
WIDE = 128  # output channels from which a product of matrices for each tap pays in 3-D
TINY = 5e5  # floating-point operations of a dense product below which it is the number of steps that counts
SMALL = 2e6  # those below which columns and sums of them cost about as much as what they save
HEAVIER = 4  # times larger than the images: weights that a strided input gradient had better read as they lie
HEAVY = 20  # times larger than the images: weights whose change of layout is what takes the time
OVERLAP = 6  # taps that meet in one output element


def choose(product: Product, channels_last: bool = False) -> tuple[str, str]:
    """The formulation that `auto` takes where no kernel runs, and why. The rules were fitted to images channels first."""
    if not jnp.issubdtype(product.compute_dtype, jnp.inexact):
        return STOCK, "integers are left to stock's program"
    served = {f.name: f for f in catalogue.serving(product)}
    if served:
        s = Sizes.of(product)
        if channels_last and s.slides and s.taps == 1 and max(s.spec.strides) == 1 and s.spec.groups == 1:
            return CHANNELS_LAST, "a 1x1 convolution of images channels last, which the library takes as they lie"
        rules: tuple[Rule, ...]
        if s.spec.groups > 1:
            rules = GROUPED
        elif product.models is not None:
            rules = (*SIDE_BY_SIDE, *DENSE)
        else:
            rules = DENSE if s.useful_flops >= TINY else ()
        if found := first(rules, s, lambda name: name in served and _fits(served[name], product)):
            return found
    if misread_on_cpu(product.role, product.spec):
        return (
            CROPPED,
            "XLA's CPU convolution reads out of bounds where one dimension is cropped before and padded after",
        )
    return CHANNELS_LAST, "no program is known to be faster on a CPU; XLA calls its library for this form in loops, too"


def _fits(formulation: catalogue.Formulation, product: Product) -> bool:
    needed = catalogue.cost(formulation, product, CACHE).temp
    return needed <= max(catalogue.stock_temp(product), SPARE_MEMORY)


# ---------------------------------------------------------------- what is slow in XLA on a CPU


def _strided(s: Sizes) -> bool:
    return max(s.spec.strides) > 1


def _hardly_overlaps(s: Sizes) -> bool:
    """Windows with channels enough for a matrix product, so far apart that a fused loop cannot use the lanes of a vector."""
    enough = s.useful_flops >= SMALL and min(s.group_in, s.group_out) >= FEW
    return enough and max(s.spec.strides) > 2 and s.columns <= 2 * s.x


def _naive(s: Sizes) -> bool:
    """A kernel larger than the image it slides over: XLA's CPU compiler does not call its library then."""
    slider = s.spec.out_spatial if s.correlates else s.spec.kernel_spatial
    return any(k > n for k, n in zip(slider, s.spec.in_spatial, strict=True))


def _heavy_weights(s: Sizes) -> bool:
    turned_for_little = s.turned and (s.spec.ndim == 1 or not _strided(s) or s.product.batch == 1)
    return s.w > HEAVY * (s.x + s.y) and not turned_for_little


def _weights_outweigh_strides(s: Sizes) -> bool:
    """The input gradient of a strided convolution with so many weights that to go through them is what takes the time."""
    return s.turned and s.w > HEAVIER * (s.x + s.y)


def _cheap_columns(s: Sizes) -> bool:
    """Columns smaller than what they are multiplied to, or no larger than what they are cut from."""
    enough = s.useful_flops >= SMALL and s.out_pixels >= PIXELS
    return enough and (s.columns <= s.y or (s.columns <= s.x and s.taps <= FEW_TAPS))


def _few_outputs(s: Sizes) -> bool:
    """Too few output channels for the library, and the columns of an image in a cache near by."""
    return s.group_out <= FEW and s.columns <= NEAR_CACHE * s.images


def _taps_fill_vectors(s: Sizes) -> bool:
    """Better than a row of pixels does: many taps, or a row that is read with a stride."""
    if s.taps < MANY_TAPS:
        strided = _strided(s) and s.taps > LANES and s.group_out <= A_PAIR
        return strided and (s.spec.ndim == 3 or s.group_in > 1)
    return s.group_in > 1 or (s.spec.ndim == 3 and s.group_out > 1)


def _short(s: Sizes) -> bool:
    """Long sums for each of a few pixels: no loop over pixels is worth it."""
    return s.group_in > 2 * FEW and min(s.in_pixels, s.out_pixels) < PIXELS


def _covers(s: Sizes) -> bool:
    """No output without a tap and none that sums very many results."""
    covered = all(k >= u for k, u in zip(s.spec.kernel_spatial, s.spec.input_dilation, strict=True))
    many_phases = (
        s.spec.ndim == 2 and max(s.spec.input_dilation) > 2
    )  # to interleave them takes longer than to fill zeros in
    return (
        s.useful_flops >= SMALL and covered and not many_phases and s.taps <= OVERLAP * math.prod(s.spec.input_dilation)
    )


GROUPED = (
    Rule(
        lambda s: s.slides and s.taps == 1 and (s.group_in > 1 or _strided(s)),
        ("im2col",),
        "a grouped 1x1 convolution is one matrix product a group",
    ),
    Rule(
        lambda s: s.slides and s.taps > 1 and _hardly_overlaps(s),
        ("im2col",),
        "windows that hardly overlap: columns, and one matrix product a group",
    ),
    Rule(
        lambda s: s.slides and s.taps > 1 and not _short(s),
        ("multiply_add", "multiply_add_rows"),
        "few channels a group: one fused loop, where XLA convolves group by group",
    ),
    Rule(
        lambda s: s.spreads and not _short(s) and s.sum_of_taps > catalogue.MOST_UNROLLED,
        ("col2im",),
        "an input full of zeros and too many taps for fused loops: one matrix product a group, and its results added up",
    ),
    Rule(
        lambda s: s.spreads and not _short(s),
        ("multiply_add_phases", "col2im"),
        "groups and an input full of zeros: only the taps that meet data, output phase by output phase",
    ),
    Rule(
        lambda s: s.correlates and s.group_in <= FEW and s.spec.kernel_spatial[-1] >= LONG and s.spec.kernel_dilation[-1] == 1,
        ("correlate_taps",),
        "long rows of taps: one fused loop over them, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.correlates and s.group_in <= FEW and s.out_pixels > 1 and _taps_fill_vectors(s),
        ("correlate_taps",),
        "few channels a group and many taps, or pixels far apart: one fused loop over taps, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.correlates and s.taps > 1 and s.group_in <= FEW
        and (s.spec.ndim == 2 or (s.group_in == 1 and (s.spec.ndim > 1 or (s.taps > FEW_TAPS and s.spec.groups >= LANES)))),
        ("correlate_rows",),
        "few channels a group: fused loops over blocks of rows, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.correlates and s.spec.ndim == 1 and s.group_in == 1 and s.taps > FEW_TAPS and s.spec.groups >= LANES,
        ("im2col_wgrad",),
        "one channel a group, and taps too far apart for blocks of rows: columns and one matrix product a group",
    ),
    Rule(
        lambda s: s.correlates and s.taps > 1 and s.spec.ndim == 3 and s.group_out <= A_PAIR,
        ("correlate_rows",),
        "one or two outputs a group: fused loops over blocks of rows, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.correlates and s.taps > 1 and s.spec.ndim == 1,
        ("matmul_per_tap", "correlate_rows"),
        "one matrix product a tap and group, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.correlates,
        ("im2col_wgrad", "matmul_per_tap", "correlate_rows"),
        "one matrix product a group, where XLA convolves once a group",
    ),
)  # fmt: skip

# Of models or examples with a kernel or a gradient each, which are groups to XLA. In float64 and complex dtypes, for which it
# has no library, it multiplies zeros between them: 511 tiny gradients take seconds and hundreds of megabytes.
SIDE_BY_SIDE = (
    Rule(
        lambda s: s.slides and s.taps > 1,
        ("multiply_add",),
        "a kernel a model and few taps: one fused loop, where XLA convolves group by group",
    ),
    Rule(
        lambda s: s.spreads,
        ("col2im", "multiply_add_phases"),
        "a kernel a model and an input full of zeros: only the taps that meet data",
    ),
    Rule(
        lambda s: s.slides and s.spec.ndim == 2 and s.taps > 1 and not _strided(s) and s.group_out >= BROAD,
        ("im2col",),
        "a kernel a model: columns and one matrix product a model",
    ),
    Rule(
        lambda s: s.correlates and s.spec.ndim < 3 and s.taps > 1 and s.product.batch > 1
        and min(s.group_in, s.group_out) >= BROAD // 2,
        ("matmul_per_tap",),
        "a gradient a model: one matrix product a tap and model",
    ),
    Rule(
        lambda s: s.correlates and (s.product.batch == 1 or s.group_in <= FEW < s.group_out),
        ("im2col_wgrad",),
        "a gradient an example is a matrix product an example",
    ),
)  # fmt: skip

DENSE = (
    Rule(lambda s: s.slides and s.taps == 1, ("im2col",), "a 1x1 convolution is a matrix product"),
    Rule(lambda s: s.correlates and s.taps == 1, ("im2col_wgrad",), "a 1x1 convolution is a matrix product"),
    Rule(
        lambda s: s.spreads and s.group_in == 1 and s.spec.ndim == 2 and _covers(s),
        ("multiply_add_phases",),
        "one channel, nothing to sum over: one fused loop an output phase",
    ),
    Rule(
        lambda s: s.spreads and (s.spec.ndim == 3 or (_covers(s) and not _weights_outweigh_strides(s)) or _naive(s)),
        ("col2im",),
        "an input full of zeros: one matrix product and a sum, no zero multiplied",
    ),
    Rule(
        lambda s: s.correlates and s.turned,
        ("im2col_wgrad", "matmul_per_tap", "exchanged"),
        "the weight gradient of a transposed convolution: a matrix product, no kernel as large as the image",
    ),
    Rule(
        lambda s: s.slides and s.spec.ndim == 3 and (_naive(s) or s.columns <= max(s.x, s.y)),
        ("im2col",),
        "3-D windows that hardly overlap, or few channels of them: columns and a matrix product",
    ),
    Rule(
        lambda s: s.slides and s.spec.ndim == 3,
        ("depth_to_channels",),
        "3-D as one 2-D convolution: XLA's own 3-D one is slow",
    ),
    Rule(
        lambda s: s.correlates and s.spec.ndim == 3 and s.group_out > WIDE,
        ("matmul_per_tap",),
        "3-D with many output channels: one matrix product a tap",
    ),
    Rule(
        lambda s: s.correlates and s.spec.ndim == 3,
        ("depth_to_channels_wgrad",),
        "3-D as one 2-D convolution: XLA's own 3-D one is slow",
    ),
    Rule(
        lambda s: s.slides and s.group_in <= FEW and s.group_out <= FEW,
        ("multiply_add", "multiply_add_rows"),
        "too few channels for a matrix product: one fused loop",
    ),
    Rule(
        lambda s: s.correlates and s.group_in <= FEW and s.group_out <= FEW,
        ("correlate_rows",),
        "too few channels for a matrix product: fused loops over blocks of rows",
    ),
    Rule(
        lambda s: s.slides and ((_naive(s) and s.useful_flops >= SMALL) or _heavy_weights(s) or _cheap_columns(s)),
        ("im2col",),
        "columns cost less here than the layouts XLA's convolution wants",
    ),
    Rule(
        lambda s: s.correlates and (_naive(s) or _heavy_weights(s) or _cheap_columns(s) or _few_outputs(s)),
        ("im2col_wgrad",),
        "columns cost less here than the layouts XLA's convolution wants",
    ),
)  # fmt: skip
