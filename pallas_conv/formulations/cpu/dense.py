"""Rules for convolutions without groups, of any number of dimensions and in any dtype."""

from ..formulation import Rule
from ..sizes import Sizes
from .terms import FEW, FEW_TAPS, MANY_IMAGES, MEDIUM, PIXELS, SMALL, SQUARE, strided, thinner

NEAR_CACHE = 2e6  # bytes of a level of cache nearer than the one that blocks of images stay within
WIDE = 128  # output channels from which a product of matrices for each tap pays in 3-D
HEAVY = 20  # times larger than the images: weights whose change of layout is what takes the time
OVERLAP = 13  # the most taps that may meet in one output element of a transposed convolution
OVERLAP_SMALL = 6  # the same for small images, of which more is edge


def _naive(s: Sizes) -> bool:
    """A kernel larger than the image it slides over: XLA's CPU compiler does not call its library then."""
    slider = s.spec.out_spatial if s.is_wgrad else s.spec.kernel_spatial
    return any(k > n for k, n in zip(slider, s.spec.in_spatial, strict=True))


def _heavy_weights(s: Sizes) -> bool:
    """Weights that outweigh the images, unless it gains little to have those of a swapped product reversed for it."""
    swapped_for_little = s.swapped and (s.spec.ndim == 1 or not strided(s) or s.product.batch == 1)
    return s.w > HEAVY * (s.x + s.y) and not swapped_for_little


def _cheap_columns(s: Sizes) -> bool:
    """Columns smaller than what they are multiplied to, or no larger than what they are cut from."""
    many_small = s.images > MANY_IMAGES and s.out_pixels < SQUARE
    enough = s.useful_flops >= SMALL and s.out_pixels >= PIXELS and not many_small
    return enough and (s.columns <= s.y or (s.columns <= s.x and s.taps <= FEW_TAPS))


def _few_outputs(s: Sizes) -> bool:
    """Whether the library has too few output channels, and the columns of an image fit in a cache near by."""
    return s.group_out <= FEW and s.columns <= NEAR_CACHE * s.images


def _covers(s: Sizes) -> bool:
    """Whether every output has a tap, but for 1x1 kernels, and none sums very many results."""
    covered = s.taps == 1 or all(k >= u for k, u in zip(s.spec.kernel_spatial, s.spec.input_dilation, strict=True))
    # To interleave many phases takes longer than to fill zeros in.
    many_phases = s.spec.ndim == 2 and max(s.spec.input_dilation) > 2
    weak = s.swapped and s.spec.ndim == 2 and s.in_pixels < PIXELS and s.taps >= 4 * s.phases and thinner(s) < MEDIUM
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


DENSE = (
    Rule(lambda s: s.is_conv and s.taps == 1, ("im2col",), "a 1x1 convolution is a matrix product"),
    Rule(lambda s: s.is_wgrad and s.taps == 1, ("im2col_wgrad",), "a 1x1 convolution is a matrix product"),
    Rule(
        lambda s: s.is_transposed and s.group_in == 1 and s.spec.ndim == 2 and _covers(s),
        ("multiply_add_phases",),
        "one channel, nothing to sum over: one fused loop an output phase",
    ),
    Rule(
        lambda s: s.is_transposed and (s.spec.ndim == 3 or _covers(s) or _naive(s)),
        ("col2im",),
        "an input full of zeros: one matrix product and a sum, no zero multiplied",
    ),
    Rule(
        lambda s: s.is_wgrad and s.swapped,
        ("im2col_wgrad", "matmul_per_tap", "exchanged"),
        "the weight gradient of a transposed convolution: a matrix product, no kernel as large as the image",
    ),
    Rule(
        lambda s: s.is_conv and s.spec.ndim == 3 and (_naive(s) or s.columns <= max(s.x, s.y)),
        ("im2col",),
        "3-D windows that hardly overlap, or few channels of them: columns and a matrix product",
    ),
    Rule(
        lambda s: s.is_conv and s.spec.ndim == 3,
        ("depth_to_channels",),
        "3-D as one 2-D convolution: XLA's own 3-D one is slow",
    ),
    Rule(
        lambda s: s.is_wgrad and s.spec.ndim == 3 and s.group_out > WIDE,
        ("matmul_per_tap",),
        "3-D with many output channels: one matrix product a tap",
    ),
    Rule(
        lambda s: s.is_wgrad and s.spec.ndim == 3,
        ("depth_to_channels_wgrad",),
        "3-D as one 2-D convolution: XLA's own 3-D one is slow",
    ),
    Rule(
        lambda s: s.is_conv and s.group_in <= FEW and s.group_out <= FEW,
        ("multiply_add", "multiply_add_rows"),
        "too few channels for a matrix product: one fused loop",
    ),
    Rule(
        lambda s: s.is_wgrad and s.group_in <= FEW and s.group_out <= FEW,
        ("correlate_rows",),
        "too few channels for a matrix product: fused loops over blocks of rows",
    ),
    Rule(
        lambda s: s.is_conv and ((_naive(s) and s.useful_flops >= SMALL) or _heavy_weights(s) or _cheap_columns(s)),
        ("im2col",),
        "columns cost less here than the layouts XLA's convolution wants",
    ),
    Rule(
        lambda s: s.is_wgrad and (_naive(s) or _heavy_weights(s) or _cheap_columns(s) or _few_outputs(s)),
        ("im2col_wgrad",),
        "columns cost less here than the layouts XLA's convolution wants",
    ),
)  # fmt: skip
