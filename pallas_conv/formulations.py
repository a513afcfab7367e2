"""The three products as lax programs: today, the programs of stock equinox and of lax's own derivative rules."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .spec import ConvSpec, dilated
from .trilinear import BILINEAR, Op, fold_axes, out_shapes, wider

STOCK = "stock"


def stock(role: str, a: Array, b: Array, op: Op, dtype: Any, *, wide_sums: bool) -> Array:
    """fprop(x, w) -> y, dgrad(ct, w) -> x or wgrad(x, ct) -> w, by one `lax.conv_general_dilated`.

    The result has `dtype`. With `wide_sums` nothing is rounded to the compute dtype on the way to a wider one; without, the
    convolution stores its result in the compute dtype, as stock does.

    The derivatives are written out, not taken by `jax.linear_transpose` of the forward product: inside `shard_map` that
    adds a hidden sum over devices.
    """
    names, out = BILINEAR[role]
    (shape,) = out_shapes(op, names, ((out, dtype),), (a.shape, b.shape))
    a, b = (fold_axes(op, name, t).astype(op.compute_dtype) for name, t in zip(names, (a, b), strict=True))
    stored = wider(op.compute_dtype, dtype) if wide_sums else op.compute_dtype

    def one_model(a: Array, b: Array) -> Array:
        return _PROGRAMS[role](
            a,
            b,
            op.spec,
            precision=op.precision,
            preferred_element_type=None if stored == op.compute_dtype else stored,
        )

    y = (jax.vmap(one_model) if op.models else one_model)(a, b)
    return y.astype(dtype).reshape(shape)


def _fprop(x: Array, w: Array, spec: ConvSpec, **how: Any) -> Array:
    return lax.conv_general_dilated(
        x,
        w,
        spec.strides,
        spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.kernel_dilation,
        feature_group_count=spec.groups,
        **how,
    )


def _dgrad(ct: Array, w: Array, spec: ConvSpec, **how: Any) -> Array:
    """Strides and input dilation change places, taps are reversed, channels exchanged within each group."""
    padding = []
    for (low, _), window, size, outs in zip(spec.padding, *_dilated_extents(spec), strict=True):
        before = window - low - 1
        padding.append((before, size + window - 1 - outs - before))
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((0, 1, *spatial), (1, 0, *spatial), (0, 1, *spatial))
    return lax.conv_general_dilated(
        ct,
        lax.rev(_exchange_channels(w, spec.groups), spatial),
        spec.input_dilation,
        padding,
        lhs_dilation=spec.strides,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=exchanged,
        feature_group_count=spec.groups,
        **how,
    )


def _wgrad(x: Array, ct: Array, spec: ConvSpec, **how: Any) -> Array:
    """The cotangent slides over x like a kernel; channels and batch change places."""
    if math.prod(x.shape) == 0 or math.prod(ct.shape) == 0:
        return jnp.zeros((ct.shape[1], x.shape[1] // spec.groups, *spec.kernel_spatial), x.dtype)
    padding = []
    for (low, _), window, size, outs in zip(spec.padding, *_dilated_extents(spec), strict=True):
        padding.append((low, outs - size + window - low - 1))
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((1, 0, *spatial), (1, 0, *spatial), (1, 0, *spatial))
    return lax.conv_general_dilated(
        x,
        ct,
        spec.kernel_dilation,
        padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.strides,
        dimension_numbers=exchanged,
        batch_group_count=spec.groups,
        **how,
    )


_PROGRAMS: dict[str, Callable[..., Array]] = {"fprop": _fprop, "dgrad": _dgrad, "wgrad": _wgrad}


def _dilated_extents(spec: ConvSpec) -> tuple[list[int], list[int], list[int]]:
    """Extents with their holes: of the kernel, of the input, of the output."""
    return (
        [dilated(n, d) for n, d in zip(spec.kernel_spatial, spec.kernel_dilation, strict=True)],
        [dilated(n, d) for n, d in zip(spec.in_spatial, spec.input_dilation, strict=True)],
        [dilated(n, d) for n, d in zip(spec.out_spatial, spec.strides, strict=True)],
    )


def _exchange_channels(w: Array, groups: int) -> Array:
    """(O, C // groups, *kernel) -> (O // groups, C, *kernel)."""
    if groups == 1:
        return w
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return jnp.moveaxis(w, 0, 1).reshape(w.shape[1], groups * w.shape[2], *w.shape[3:])
