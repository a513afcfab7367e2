"""The convolutions of the platform's library: stock's programs, and the same with operands prepared so that it does less."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ..spec import ConvSpec, dilated
from .canonical import adjoint
from .windows import pad_spatial


@dataclasses.dataclass(frozen=True)
class Window:
    """How the second operand slides over the first; one entry a spatial dimension."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]


def window(role: str, spec: ConvSpec) -> Window:
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


def stock(role: str, a: Array, b: Array, spec: ConvSpec, how: dict[str, Any]) -> Array:
    """What equinox calls, or what lax's own derivative rules make of it."""
    return _PROGRAMS[role](a, b, spec, window(role, spec), how)


def cropped(role: str, a: Array, b: Array, spec: ConvSpec, how: dict[str, Any]) -> Array:
    """Stock's program after a pad of the dimensions that XLA would misread."""
    w = window(role, spec)
    misread = _misread(w)
    a = pad_spatial(a, [p if m else (0, 0) for p, m in zip(w.padding, misread, strict=True)])
    later = tuple((0, 0) if m else p for p, m in zip(w.padding, misread, strict=True))
    return _PROGRAMS[role](a, b, spec, dataclasses.replace(w, padding=later), how)


def misread_on_cpu(role: str, spec: ConvSpec) -> bool:
    """Dimensions cropped before and padded after: seen with jaxlib 0.11.2, in one and two dimensions; gone in 0.12."""
    return any(_misread(window(role, spec)))


def _misread(window: Window) -> list[bool]:
    return [low < 0 < high and d == 1 for (low, high), d in zip(window.padding, window.lhs_dilation, strict=True)]


# ---------------------------------------------------------------- the three programs


def _fprop(x: Array, w: Array, spec: ConvSpec, window: Window, how: dict[str, Any]) -> Array:
    return _convolve(x, w, window, feature_group_count=spec.groups, **how)


def _dgrad(ct: Array, w: Array, spec: ConvSpec, window: Window, how: dict[str, Any]) -> Array:
    """Taps are reversed, channels exchanged within each group."""
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((0, 1, *spatial), (1, 0, *spatial), (0, 1, *spatial))
    w = lax.rev(_exchange_channels(w, spec.groups), spatial)
    return _convolve(ct, w, window, dimension_numbers=exchanged, feature_group_count=spec.groups, **how)


def _wgrad(x: Array, ct: Array, spec: ConvSpec, window: Window, how: dict[str, Any]) -> Array:
    """Channels and batch change places."""
    if math.prod(x.shape) == 0 or math.prod(ct.shape) == 0:
        return jnp.zeros((ct.shape[1], x.shape[1] // spec.groups, *spec.kernel_spatial), x.dtype)
    spatial = tuple(range(2, spec.ndim + 2))
    exchanged = lax.ConvDimensionNumbers((1, 0, *spatial), (1, 0, *spatial), (1, 0, *spatial))
    return _convolve(x, ct, window, dimension_numbers=exchanged, batch_group_count=spec.groups, **how)


_PROGRAMS = {"fprop": _fprop, "dgrad": _dgrad, "wgrad": _wgrad}


def _convolve(lhs: Array, rhs: Array, window: Window, **how: Any) -> Array:
    return lax.conv_general_dilated(lhs, rhs, **vars(window), **how)


def _exchange_channels(w: Array, groups: int) -> Array:
    """(O, C // groups, *kernel) -> (O // groups, C, *kernel)."""
    if groups == 1:
        return w
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return jnp.moveaxis(w, 0, 1).reshape(w.shape[1], groups * w.shape[2], *w.shape[3:])


# ---------------------------------------------------------------- 3-D as 2-D


def depth_to_channels(x: Array, w: Array, spec: ConvSpec, how: dict[str, Any]) -> Array:
    """3-D as one 2-D convolution: taps along the depth become channels, depth becomes batch."""
    flat = _without_depth(spec)
    w = jnp.moveaxis(w, 2, 1).reshape(w.shape[0], -1, *w.shape[3:])
    y = stock("fprop", _depth_taps(x, spec), w, flat, how)
    return jnp.moveaxis(y.reshape(x.shape[0], -1, *y.shape[1:]), 1, 2)


def depth_to_channels_wgrad(x: Array, ct: Array, spec: ConvSpec, how: dict[str, Any]) -> Array:
    flat = _without_depth(spec)
    images = jnp.moveaxis(ct, 2, 1).reshape(-1, ct.shape[1], *ct.shape[3:])
    dw = stock("wgrad", _depth_taps(x, spec), images, flat, how)
    return jnp.moveaxis(dw.reshape(ct.shape[1], spec.kernel_spatial[0], -1, *spec.kernel_spatial[1:]), 1, 2)


def _depth_taps(x: Array, spec: ConvSpec) -> Array:
    """(N, C, D, H, W) -> (N D', taps C, H, W)."""
    x = pad_spatial(x, (spec.padding[0], (0, 0), (0, 0)))
    stride, outs = spec.strides[0], spec.out_spatial[0]
    starts = [t * spec.kernel_dilation[0] for t in range(spec.kernel_spatial[0])]
    x = jnp.concatenate([lax.slice_in_dim(x, a, a + (outs - 1) * stride + 1, stride, 2) for a in starts], 1)
    return jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], *x.shape[3:])


def _without_depth(spec: ConvSpec) -> ConvSpec:
    return ConvSpec(
        spec.strides[1:], spec.padding[1:], spec.input_dilation[1:], spec.kernel_dilation[1:], spec.groups,
        spec.in_spatial[1:], spec.kernel_spatial[1:],
    )  # fmt: skip
