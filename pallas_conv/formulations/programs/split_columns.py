"""Many channels of an image: columns of the taps along W only, and a result, or a cotangent, for each tap along H."""

import dataclasses
import itertools
from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax

from ...spec import ConvSpec
from ..formulation import Cost, Formulation, How
from ..sizes import Sizes
from .columns import columns
from .matmuls import multiply
from .windows import stacked_windows


def split_im2col(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A 2-D convolution without strides, with half of its taps in the columns. x once for each tap along W, (C kw, rows of x),
    gives a result for each tap along H, (kh O, rows of x), and those are added, each shifted by its tap. Columns of all taps
    would be kh kw copies of x; this writes kw copies of x and kh of y.
    """
    n, o, kh, dh = x.shape[0], w.shape[0], spec.kernel_spatial[0], spec.kernel_dilation[0]
    oh, ow = spec.out_spatial
    beside = columns(x, _row_by_row(spec, spec.in_spatial[0], spec.padding[0]))
    # Row by row of w: XLA takes three times as long to transpose it.
    kernel = jnp.concatenate([w[:, :, i].reshape(o, -1) for i in range(kh)])
    z = multiply(kernel[None], beside, how).reshape(n, kh, o, -1, ow)
    rows = lambda i: lax.slice_in_dim(z[:, i], i * dh, i * dh + oh, axis=2)
    return sum((rows(i) for i in range(1, kh)), rows(0))


def split_im2col_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The weight gradient of a 2-D convolution in that way: ct once for each tap along H, (kh O, rows of x), times x once for
    each tap along W, (C kw, rows of x), summed over the rows.

    Not all rows of x are met by all taps: some meet padding near an edge, and with a stride of s each meets every s-th row. So
    there is one product for each set of rows that the same taps meet. Filled up with zeros they would be one product, but a
    zero times a NaN is a NaN that stock does not have.
    """
    (kh, kw), c, o = spec.kernel_spatial, x.shape[1], ct.shape[1]
    x, ct = x.swapaxes(0, 1), ct.swapaxes(0, 1)
    of_tap: list[list[Array]] = [[] for _ in range(kh)]
    for rows, starts in _rows_met_by_the_same_taps(spec):
        of_x = stacked_windows(x[:, :, rows.start : rows.stop : rows.step], _row_by_row(spec, len(rows), (0, 0)), 1)
        of_ct = jnp.stack([lax.slice_in_dim(ct, start, start + len(rows), axis=2) for start in starts.values()])
        a, b = of_ct.reshape(len(starts) * o, -1), of_x.reshape(c * kw, -1)
        dw = lax.dot_general(a, b, (((1,), (1,)), ((), ())), **how.of_lax)
        for tap, part in zip(starts, dw.reshape(len(starts), o, -1), strict=True):
            of_tap[tap].append(part)
    nothing = jnp.zeros((o, c * kw), how.result_dtype or x.dtype)
    sums = [sum(parts[1:], parts[0]) if parts else nothing for parts in of_tap]
    return jnp.stack(sums, 1).reshape(o, kh, c, kw).swapaxes(1, 2)


def _rows_met_by_the_same_taps(spec: ConvSpec) -> Iterator[tuple[range, dict[int, int]]]:
    """Rows of x, and for each tap along H that meets them the row of ct that it multiplies by the first of them."""
    kh, sh, dh, oh, height = (
        spec.kernel_spatial[0], spec.strides[0], spec.kernel_dilation[0], spec.out_spatial[0], spec.in_spatial[0]
    )  # fmt: skip
    at_first = [tap * dh - spec.padding[0][0] for tap in range(kh)]  # the row of x that a tap multiplies by row 0 of ct
    for phase in sorted({row % sh for row in at_first}):
        every = range(phase, height, sh)
        first = {tap: row // sh for tap, row in enumerate(at_first) if row % sh == phase}  # an index of `every`
        edges = sorted({min(max(row, 0), len(every)) for f in first.values() for row in (f, f + oh)})
        for start, stop in itertools.pairwise(edges):
            met = {tap: start - f for tap, f in first.items() if f <= start and stop <= f + oh}
            if met:
                yield every[start:stop], met


def _row_by_row(spec: ConvSpec, height: int, padding: tuple[int, int]) -> ConvSpec:
    """The geometry of the taps along W alone: each of `height` rows, padded or cropped, gives a row."""
    in_a_row = lambda sizes: (1, *sizes[1:])
    return dataclasses.replace(
        spec,
        strides=in_a_row(spec.strides),
        kernel_dilation=in_a_row(spec.kernel_dilation),
        kernel_spatial=in_a_row(spec.kernel_spatial),
        in_spatial=(height, *spec.in_spatial[1:]),
        padding=(padding, *spec.padding[1:]),
    )


# ---------------------------------------------------------------- conditions and costs


def _splits(s: Sizes) -> bool:
    """Whether there are two dimensions, with several taps along each."""
    return s.spec.ndim == 2 and s.spec.groups == 1 and min(s.spec.kernel_spatial) > 1


def _splits_conv(s: Sizes) -> bool:
    return s.is_unstrided_conv and _splits(s) and s.product.compute_dtype == "bfloat16"


def _splits_wgrad(s: Sizes) -> bool:
    return s.is_wgrad and _splits(s)


def _cost(s: Sizes) -> Cost:
    """A product with x once for each tap along W and y once for each tap along H."""
    kh, kw = s.spec.kernel_spatial
    copies = kw * s.x * s.spec.out_spatial[1] / s.spec.in_spatial[1] + kh * s.y
    return Cost(s.useful_flops, s.x + 2 * copies + s.w + s.y, kh + kw, s.x + s.y + copies)


FORMULATIONS = (
    Formulation("split_im2col", _splits_conv, _cost, fprop=split_im2col, blocks=1, matmul=True),
    Formulation("split_im2col_wgrad", _splits_wgrad, _cost, wgrad=split_im2col_wgrad, blocks=1, matmul=True),
)
