"""Rules for 2-D convolutions without groups, of many channels and several taps, in two dtypes.

In float32 they are for few taps. In bfloat16 they are for a CPU with AMX: there a product of bfloat16 matrices takes a small
part of the time of XLA's convolution, which widens them to float32.
"""

from ..formulation import Rule
from ..sizes import Sizes
from .terms import BROAD, FEW, FEW_TAPS, MANY_IMAGES, MEDIUM, PIXELS, SQUARE, TINY, strided, thinner

A_FEW_TAPS = 16  # written out or looped over at little cost
SEVERAL_TAPS = 25  # of which columns along one axis are small
MANY_PIXELS = 100  # of an image, from which writing all taps to memory pays
SEVERAL_IMAGES = 4  # from which XLA's weight gradient of few channels is fast
OUTWEIGHS = 4  # times larger than the images: weights that take longer to copy than columns of the images
OUTWEIGHS_NARROW = 2  # the same of bfloat16, whose columns are cheaper
LOPSIDED = 3  # up to so many times the channels of one side, channels times taps of the other are written to memory

# Channels from which XLA's weight gradient may be far from the speed of a matrix product. Where columns of the taps along one
# axis are better than columns of all, it is MEDIUM channels on one side.
NARROW = 40  # on both sides, without strides
BROADER = 96  # on both sides with strides; without, on one side if there are twice as many inputs as outputs
THICK = 128  # on both sides: from here on its input gradient may be, too
THICKER = 160  # the same of a strided convolution


def rules(s: Sizes, amx: bool) -> tuple[Rule, ...]:
    """The rules for a product. amx: whether the CPU has instructions for products of bfloat16 matrices."""
    dense = s.spec.ndim == 2 and s.spec.groups == 1 and s.product.models is None
    if not dense or s.taps == 1 or s.useful_flops < TINY:
        return ()
    if s.product.compute_dtype == "bfloat16":
        return BFLOAT16 if amx else ()
    few_taps = s.taps <= (SEVERAL_TAPS if s.is_wgrad else A_FEW_TAPS)
    return FLOAT32 if s.product.compute_dtype == "float32" and few_taps else ()


def _few_results(s: Sizes) -> bool:
    """Whether there are no strides, and the results of all taps are not many more than what they are computed from."""
    few = s.taps * s.group_out <= LOPSIDED * s.group_in
    return max(s.spec.strides) == 1 and few and min(s.in_pixels, s.out_pixels) >= MANY_PIXELS


def _few_columns(s: Sizes) -> bool:
    """Whether there are no strides, and windows of x are not many more than y, with channels enough for a matrix product."""
    few = s.taps * s.group_in <= LOPSIDED * s.group_out and s.group_out >= BROAD
    return max(s.spec.strides) == 1 and few and min(s.in_pixels, s.out_pixels) >= MANY_PIXELS


def _many_channels(s: Sizes) -> bool:
    """Whether channels are too many for XLA's weight gradient, which gains from many images, and from 64 on both sides."""
    fewer, more = thinner(s), max(s.group_in, s.group_out)
    if strided(s):
        return fewer >= BROADER and s.images < MANY_IMAGES
    if s.group_in >= 2 * s.group_out:
        return more >= BROADER
    if _better_split(s):
        return more >= MEDIUM
    return fewer >= NARROW and (fewer, more) != (64, 64)


def _better_split(s: Sizes) -> bool:
    """Columns of all taps would be built for each of several images, or of pixels far apart."""
    return s.images >= SEVERAL_IMAGES or max(s.spec.kernel_dilation) > 1


def _odd_channels(s: Sizes) -> bool:
    """Channels that leave vectors of the library's weight gradient partly empty."""
    return not strided(s) and s.group_in % 16 > 0 and s.group_out % 16 > 0 and thinner(s) >= BROAD


FLOAT32 = (
    Rule(
        lambda s: s.is_unstrided_conv and _few_results(s),
        ("col2im",),
        "few outputs for so many channels: one matrix product to all taps, and their sum",
    ),
    Rule(
        lambda s: s.is_unstrided_conv and s.swapped and thinner(s) >= THICK and 3 * s.w > 2 * (s.x + s.y),
        ("col2im",),
        "an input gradient with many weights, which are read as they lie: one matrix product to all taps, and their sum",
    ),
    Rule(
        lambda s: s.is_conv and not s.swapped and s.w > OUTWEIGHS * (s.x + s.y)
        and (s.product.batch == 1 or strided(s)),
        ("im2col",),
        "more weights than pixels: columns, and weights read as they lie",
    ),
    Rule(
        lambda s: s.is_unstrided_conv,
        ("extra_row",),
        "very many channels, for which Eigen's convolution is faster than XLA's first choice",
    ),
    Rule(
        lambda s: s.is_wgrad and s.group_in <= FEW and s.group_out >= BROAD,
        ("im2col_wgrad",),
        "a first layer of few channels: columns are small, and XLA's weight gradient is slow",
    ),
    Rule(
        lambda s: s.is_wgrad
        and ((_few_columns(s) and not (_better_split(s) and _many_channels(s))) or s.w > OUTWEIGHS * (s.x + s.y)
             or (strided(s) and thinner(s) >= THICKER and 3 * s.w > 2 * (s.x + s.y))),
        ("im2col_wgrad",),
        "columns cost less here than the layouts XLA's convolution wants",
    ),
    Rule(
        lambda s: s.is_wgrad and (_many_channels(s) or _odd_channels(s)),
        ("split_im2col_wgrad",),
        "many channels: one matrix product of the windows along one axis of x and along the other of the cotangent",
    ),
)  # fmt: skip


def _weights_outweigh_columns(s: Sizes) -> bool:
    """Whether the weights outweigh the columns, in bfloat16.

    The weights of a swapped product are moved in any case, and many channels under few outputs have large columns.
    """
    if s.swapped or s.group_in > 2 * s.group_out:
        return s.taps <= A_FEW_TAPS and s.w > OUTWEIGHS * (s.x + s.y)
    return s.w > OUTWEIGHS_NARROW * (s.x + s.y)


def _wide_strides(s: Sizes) -> bool:
    """Strided, with columns of moderate size, and enough channels for a matrix product: more of them where there is one for
    each of many small images."""
    many_small = s.images > MANY_IMAGES and s.out_pixels < PIXELS
    enough = thinner(s) >= BROAD // 2 and max(s.group_in, s.group_out) >= (MEDIUM if many_small else BROAD)
    moderate = s.taps <= FEW_TAPS or (s.taps <= A_FEW_TAPS and s.group_in <= LOPSIDED * s.group_out)
    return strided(s) and enough and moderate


def _first_layer(s: Sizes) -> bool:
    """Whether the layer goes from few channels to many."""
    return s.group_in <= 2 * FEW and s.group_out >= BROAD // 2


def _windows_are_apart(s: Sizes) -> bool:
    return all(stride >= size for stride, size in zip(s.spec.strides, s.spec.kernel_spatial, strict=True))


BFLOAT16 = (
    Rule(
        lambda s: s.is_conv and not s.swapped and _first_layer(s),
        ("im2col",),
        "bfloat16 matrix products are fast here, and the columns of a first layer small",
    ),
    Rule(
        lambda s: s.is_wgrad and _first_layer(s),
        ("im2col_wgrad",),
        "bfloat16 matrix products are fast here, and the columns of a first layer small",
    ),
    Rule(
        lambda s: s.is_conv and (_weights_outweigh_columns(s) or _wide_strides(s)),
        ("im2col",),
        "bfloat16 matrix products are fast here: columns are worth their copies",
    ),
    Rule(
        lambda s: s.is_unstrided_conv and not s.swapped and s.group_in >= 2 * s.group_out and s.out_pixels >= PIXELS,
        ("col2im",),
        "bfloat16 matrix products are fast here: one to all taps, and their sum",
    ),
    Rule(
        lambda s: s.is_unstrided_conv and s.taps <= A_FEW_TAPS and s.group_out >= 2 * s.group_in >= BROAD
        and s.out_pixels >= (SQUARE if s.images > MANY_IMAGES else PIXELS),
        ("im2col",),
        "bfloat16 matrix products are fast here: columns are worth their copies",
    ),
    Rule(
        lambda s: s.is_unstrided_conv and thinner(s) >= BROAD and (s.out_pixels >= SQUARE or thinner(s) >= THICK),
        ("split_im2col",),
        "bfloat16 matrix products are fast here: one of the windows along one axis to the taps along the other",
    ),
    Rule(
        lambda s: s.is_wgrad and max(s.group_in, s.group_out) <= FEW and s.taps > FEW_TAPS,
        ("split_im2col_wgrad",),
        "bfloat16 matrix products are fast here: one of the windows along one axis of x and along the other of the cotangent",
    ),
    Rule(
        lambda s: s.is_wgrad and (_few_columns(s) or s.w > OUTWEIGHS * (s.x + s.y) or _windows_are_apart(s)),
        ("im2col_wgrad",),
        "bfloat16 matrix products are fast here: columns are worth their copies",
    ),
    Rule(
        lambda s: s.is_wgrad and thinner(s) >= BROAD // 2 and (s.out_pixels >= PIXELS or thinner(s) >= THICK),
        ("split_im2col_wgrad",),
        "bfloat16 matrix products are fast here: one of the windows along one axis of x and along the other of the cotangent",
    ),
)  # fmt: skip
