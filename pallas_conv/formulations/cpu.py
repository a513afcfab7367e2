"""Which formulation serves a product on a CPU, by rules fitted to the measurements in bench/results.

They name families of products, not layers, and leave out what was not clearly faster (python -m bench.formulations).
"""

import jax.numpy as jnp

from ..spec import Product
from . import catalogue
from .catalogue import CHANNELS_LAST, CROPPED, STOCK, Sizes
from .library import misread_on_cpu
from .rules import Rule, first

CACHE = 16e6  # bytes that blocks of images should stay within: the level above main memory, or so
NEAR_CACHE = 2e6  # bytes of a nearer level
SPARE_MEMORY = 64e6  # bytes of temporary memory that a program may take where stock's takes less
SPARE_OF_IMAGES = 32e6  # those that a program with copies of both operands may take at all
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
HEAVY = 20  # times larger than the images: weights whose change of layout is what takes the time
OVERLAP = 13  # taps that meet in one output element
OVERLAP_SMALL = 6  # the same for small images, of which more is edge
OUTWEIGHS = 4  # times larger than the images: weights that take longer to copy than columns of the images
OUTWEIGHS_NARROW = 2  # the same of bfloat16, whose columns are cheaper
LOPSIDED = (
    3  # the fewer channels times taps, by the more channels, up to which all taps of the fewer are written to memory
)
SEVERAL_IMAGES = 4  # from which XLA's weight gradient of few channels is fast
MANY_IMAGES = 8  # above it, a matrix product for each small image is slower than the library
MANY_PIXELS = 100  # of an image, from which writing all taps to memory pays
SQUARE = 256  # pixels of an image that is no longer small
A_FEW_TAPS = 16  # written out or looped over at little cost
SEVERAL_TAPS = 25  # of which columns along one axis are small
NARROW, MEDIUM, BROADER = (
    40,
    80,
    96,
)  # channels for which XLA's weight gradient may be far from the speed of a matrix product
THICK = 128  # channels on both sides for which its input gradient is, too
THICKER = 160  # the same of a strided convolution


def choose(product: Product, channels_last: bool = False, amx: bool = False) -> tuple[str, str]:
    """The formulation that `auto` takes where no kernel runs, and why. The rules were fitted to images channels first.

    amx: whether the CPU has instructions for products of bfloat16 matrices.
    """
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
        usual = first(rules, s, lambda name: name in served and _fits(served[name], product))
        of_images = first(_of_images(s, amx), s, lambda name: name in served and _small(served[name], product))
        if product.compute_dtype == "bfloat16":  # whose usual rules were fitted to products of widened matrices
            usual, of_images = of_images, usual
        if found := usual or of_images:
            return found
    if misread_on_cpu(product.role, product.spec):
        return (
            CROPPED,
            "XLA's CPU convolution reads out of bounds where one dimension is cropped before and padded after",
        )
    return CHANNELS_LAST, "no program is known to be faster on a CPU; XLA calls its library for this form in loops, too"


def _of_images(s: Sizes, amx: bool) -> tuple[Rule, ...]:
    """The rules of 2-D convolutions without groups: with a few taps in float32, and in bfloat16 on a CPU with AMX."""
    dense = s.spec.ndim == 2 and s.spec.groups == 1 and s.product.models is None
    if not dense or s.taps == 1 or s.useful_flops < TINY:
        return ()
    if s.product.compute_dtype == "bfloat16":
        return IMAGES_BFLOAT16 if amx else ()
    few_taps = s.taps <= (SEVERAL_TAPS if s.correlates else A_FEW_TAPS)
    return IMAGES if s.product.compute_dtype == "float32" and few_taps else ()


def _fits(formulation: catalogue.Formulation, product: Product) -> bool:
    needed = catalogue.cost(formulation, product, CACHE).temp
    return needed <= max(catalogue.stock_temp(product), SPARE_MEMORY)


def _small(formulation: catalogue.Formulation, product: Product) -> bool:
    """All at once: what a block of images is copied from stays in memory, too, and these programs copy both operands."""
    return catalogue.cost(formulation, product, None).temp <= SPARE_OF_IMAGES


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


def _cheap_columns(s: Sizes) -> bool:
    """Columns smaller than what they are multiplied to, or no larger than what they are cut from."""
    many_small = s.images > MANY_IMAGES and s.out_pixels < SQUARE
    enough = s.useful_flops >= SMALL and s.out_pixels >= PIXELS and not many_small
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
    """No output without a tap, but for 1x1 kernels, and none that sums very many results."""
    covered = s.taps == 1 or all(k >= u for k, u in zip(s.spec.kernel_spatial, s.spec.input_dilation, strict=True))
    # To interleave many phases takes longer than to fill zeros in.
    many_phases = s.spec.ndim == 2 and max(s.spec.input_dilation) > 2
    weak = s.turned and s.spec.ndim == 2 and s.in_pixels < PIXELS and s.taps >= 4 * s.phases and _thinner(s) < MEDIUM
    rarely_overlaps = s.taps <= (OVERLAP if s.in_pixels >= PIXELS else OVERLAP_SMALL) * s.phases
    return (
        s.useful_flops >= SMALL
        and covered
        and rarely_overlaps
        and not (many_phases or weak or _bfloat16_spreads_badly(s))
    )


def _bfloat16_spreads_badly(s: Sizes) -> bool:
    """Phases with different numbers of taps, over few pixels or to many outputs from few sums."""
    uneven = any(k % u for k, u in zip(s.spec.kernel_spatial, s.spec.input_dilation, strict=True))
    few_pixels = s.in_pixels < (SQUARE if max(s.spec.kernel_dilation) == 1 else PIXELS)
    bfloat16 = s.product.compute_dtype == "bfloat16"
    return bfloat16 and s.taps > 1 and uneven and (few_pixels or s.group_out >= 4 * s.group_in)


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
        lambda s: s.spreads and (s.spec.ndim == 3 or _covers(s) or _naive(s)),
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

# ---------------------------------------------------------------- two dimensions, many channels


def _thinner(s: Sizes) -> int:
    """Channels of the side that has fewer."""
    return min(s.group_in, s.group_out)


def _few_results(s: Sizes) -> bool:
    """Without strides, and the results of all taps are not many more than what they are computed from."""
    few = s.taps * s.group_out <= LOPSIDED * s.group_in
    return max(s.spec.strides) == 1 and few and min(s.in_pixels, s.out_pixels) >= MANY_PIXELS


def _few_columns(s: Sizes) -> bool:
    """The same of all windows of x, and of output channels enough for a matrix product."""
    few = s.taps * s.group_in <= LOPSIDED * s.group_out and s.group_out >= BROAD
    return max(s.spec.strides) == 1 and few and min(s.in_pixels, s.out_pixels) >= MANY_PIXELS


def _many_channels(s: Sizes) -> bool:
    """Too many for XLA's weight gradient, which gains from many images, and from 64 channels on both sides."""
    thinner, thicker = _thinner(s), max(s.group_in, s.group_out)
    if _strided(s):
        return thinner >= BROADER and s.images < MANY_IMAGES
    if s.group_in >= 2 * s.group_out:
        return thicker >= BROADER
    if _better_split(s):
        return thicker >= MEDIUM
    return thinner >= NARROW and (thinner, thicker) != (64, 64)


def _better_split(s: Sizes) -> bool:
    """Columns of all taps would be built for each of several images, or of pixels far apart."""
    return s.images >= SEVERAL_IMAGES or max(s.spec.kernel_dilation) > 1


def _odd_channels(s: Sizes) -> bool:
    """Of which vectors of the library's weight gradient are not full."""
    return not _strided(s) and s.group_in % 16 > 0 and s.group_out % 16 > 0 and _thinner(s) >= BROAD


def _float32(s: Sizes) -> bool:
    return s.product.compute_dtype == "float32"


IMAGES = (
    Rule(
        lambda s: s.stays and _few_results(s),
        ("col2im",),
        "few outputs for so many channels: one matrix product to all taps, and their sum",
    ),
    Rule(
        lambda s: s.stays and s.turned and _thinner(s) >= THICK and 3 * s.w > 2 * (s.x + s.y),
        ("col2im",),
        "an input gradient with many weights, which are read as they lie: one matrix product to all taps, and their sum",
    ),
    Rule(
        lambda s: s.slides and not s.turned and s.w > OUTWEIGHS * (s.x + s.y)
        and (s.product.batch == 1 or _strided(s)),
        ("im2col",),
        "more weights than pixels: columns, and weights read as they lie",
    ),
    Rule(
        lambda s: s.stays,
        ("extra_row",),
        "very many channels, for which Eigen's convolution is faster than XLA's first choice",
    ),
    Rule(
        lambda s: s.correlates and s.group_in <= FEW and s.group_out >= BROAD,
        ("im2col_wgrad",),
        "a first layer of few channels: columns are small, and XLA's weight gradient is slow",
    ),
    Rule(
        lambda s: s.correlates
        and ((_few_columns(s) and not (_better_split(s) and _many_channels(s))) or s.w > OUTWEIGHS * (s.x + s.y)
             or (_strided(s) and _thinner(s) >= THICKER and 3 * s.w > 2 * (s.x + s.y))),
        ("im2col_wgrad",),
        "columns cost less here than the layouts XLA's convolution wants",
    ),
    Rule(
        lambda s: s.correlates and (_many_channels(s) or _odd_channels(s)),
        ("split_im2col_wgrad",),
        "many channels: one matrix product of the windows along one axis of x and along the other of the cotangent",
    ),
)  # fmt: skip


def _weights_outweigh_columns(s: Sizes) -> bool:
    """In bfloat16. Turned weights are moved in any case, and many channels under few outputs have large columns."""
    if s.turned or s.group_in > 2 * s.group_out:
        return s.taps <= A_FEW_TAPS and s.w > OUTWEIGHS * (s.x + s.y)
    return s.w > OUTWEIGHS_NARROW * (s.x + s.y)


def _wide_strides(s: Sizes) -> bool:
    """Strided, with columns of moderate size, and enough channels for a matrix product: more of them where there is one for
    each of many small images."""
    many_small = s.images > MANY_IMAGES and s.out_pixels < PIXELS
    enough = _thinner(s) >= BROAD // 2 and max(s.group_in, s.group_out) >= (MEDIUM if many_small else BROAD)
    moderate = s.taps <= FEW_TAPS or (s.taps <= A_FEW_TAPS and s.group_in <= LOPSIDED * s.group_out)
    return _strided(s) and enough and moderate


def _first_layer(s: Sizes) -> bool:
    """From few channels to many."""
    return s.group_in <= 2 * FEW and s.group_out >= BROAD // 2


def _windows_are_apart(s: Sizes) -> bool:
    return all(stride >= size for stride, size in zip(s.spec.strides, s.spec.kernel_spatial, strict=True))


# With AMX a product of bfloat16 matrices takes a small part of the time of XLA's convolution, which widens them to float32.
IMAGES_BFLOAT16 = (
    Rule(
        lambda s: s.slides and not s.turned and _first_layer(s),
        ("im2col",),
        "bfloat16 matrix products are fast here, and the columns of a first layer small",
    ),
    Rule(
        lambda s: s.correlates and _first_layer(s),
        ("im2col_wgrad",),
        "bfloat16 matrix products are fast here, and the columns of a first layer small",
    ),
    Rule(
        lambda s: s.slides and (_weights_outweigh_columns(s) or _wide_strides(s)),
        ("im2col",),
        "bfloat16 matrix products are fast here: columns are worth their copies",
    ),
    Rule(
        lambda s: s.stays and not s.turned and s.group_in >= 2 * s.group_out and s.out_pixels >= PIXELS,
        ("col2im",),
        "bfloat16 matrix products are fast here: one to all taps, and their sum",
    ),
    Rule(
        lambda s: s.stays and s.taps <= A_FEW_TAPS and s.group_out >= 2 * s.group_in >= BROAD
        and s.out_pixels >= (SQUARE if s.images > MANY_IMAGES else PIXELS),
        ("im2col",),
        "bfloat16 matrix products are fast here: columns are worth their copies",
    ),
    Rule(
        lambda s: s.stays and _thinner(s) >= BROAD and (s.out_pixels >= SQUARE or _thinner(s) >= THICK),
        ("split_im2col",),
        "bfloat16 matrix products are fast here: one of the windows along one axis to the taps along the other",
    ),
    Rule(
        lambda s: s.correlates and max(s.group_in, s.group_out) <= FEW and s.taps > FEW_TAPS,
        ("split_im2col_wgrad",),
        "bfloat16 matrix products are fast here: one of the windows along one axis of x and along the other of the cotangent",
    ),
    Rule(
        lambda s: s.correlates and (_few_columns(s) or s.w > OUTWEIGHS * (s.x + s.y) or _windows_are_apart(s)),
        ("im2col_wgrad",),
        "bfloat16 matrix products are fast here: columns are worth their copies",
    ),
    Rule(
        lambda s: s.correlates and _thinner(s) >= BROAD // 2 and (s.out_pixels >= PIXELS or _thinner(s) >= THICK),
        ("split_im2col_wgrad",),
        "bfloat16 matrix products are fast here: one of the windows along one axis of x and along the other of the cotangent",
    ),
)  # fmt: skip
