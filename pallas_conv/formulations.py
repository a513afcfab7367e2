"""The three products as lax programs: today, the programs of stock equinox and of lax's own derivative rules."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .spec import ConvSpec, Product, dilated
from .target import Target
from .trilinear import BILINEAR, Op, fold_axes, out_shapes, wider

STOCK = "stock"
CROPPED = "cropped"  # stock's program, after a pad of the dimensions that XLA would misread


def choose(product: Product, target: Target) -> tuple[str, str]:
    """The formulation that `auto` takes where no kernel runs, and why."""
    if target.platform == "cpu" and any(_misread_by_xla(_WINDOWS[product.role](product.spec))):
        return (
            CROPPED,
            "XLA's CPU convolution reads out of bounds where one dimension is cropped before and padded after",
        )
    return STOCK, "no faster program is known here"


def contract(formulation: str, role: str, a: Array, b: Array, op: Op, dtype: Any, *, wide_sums: bool) -> Array:
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
        window = _WINDOWS[role](op.spec)
        if formulation == CROPPED:
            a, window = _pad_beforehand(a, window)
        how = {"precision": op.precision, "preferred_element_type": None if stored == op.compute_dtype else stored}
        return _PROGRAMS[role](a, b, op.spec, window, how)

    y = (jax.vmap(one_model) if op.models else one_model)(a, b)
    return y.astype(dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class _Window:
    """How the second operand slides over the first; one entry a spatial dimension."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]


# ---------------------------------------------------------------- the three windows


def _fprop_window(spec: ConvSpec) -> _Window:
    return _Window(spec.strides, spec.padding, spec.input_dilation, spec.kernel_dilation)


def _dgrad_window(spec: ConvSpec) -> _Window:
    """Strides and input dilation change places."""
    padding = []
    for (low, _), window, size, outs in zip(spec.padding, *_dilated_extents(spec), strict=True):
        before = window - low - 1
        padding.append((before, size + window - 1 - outs - before))
    return _Window(spec.input_dilation, tuple(padding), spec.strides, spec.kernel_dilation)


def _wgrad_window(spec: ConvSpec) -> _Window:
    """The cotangent slides over x like a kernel, as far apart as the taps are."""
    padding = []
    for (low, _), window, size, outs in zip(spec.padding, *_dilated_extents(spec), strict=True):
        padding.append((low, outs - size + window - low - 1))
    return _Window(spec.kernel_dilation, tuple(padding), spec.input_dilation, spec.strides)


_WINDOWS: dict[str, Callable[[ConvSpec], _Window]] = {
    "fprop": _fprop_window,
    "dgrad": _dgrad_window,
    "wgrad": _wgrad_window,
}


def _dilated_extents(spec: ConvSpec) -> tuple[list[int], list[int], list[int]]:
    """Extents with their holes: of the kernel, of the input, of the output."""
    return (
        [dilated(n, d) for n, d in zip(spec.kernel_spatial, spec.kernel_dilation, strict=True)],
        [dilated(n, d) for n, d in zip(spec.in_spatial, spec.input_dilation, strict=True)],
        [dilated(n, d) for n, d in zip(spec.out_spatial, spec.strides, strict=True)],
    )


def _misread_by_xla(window: _Window) -> list[bool]:
    """Dimensions cropped before and padded after: seen with jaxlib 0.11.2, in one and two dimensions; gone in 0.12."""
    return [low < 0 < high and d == 1 for (low, high), d in zip(window.padding, window.lhs_dilation, strict=True)]


def _pad_beforehand(a: Array, window: _Window) -> tuple[Array, _Window]:
    """The padding of those dimensions in memory, the rest left to the convolution."""
    misread = _misread_by_xla(window)
    now = [(*p, 0) if m else (0, 0, 0) for p, m in zip(window.padding, misread, strict=True)]
    later = tuple((0, 0) if m else p for p, m in zip(window.padding, misread, strict=True))
    a = lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), (0, 0, 0), *now])
    return a, dataclasses.replace(window, padding=later)


# ---------------------------------------------------------------- the three programs


def _fprop(x: Array, w: Array, spec: ConvSpec, window: _Window, how: dict[str, Any]) -> Array:
    return _convolve(x, w, window, feature_group_count=spec.groups, **how)


def _dgrad(ct: Array, w: Array, spec: ConvSpec, window: _Window, how: dict[str, Any]) -> Array:
    """Taps are reversed, channels exchanged within each group."""
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((0, 1, *spatial), (1, 0, *spatial), (0, 1, *spatial))
    w = lax.rev(_exchange_channels(w, spec.groups), spatial)
    return _convolve(ct, w, window, dimension_numbers=exchanged, feature_group_count=spec.groups, **how)


def _wgrad(x: Array, ct: Array, spec: ConvSpec, window: _Window, how: dict[str, Any]) -> Array:
    """Channels and batch change places."""
    if math.prod(x.shape) == 0 or math.prod(ct.shape) == 0:
        return jnp.zeros((ct.shape[1], x.shape[1] // spec.groups, *spec.kernel_spatial), x.dtype)
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((1, 0, *spatial), (1, 0, *spatial), (1, 0, *spatial))
    return _convolve(x, ct, window, dimension_numbers=exchanged, batch_group_count=spec.groups, **how)


_PROGRAMS: dict[str, Callable[..., Array]] = {"fprop": _fprop, "dgrad": _dgrad, "wgrad": _wgrad}


def _convolve(lhs: Array, rhs: Array, window: _Window, **how: Any) -> Array:
    return lax.conv_general_dilated(lhs, rhs, **vars(window), **how)


def _exchange_channels(w: Array, groups: int) -> Array:
    """(O, C // groups, *kernel) -> (O // groups, C, *kernel)."""
    if groups == 1:
        return w
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return jnp.moveaxis(w, 0, 1).reshape(w.shape[1], groups * w.shape[2], *w.shape[3:])
