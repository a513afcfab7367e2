"""Stock's programs: the convolutions of the platform's library."""

import dataclasses
import math

import jax.numpy as jnp
from jax import Array, lax
from jax.lax import conv_general_dilated  # by name, and so out of reach of `pallas_conv.lax.patched`

from ...spec import ConvSpec, dilated
from ..canonical import adjoint
from ..formulation import How
from .windows import pad_spatial

NARROW = 4  # channels that XLA's CPU compiler convolves faster by a naive loop than by its library


@dataclasses.dataclass(frozen=True)
class Window:
    """The way that the second operand slides over the first. Tuples have one entry a spatial dimension."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]


def window(role: str, spec: ConvSpec) -> Window:
    """The window of each product, by the rules of lax's derivatives."""
    if role == "dgrad":
        role, spec = "fprop", adjoint(spec)
    if role == "fprop":
        return Window(spec.strides, spec.padding, spec.input_dilation, spec.kernel_dilation)
    # The cotangent slides over x like a kernel, as far apart as the taps are: strides and kernel dilation change places.
    padding = []
    for i, (low, _) in enumerate(spec.padding):
        size, outs = dilated(spec.in_spatial[i], spec.input_dilation[i]), dilated(spec.out_spatial[i], spec.strides[i])
        padding.append((low, outs - size + dilated(spec.kernel_spatial[i], spec.kernel_dilation[i]) - low - 1))
    return Window(spec.kernel_dilation, tuple(padding), spec.input_dilation, spec.strides)


def stock(role: str, a: Array, b: Array, spec: ConvSpec, how: How) -> Array:
    """The program that equinox calls, or that lax's own derivative rules make of it."""
    return _PROGRAMS[role](a, b, spec, window(role, spec), how)


def cropped(role: str, a: Array, b: Array, spec: ConvSpec, how: How) -> Array:
    """Stock's program after a pad of the dimensions that XLA would misread on a CPU, if there are any."""
    w = window(role, spec)
    misread = _misread(w)
    a = pad_spatial(a, [p if m else (0, 0) for p, m in zip(w.padding, misread, strict=True)])
    later = tuple((0, 0) if m else p for p, m in zip(w.padding, misread, strict=True))
    return _PROGRAMS[role](a, b, spec, dataclasses.replace(w, padding=later), how)


def misread_on_cpu(role: str, spec: ConvSpec) -> bool:
    """Whether XLA's CPU convolution reads out of bounds: where a dimension is cropped before and padded after. Seen with
    jaxlib 0.11.2 in one and two dimensions; gone in 0.12.
    """
    return any(_misread(window(role, spec)))


def _misread(window: Window) -> list[bool]:
    return [low < 0 < high and d == 1 for (low, high), d in zip(window.padding, window.lhs_dilation, strict=True)]


# ---------------------------------------------------------------- the three programs


def _fprop(x: Array, w: Array, spec: ConvSpec, window: Window, how: How) -> Array:
    spatial = tuple(range(2, spec.ndim + 2))
    same = (0, 1, *spatial)
    return convolve(x, w, window, lax.ConvDimensionNumbers(same, same, same), how, feature_group_count=spec.groups)


def _dgrad(ct: Array, w: Array, spec: ConvSpec, window: Window, how: How) -> Array:
    """Taps are reversed, channels exchanged within each group."""
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((0, 1, *spatial), (1, 0, *spatial), (0, 1, *spatial))
    w = lax.rev(_exchange_channels(w, spec.groups), spatial)
    return convolve(ct, w, window, exchanged, how, feature_group_count=spec.groups)


def _wgrad(x: Array, ct: Array, spec: ConvSpec, window: Window, how: How) -> Array:
    """Channels and batch change places."""
    if math.prod(x.shape) == 0 or math.prod(ct.shape) == 0:
        return jnp.zeros((ct.shape[1], x.shape[1] // spec.groups, *spec.kernel_spatial), x.dtype)
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((1, 0, *spatial), (1, 0, *spatial), (1, 0, *spatial))
    return convolve(x, ct, window, exchanged, how, batch_group_count=spec.groups)


_PROGRAMS = {"fprop": _fprop, "dgrad": _dgrad, "wgrad": _wgrad}


def convolve(
    lhs: Array,
    rhs: Array,
    window: Window,
    dims: lax.ConvDimensionNumbers,
    how: How,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
) -> Array:
    """lax's convolution; with `how.channels_last` its operands are transposed to the one form that XLA's CPU compiler sends
    to its library, (N, *S, C) and (*K, C, O) to (N, *T, O).

    XLA brings others into that form by itself, with the same transpositions, but in the entry computation only: in the body
    of a loop or a branch they become naive loops, which is many times slower (https://github.com/jax-ml/jax/issues/12868).
    Nobody knows, while a product is traced, where it will stand. Left as they are: groups of a weight gradient, which would
    sum in another order, and few channels, for which the naive loop is the faster one.
    """
    few_out, few_in = (isinstance(n := rhs.shape[axis], int) and n <= NARROW for axis in dims.rhs_spec[:2])
    narrow = few_in and (few_out or feature_group_count > 1)
    if not how.channels_last or batch_group_count > 1 or narrow:
        return conv_general_dilated(
            lhs, rhs, **vars(window), dimension_numbers=dims, feature_group_count=feature_group_count,
            batch_group_count=batch_group_count, **how.of_lax,
        )  # fmt: skip
    (batch, channels, *spatial), (out, inner, *kernel), result = dims
    last = (0, lhs.ndim - 1, *range(1, lhs.ndim - 1))
    y = conv_general_dilated(
        lhs.transpose(batch, *spatial, channels), rhs.transpose(*kernel, inner, out), **vars(window),
        dimension_numbers=lax.ConvDimensionNumbers(last, (lhs.ndim - 1, lhs.ndim - 2, *range(lhs.ndim - 2)), last),
        feature_group_count=feature_group_count, **how.of_lax,
    )  # fmt: skip
    axis_of_result = (result[0], *result[2:], result[1])  # for each axis of y
    return y.transpose(*(axis_of_result.index(axis) for axis in range(y.ndim)))


def _exchange_channels(w: Array, groups: int) -> Array:
    """(O, C // groups, *kernel) -> (O // groups, C, *kernel)."""
    if groups == 1:
        return w
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return jnp.moveaxis(w, 0, 1).reshape(w.shape[1], groups * w.shape[2], *w.shape[3:])
