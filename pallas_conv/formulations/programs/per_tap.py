"""Many channels a group: matrix products from every tap's window, or to every tap's result, and no columns."""

import math

import jax.numpy as jnp
from jax import Array, lax

from ...spec import ConvSpec
from ..formulation import Cost, Formulation, How
from ..sizes import Sizes
from .matmuls import MOST_MATMULS, copies_of_w, grouped, multiply, outer
from .windows import (
    MOST_PHASES,
    WRITTEN_OUT,
    interleave,
    pad_spatial,
    phase_shape,
    phases,
    tap_window,
    tap_windows,
    taps,
)

MOST_SUMMED = 16  # taps whose results are rounded before they are added


def matmul_per_tap(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """A weight gradient tap by tap: no memory for columns."""
    x, count = pad_spatial(x, spec.padding), math.prod(spec.kernel_spatial)
    if count <= WRITTEN_OUT:
        dw = jnp.stack([outer(ct, grouped(a, spec), spec, how) for a in tap_windows(x, spec)], -1)
    else:
        x = lax.optimization_barrier(x)
        of_tap = lambda i: outer(ct, grouped(tap_window(x, spec, i), spec), spec, how)
        dw = jnp.moveaxis(lax.map(of_tap, jnp.arange(count)), 0, -1)
    return dw.reshape(ct.shape[1], -1, *spec.kernel_spatial)


def col2im(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A convolution without strides: one matrix product to all taps, each tap's result added where it belongs. With input
    dilation no zero is multiplied; without, it is known as kn2row (https://arxiv.org/abs/1709.03395)."""
    o, d = w.shape[:2]
    kernel = w.reshape(spec.groups, o // spec.groups, d, -1).swapaxes(2, 3)
    return _scatter(multiply(kernel.reshape(spec.groups, -1, d), grouped(x, spec), how), list(taps(spec)), spec)


def col2im_dgrad(ct: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """The same for an input gradient, with w as it lies: what is summed over comes first, and taps are met in reverse.

    But for bfloat16, whose fast instructions want it last.
    """
    kernel, summed = w.reshape(spec.groups, w.shape[0] // spec.groups, -1), 1
    if ct.dtype == jnp.bfloat16:
        kernel, summed = lax.optimization_barrier(kernel.swapaxes(1, 2)), 2
    return _scatter(multiply(kernel, grouped(ct, spec), how, summed), list(taps(spec))[::-1], spec)


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


# ---------------------------------------------------------------- conditions and costs


def _several_taps(s: Sizes) -> bool:
    return s.is_wgrad and 1 < s.taps <= MOST_MATMULS


def _several_taps_cost(s: Sizes) -> Cost:
    return Cost(s.useful_flops, 2 * s.columns + s.taps * s.y + s.w, 2 * s.taps, s.x + s.columns + copies_of_w(s))


def _scatters(s: Sizes) -> bool:
    return (s.is_transposed and s.taps <= MOST_MATMULS and s.phases <= MOST_PHASES) or _few_are_summed(s)


def _few_are_summed(s: Sizes) -> bool:
    """A convolution without groups or strides, of so few taps that adding up their rounded results costs no accuracy."""
    return s.is_unstrided_conv and s.spec.groups == 1 and s.taps <= MOST_SUMMED


def _scatter_cost(s: Sizes) -> Cost:
    """The cost: every tap's result is written before they are added up."""
    results = float(s.itemsize) * s.images * s.product.out_channels * s.taps * s.in_pixels
    return Cost(s.useful_flops, s.x + s.w + 2 * results + 3 * s.y, s.taps, results + s.y + copies_of_w(s))


FORMULATIONS = (
    Formulation("matmul_per_tap", _several_taps, _several_taps_cost, wgrad=matmul_per_tap, blocks=1, matmul=True),
    Formulation("col2im", _scatters, _scatter_cost, fprop=col2im, dgrad=col2im_dgrad, blocks=1, matmul=True),
)
