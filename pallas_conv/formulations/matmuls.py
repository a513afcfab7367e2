"""Many channels a group: columns of windows and matrix products, one a group and image.

Columns are ordered by channel, then tap, so that neither w nor dw is transposed. A product over tiny images folds the batch
into the pixels: transposing activations is cheaper there than a copy of w for every image.
"""

import math

import jax.numpy as jnp
from jax import Array, lax

from ..spec import ConvSpec
from .how import How
from .windows import interleave, made_of, pad_spatial, phase_shape, phases, tap_window, tap_windows, taps

WRITTEN_OUT = 8  # windows in one program; more become iterations of a loop, which compiles several times faster


def im2col(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """All windows side by side, then one matrix product (https://hal.science/inria-00112631)."""
    y = _product(w.reshape(spec.groups, w.shape[0] // spec.groups, -1), _columns(x, spec), how)
    return y.reshape(x.shape[0], w.shape[0], *spec.out_spatial)


def im2col_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The matrix product of the cotangent and the columns."""
    return _outer(ct, _columns(x, spec), spec, how).reshape(ct.shape[1], -1, *spec.kernel_spatial)


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
    """An up-sampling convolution: one matrix product to all taps, each tap's result added where it belongs."""
    o, d = w.shape[:2]
    kernel = w.reshape(spec.groups, o // spec.groups, d, -1).swapaxes(2, 3)
    return _scatter(_product(kernel.reshape(spec.groups, -1, d), _grouped(x, spec), how), list(taps(spec)), spec)


def col2im_dgrad(ct: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """The same for an input gradient, with w as it lies: what is summed over comes first, and taps are met in reverse."""
    kernel = w.reshape(spec.groups, w.shape[0] // spec.groups, -1)
    return _scatter(_product(kernel, _grouped(ct, spec), how, summed=1), list(taps(spec))[::-1], spec)


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
    x, count = pad_spatial(x, spec.padding), math.prod(spec.kernel_spatial)
    if count <= WRITTEN_OUT:
        windows = list(tap_windows(x, spec))
        return _grouped(jnp.stack(windows, 2) if count > 1 else windows[0], spec)
    x = lax.optimization_barrier(x)
    write = lambda i, columns: lax.dynamic_update_slice_in_dim(columns, tap_window(x, spec, i)[:, :, None], i, 2)
    empty = made_of(x, (*x.shape[:2], count, *spec.out_spatial), x.dtype)
    return _grouped(lax.fori_loop(0, count, write, empty), spec)


def _grouped(x: Array, spec: ConvSpec) -> Array:
    """(N, C, ...) -> (N, groups, C // groups * ..., pixels): the last axes are spatial."""
    pixels = math.prod(x.shape[-spec.ndim :])
    return x.reshape(x.shape[0], spec.groups, -1, pixels)


def _product(w: Array, x: Array, how: How, summed: int = 2) -> Array:
    """(G, O, K) times (N, G, K, P) -> (N, G, O, P); or (G, K, O) if it is axis 1 of w that is summed over."""
    n, groups, k, pixels = x.shape
    o = w.shape[3 - summed]
    if n > 1 and o * k > (o + k) * pixels:
        x = jnp.moveaxis(x, 0, 2).reshape(groups, k, n * pixels)
        y = lax.dot_general(w, x, (((summed,), (1,)), ((0,), (0,))), **how.of_lax)
        return jnp.moveaxis(y.reshape(groups, o, n, pixels), 2, 0)
    w = jnp.broadcast_to(w, (n, *w.shape))
    return lax.dot_general(w, x, (((summed + 1,), (2,)), ((0, 1), (0, 1))), **how.of_lax)


def _outer(ct: Array, x: Array, spec: ConvSpec, how: How) -> Array:
    """ct times (N, G, K, P) summed over images and pixels: (G, O // G, K)."""
    ct = _grouped(ct, spec)
    n, _, k, pixels = x.shape
    if n > 1 and ct.shape[2] * k > (ct.shape[2] + k) * pixels:
        a, b = (jnp.moveaxis(t, 0, 2).reshape(*t.shape[1:3], -1) for t in (ct, x))
        return lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))), **how.of_lax)
    return lax.dot_general(ct, x, (((3,), (3,)), ((0, 1), (0, 1))), **how.of_lax).sum(0)
