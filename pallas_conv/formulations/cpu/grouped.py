"""Rules for grouped convolutions, and for models or examples side by side, which are groups to XLA: it convolves one by one."""

from ..formulation import Rule
from ..programs.multiply_add import MOST_UNROLLED
from ..sizes import Sizes
from .terms import BROAD, FEW, FEW_TAPS, PIXELS, SMALL, strided

A_PAIR = 2  # outputs of a group
LANES = 8  # float32 elements of a vector
LONG = 16  # taps in a row that fill vectors
MANY_TAPS = 40  # that fill vectors, whatever the rows they are in


def _hardly_overlaps(s: Sizes) -> bool:
    """Windows with channels enough for a matrix product, so far apart that a fused loop cannot use the lanes of a vector."""
    enough = s.useful_flops >= SMALL and min(s.group_in, s.group_out) >= FEW
    return enough and max(s.spec.strides) > 2 and s.columns <= 2 * s.x


def _taps_fill_vectors(s: Sizes) -> bool:
    """Whether taps fill vectors better than a row of pixels does: many taps, or a row that is read with a stride."""
    if s.taps < MANY_TAPS:
        apart = strided(s) and s.taps > LANES and s.group_out <= A_PAIR
        return apart and (s.spec.ndim == 3 or s.group_in > 1)
    return s.group_in > 1 or (s.spec.ndim == 3 and s.group_out > 1)


def _short(s: Sizes) -> bool:
    """Long sums for each of a few pixels: no loop over pixels is worth it."""
    return s.group_in > 2 * FEW and min(s.in_pixels, s.out_pixels) < PIXELS


GROUPED = (
    Rule(
        lambda s: s.is_conv and s.taps == 1 and (s.group_in > 1 or strided(s)),
        ("im2col",),
        "a grouped 1x1 convolution is one matrix product a group",
    ),
    Rule(
        lambda s: s.is_conv and s.taps > 1 and _hardly_overlaps(s),
        ("im2col",),
        "windows that hardly overlap: columns, and one matrix product a group",
    ),
    Rule(
        lambda s: s.is_conv and s.taps > 1 and not _short(s),
        ("multiply_add", "multiply_add_rows"),
        "few channels a group: one fused loop, where XLA convolves group by group",
    ),
    Rule(
        lambda s: s.is_transposed and not _short(s) and s.terms > MOST_UNROLLED,
        ("col2im",),
        "an input full of zeros and too many taps for fused loops: one matrix product a group, and its results added up",
    ),
    Rule(
        lambda s: s.is_transposed and not _short(s),
        ("multiply_add_phases", "col2im"),
        "groups and an input full of zeros: only the taps that meet data, output phase by output phase",
    ),
    Rule(
        lambda s: s.is_wgrad and s.group_in <= FEW and s.spec.kernel_spatial[-1] >= LONG and s.spec.kernel_dilation[-1] == 1,
        ("correlate_taps",),
        "long rows of taps: one fused loop over them, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.is_wgrad and s.group_in <= FEW and s.out_pixels > 1 and _taps_fill_vectors(s),
        ("correlate_taps",),
        "few channels a group and many taps, or pixels far apart: one fused loop over taps, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.is_wgrad and s.taps > 1 and s.group_in <= FEW
        and (s.spec.ndim == 2 or (s.group_in == 1 and (s.spec.ndim > 1 or (s.taps > FEW_TAPS and s.spec.groups >= LANES)))),
        ("correlate_rows",),
        "few channels a group: fused loops over blocks of rows, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.is_wgrad and s.spec.ndim == 1 and s.group_in == 1 and s.taps > FEW_TAPS and s.spec.groups >= LANES,
        ("im2col_wgrad",),
        "one channel a group, and taps too far apart for blocks of rows: columns and one matrix product a group",
    ),
    Rule(
        lambda s: s.is_wgrad and s.taps > 1 and s.spec.ndim == 3 and s.group_out <= A_PAIR,
        ("correlate_rows",),
        "one or two outputs a group: fused loops over blocks of rows, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.is_wgrad and s.taps > 1 and s.spec.ndim == 1,
        ("matmul_per_tap", "correlate_rows"),
        "one matrix product a tap and group, where XLA convolves once a group",
    ),
    Rule(
        lambda s: s.is_wgrad,
        ("im2col_wgrad", "matmul_per_tap", "correlate_rows"),
        "one matrix product a group, where XLA convolves once a group",
    ),
)  # fmt: skip

# For models or examples with a kernel or a gradient each, which are groups to XLA. In float64 and complex dtypes, for which it
# has no library, it multiplies zeros between them: 511 tiny gradients take seconds and hundreds of megabytes.
SIDE_BY_SIDE = (
    Rule(
        lambda s: s.is_conv and s.taps > 1,
        ("multiply_add",),
        "a kernel a model and few taps: one fused loop, where XLA convolves group by group",
    ),
    Rule(
        lambda s: s.is_transposed,
        ("col2im", "multiply_add_phases"),
        "a kernel a model and an input full of zeros: only the taps that meet data",
    ),
    Rule(
        lambda s: s.is_conv and s.spec.ndim == 2 and s.taps > 1 and not strided(s) and s.group_out >= BROAD,
        ("im2col",),
        "a kernel a model: columns and one matrix product a model",
    ),
    Rule(
        lambda s: s.is_wgrad and s.spec.ndim < 3 and s.taps > 1 and s.product.batch > 1
        and min(s.group_in, s.group_out) >= BROAD // 2,
        ("matmul_per_tap",),
        "a gradient a model: one matrix product a tap and model",
    ),
    Rule(
        lambda s: s.is_wgrad and (s.product.batch == 1 or s.group_in <= FEW < s.group_out),
        ("im2col_wgrad",),
        "a gradient an example is a matrix product an example",
    ),
)  # fmt: skip
