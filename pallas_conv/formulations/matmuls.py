"""Many channels a group: columns of windows and matrix products, one a group and image.

Columns are ordered by channel, then tap, so that neither w nor dw is transposed. A product over tiny images folds the batch
into the pixels: transposing activations is cheaper there than a copy of w for every image.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax

from ..spec import ConvSpec
from .how import How
from .windows import interleave, made_of, pad_spatial, phase_shape, phases, tap_window, tap_windows, taps

FOLDED = 3  # times larger than its dw: operands of an image that are transposed, so that one product sums all images
FOLDED_AS_THEY_LIE = 1 / 8  # the same where x is its own columns, which would only be moved for it
WRITTEN_OUT = 8  # windows in one program; more become iterations of a loop, which compiles several times faster


def im2col(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """All windows side by side, then one matrix product (https://hal.science/inria-00112631)."""
    n, o = x.shape[0], w.shape[0]
    several = math.prod(spec.kernel_spatial) > 1
    if spec.groups == 1 and several and _folds(n, o, w.size // o, math.prod(spec.out_spatial)):
        y = lax.dot_general(w.reshape(o, -1), _columns_of_all(x, spec), (((1,), (0,)), ((), ())), **how.of_lax)
        return y.reshape(o, n, *spec.out_spatial).swapaxes(0, 1)
    y = _product(w.reshape(spec.groups, w.shape[0] // spec.groups, -1), _columns(x, spec), how)
    return y.reshape(x.shape[0], w.shape[0], *spec.out_spatial)


def im2col_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The matrix product of the cotangent and the columns."""
    (n, o), k, pixels = ct.shape[:2], x.shape[1] * math.prod(spec.kernel_spatial), math.prod(spec.out_spatial)
    if spec.groups == 1 and _folds(n, o, k, pixels, folded(spec)):
        ct = ct.swapaxes(0, 1).reshape(o, -1)
        dw = lax.dot_general(ct, _columns_of_all(x, spec), (((1,), (1,)), ((), ())), **how.of_lax)
        return dw.reshape(o, -1, *spec.kernel_spatial)
    return _outer(ct, _columns(x, spec), spec, how).reshape(ct.shape[1], -1, *spec.kernel_spatial)


def split_im2col(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A 2-D convolution without strides, with half of its taps in the columns. x once for each tap along W, (C kw, rows of x),
    gives a result for each tap along H, (kh O, rows of x), and those are added, each shifted by its tap. Columns of all taps
    would be kh kw copies of x; this writes kw copies of x and kh of y.
    """
    n, o, kh, dh = x.shape[0], w.shape[0], spec.kernel_spatial[0], spec.kernel_dilation[0]
    oh, ow = spec.out_spatial
    beside = _columns(x, _row_by_row(spec, spec.in_spatial[0], spec.padding[0]))
    kernel = jnp.concatenate(
        [w[:, :, i].reshape(o, -1) for i in range(kh)]
    )  # XLA takes three times as long to transpose w
    z = _product(kernel[None], beside, how).reshape(n, kh, o, -1, ow)
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
        of_x = _windows(x[:, :, rows.start : rows.stop : rows.step], _row_by_row(spec, len(rows), (0, 0)), 1)
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


def matmul_per_tap(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """A weight gradient tap by tap: no memory for columns."""
    x, count = pad_spatial(x, spec.padding), math.prod(spec.kernel_spatial)
    if count <= WRITTEN_OUT:
        dw = jnp.stack([_outer(ct, _grouped(a, spec), spec, how) for a in tap_windows(x, spec)], -1)
    else:
        x = lax.optimization_barrier(x)
        of_tap = lambda i: _outer(ct, _grouped(tap_window(x, spec, i), spec), spec, how)
        dw = jnp.moveaxis(lax.map(of_tap, jnp.arange(count)), 0, -1)
    return dw.reshape(ct.shape[1], -1, *spec.kernel_spatial)


def col2im(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A convolution without strides: one matrix product to all taps, each tap's result added where it belongs. With input
    dilation no zero is multiplied; without, it is known as kn2row (https://arxiv.org/abs/1709.03395)."""
    o, d = w.shape[:2]
    kernel = w.reshape(spec.groups, o // spec.groups, d, -1).swapaxes(2, 3)
    return _scatter(_product(kernel.reshape(spec.groups, -1, d), _grouped(x, spec), how), list(taps(spec)), spec)


def col2im_dgrad(ct: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """The same for an input gradient, with w as it lies: what is summed over comes first, and taps are met in reverse.

    But for bfloat16, whose fast instructions want it last.
    """
    kernel, summed = w.reshape(spec.groups, w.shape[0] // spec.groups, -1), 1
    if ct.dtype == jnp.bfloat16:
        kernel, summed = lax.optimization_barrier(kernel.swapaxes(1, 2)), 2
    return _scatter(_product(kernel, _grouped(ct, spec), how, summed), list(taps(spec))[::-1], spec)


def _scatter(z: Array, order: list[tuple[int, ...]], spec: ConvSpec) -> Array:
    """(N, groups, O / groups * taps, pixels), taps in this order -> (N, O, *out)."""
    z = z.reshape(z.shape[0], -1, len(order), *spec.in_spatial)
    rows, parts = phase_shape(spec), []
    for phase in phases(spec):
        met = jnp.zeros((*z.shape[:2], *rows), z.dtype)
        for i, tap in enumerate(order):
            dims = zip(phase, tap, spec.kernel_dilation, spec.padding, spec.input_dilation, strict=True)
            offsets = [(r + t * d - low, u) for r, t, d, (low, _), u in dims]
            if all(offset % u == 0 for offset, u in offsets):
                first = [offset // u for offset, u in offsets]
                ends = zip(first, rows, spec.in_spatial, strict=True)
                met += pad_spatial(z[:, :, i], [(-a, n - size + a) for a, n, size in ends])
        parts.append(met)
    return interleave(parts, spec)


def _columns(x: Array, spec: ConvSpec) -> Array:
    """(N, groups, C // groups * taps, pixels)."""
    return _grouped(_windows(x, spec, 2), spec)


def _columns_of_all(x: Array, spec: ConvSpec) -> Array:
    """(C * taps, N * pixels), without groups: of x with the batch beside its pixels, which is smaller than the columns."""
    x = lax.optimization_barrier(x.swapaxes(0, 1))
    return _windows(x, spec, 1).reshape(x.shape[0] * math.prod(spec.kernel_spatial), -1)


def _windows(x: Array, spec: ConvSpec, axis: int) -> Array:
    """(a, b, *in) -> (a, b, *out) for each tap, side by side along a new axis."""
    x, count = pad_spatial(x, spec.padding), math.prod(spec.kernel_spatial)
    if count <= WRITTEN_OUT:
        return jnp.stack(list(tap_windows(x, spec)), axis)
    x = lax.optimization_barrier(x)
    window = lambda i: jnp.expand_dims(tap_window(x, spec, i), axis)
    write = lambda i, columns: lax.dynamic_update_slice_in_dim(columns, window(i), i, axis)
    shape = (*x.shape[:axis], count, *x.shape[axis:2], *spec.out_spatial)
    return lax.fori_loop(0, count, write, made_of(x, shape, x.dtype))


def folded(spec: ConvSpec) -> float:
    """From which size of dw a weight gradient folds the batch into the pixels."""
    return FOLDED_AS_THEY_LIE if spec.groups == math.prod(spec.kernel_spatial) == 1 else FOLDED


def _folds(n: int, o: int, k: int, pixels: int, times: float = 1) -> bool:
    """Whether one product of all images copies less than one an image, with a w of (o, k) each."""
    return n > 1 and times * o * k > (o + k) * pixels


def _grouped(x: Array, spec: ConvSpec) -> Array:
    """(N, C, ...) -> (N, groups, C // groups * ..., pixels): the last axes are spatial."""
    pixels = math.prod(x.shape[-spec.ndim :])
    return x.reshape(x.shape[0], spec.groups, -1, pixels)


def _product(w: Array, x: Array, how: How, summed: int = 2) -> Array:
    """(G, O, K) times (N, G, K, P) -> (N, G, O, P); or (G, K, O) if it is axis 1 of w that is summed over."""
    n, groups, k, pixels = x.shape
    o = w.shape[3 - summed]
    if _folds(n, o, k, pixels):
        if groups == 1:  # a product of channels last, whose layout XLA chooses
            y = lax.dot_general(x[:, 0], w[0], (((1,), (summed - 1,)), ((), ())), **how.of_lax)
            return y.swapaxes(1, 2)[:, None]
        x = jnp.moveaxis(x, 0, 2).reshape(groups, k, n * pixels)
        y = lax.dot_general(w, x, (((summed,), (1,)), ((0,), (0,))), **how.of_lax)
        return jnp.moveaxis(y.reshape(groups, o, n, pixels), 2, 0)
    w = jnp.broadcast_to(w, (n, *w.shape))
    return lax.dot_general(w, x, (((summed + 1,), (2,)), ((0, 1), (0, 1))), **how.of_lax)


def _outer(ct: Array, x: Array, spec: ConvSpec, how: How) -> Array:
    """ct times (N, G, K, P) summed over images and pixels: (G, O // G, K)."""
    ct = _grouped(ct, spec)
    n, _, k, pixels = x.shape
    if _folds(n, ct.shape[2], k, pixels, folded(spec)):
        a, b = (jnp.moveaxis(t, 0, 2).reshape(*t.shape[1:3], -1) for t in (ct, x))
        return lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))), **how.of_lax)
    return lax.dot_general(ct, x, (((3,), (3,)), ((0, 1), (0, 1))), **how.of_lax).sum(0)
