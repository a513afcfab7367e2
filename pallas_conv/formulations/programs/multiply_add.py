"""Few channels a group: a forward sum as one fused loop of multiply-adds, no matrix product and no copy but the padding.

A depthwise product reads its operands once and has little arithmetic, so what counts is that XLA makes one vectorised loop of
it. It does that by itself if the sum is written as one over taps; weight gradients take more, see `correlate`. These programs
take `how` because all do: elements are multiplied in one way only.
"""

import dataclasses
import itertools
import operator

import jax.numpy as jnp
from jax import Array, lax

from ...spec import ConvSpec
from ..formulation import Cost, Formulation, How
from ..sizes import Sizes
from .windows import MOST_PHASES, by_phases, made_of, pad_spatial

MOST_UNROLLED = 128  # multiply-adds in one loop body
VERY_FEW = 4  # channels of a group, in a loop over them that writes its sums to memory


def multiply_add(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """y = sum over taps and channels of a group of window * w[tap].

    Each row of taps has a sum of its own, so that they need not wait for one another. Two slices a term and no other change of
    shape: the length of the program is what takes the compiler's time.
    """
    groups, n, (o, d) = spec.groups, x.shape[0], w.shape[:2]
    x = lax.optimization_barrier(pad_spatial(x, spec.padding))  # else the loop asks of every tap whether it is padding
    x = x.reshape(n, groups, 1, d, *x.shape[2:])
    w = w.reshape(1, groups, o // groups, d, *spec.kernel_spatial)
    size = [(k - 1) * s + 1 for k, s in zip(spec.out_spatial, spec.strides, strict=True)]

    def term(channel: int, *tap: int) -> Array:
        start = [t * dilation for t, dilation in zip(tap, spec.kernel_dilation, strict=True)]
        stop = map(operator.add, start, size)
        window = lax.slice(
            x, (0, 0, 0, channel, *start), (n, groups, 1, channel + 1, *stop), (1, 1, 1, 1, *spec.strides)
        )
        weight = lax.slice(w, (0, 0, 0, channel, *tap), (*w.shape[:3], channel + 1, *(t + 1 for t in tap)))
        return window * weight

    *rows, last = (d, *spec.kernel_spatial)
    sums = (sum(term(*row, t) for t in range(last)) for row in itertools.product(*map(range, rows)))
    return jnp.asarray(sum(sums)).reshape(n, o, *spec.out_spatial)


def multiply_add_rows(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """The same with a loop over the channels of a group and the first dimension of the kernel: any kernel size, little code."""
    groups, n, (o, d) = spec.groups, x.shape[0], w.shape[:2]
    x = lax.optimization_barrier(pad_spatial(x, spec.padding))
    x, w = x.reshape(n, groups, d, *x.shape[2:]), w.reshape(groups, o // groups, *w.shape[1:])
    height = (spec.out_spatial[0] - 1) * spec.strides[0] + 1
    part = dataclasses.replace(
        spec,
        padding=((0, 0),) * spec.ndim,
        in_spatial=(height, *x.shape[4:]),
        kernel_spatial=(1, *spec.kernel_spatial[1:]),
    )

    def add(i: Array, y: Array) -> Array:
        row, channel = i // d, i % d
        of_x = lax.dynamic_slice_in_dim(x, channel, 1, 2)
        of_x = lax.dynamic_slice_in_dim(of_x, row * spec.kernel_dilation[0], height, 3)
        of_w = lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(w, channel, 1, 2), row, 1, 3)
        of_x, of_w = of_x.reshape(n, groups, *part.in_spatial), of_w.reshape(o, 1, *part.kernel_spatial)
        return jnp.where(i > 0, y, 0) + multiply_add(of_x, of_w, part, how)

    return lax.fori_loop(0, spec.kernel_spatial[0] * d, add, made_of(x, (n, o, *spec.out_spatial), x.dtype))


def multiply_add_phases(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A transposed convolution: a loop of its own for every output phase, with only the taps that meet data."""
    return by_phases(lambda x, w, spec: multiply_add(x, w, spec, how), x, w, spec)


# ---------------------------------------------------------------- conditions and costs


def _unrolled(s: Sizes) -> bool:
    return s.is_conv and s.terms <= MOST_UNROLLED


def _unrolled_cost(s: Sizes) -> Cost:
    return Cost(s.useful_flops, 2 * s.x + s.w + s.y, s.terms, s.x)


def _unrolled_rows(s: Sizes) -> bool:
    """Whether there are few channels, and several rows of taps, one of which can be written out."""
    rows = s.spec.kernel_spatial[0]
    several = s.spec.ndim > 1 and rows > 1
    return s.is_conv and several and s.group_in <= VERY_FEW and s.taps // rows <= MOST_UNROLLED


def _unrolled_rows_cost(s: Sizes) -> Cost:
    """The cost: a channel of x is read, and y written, once for each row of taps and channel of a group."""
    rows = s.spec.kernel_spatial[0]
    return Cost(
        s.useful_flops,
        rows * (2 * s.x + 2 * s.group_in * s.y) + s.w,
        s.taps // rows,
        s.x + s.x / s.group_in + 2 * s.y,
    )


def _unrolled_phases(s: Sizes) -> bool:
    without_holes = max(s.spec.kernel_dilation) == 1
    return s.is_transposed and without_holes and s.terms <= 2 * MOST_UNROLLED and s.phases <= MOST_PHASES


def _unrolled_phases_cost(s: Sizes) -> Cost:
    return Cost(s.useful_flops, 2 * s.x + s.w + 3 * s.y, s.terms, s.x + s.y)


FORMULATIONS = (
    Formulation("multiply_add", _unrolled, _unrolled_cost, fprop=multiply_add, loop=True, blocks=4),
    Formulation("multiply_add_rows", _unrolled_rows, _unrolled_rows_cost, fprop=multiply_add_rows, loop=True, blocks=4),
    Formulation(
        "multiply_add_phases", _unrolled_phases, _unrolled_phases_cost, fprop=multiply_add_phases, loop=True, blocks=4
    ),
)
