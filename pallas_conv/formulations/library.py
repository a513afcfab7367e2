"""The convolutions of the platform's library: stock's programs, and the same with operands prepared so that it does less."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax
from jax.lax import conv_general_dilated  # by name, and so out of reach of `pallas_conv.lax.patched`

from ..spec import ConvSpec, dilated
from .canonical import adjoint
from .how import How
from .windows import pad_spatial

SLAB = 24e6  # bytes of a volume, once for each tap along its depth, that are convolved at a time
NARROW = 4  # channels that XLA's CPU compiler convolves faster by a naive loop than by its library
MOST_SLABS = 16  # written out in a program


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


def stock(role: str, a: Array, b: Array, spec: ConvSpec, how: How) -> Array:
    """What equinox calls, or what lax's own derivative rules make of it."""
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


# ---------------------------------------------------------------- what a GPU's compiler recognises


def reversed_kernel(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """An up-sampling convolution with a kernel that XLA can see is reversed, which it takes for its library's input gradient.

    Otherwise it fills the input with zeros. The barrier keeps it from cancelling the two reversals.
    """
    spatial = tuple(range(2, w.ndim))
    w = lax.rev(lax.optimization_barrier(lax.rev(w, spatial)), spatial)
    return cropped("fprop", x, w, spec, how)


def exchanged(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The weight gradient of an up-sampling convolution as that of the convolution it goes against, see `canonical`."""
    return cropped("wgrad", x, ct, spec, how)


def exchanged_padded(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The same where padding is uneven, padded first: the input gradient needs the same copy, and so there is only one."""
    return exchanged(*_padded_first(x, ct, spec), how)


def padded(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A dilated convolution that is padded unevenly, padded first: XLA would fill the kernel with zeros instead."""
    return stock("fprop", *_padded_first(x, w, spec), how)


def _padded_first(x: Array, other: Array, spec: ConvSpec) -> tuple[Array, Array, ConvSpec]:
    """The operands of a convolution without padding. The barrier keeps XLA from making the pad its padding again."""
    x = lax.optimization_barrier(pad_spatial(x, spec.padding))
    return x, other, dataclasses.replace(spec, padding=((0, 0),) * spec.ndim, in_spatial=x.shape[2:])


def evened(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A strided convolution, padded by `low` on both sides: the outputs are the same, and XLA need not pad a copy first."""
    return stock("fprop", x, w, dataclasses.replace(spec, padding=tuple((low, low) for low, _ in spec.padding)), how)


def extra_row(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A convolution without strides that computes more rows than its input has, and drops them: XLA's CPU compiler then calls
    Eigen's convolution instead of YNNPACK's, which is slower for very many channels.
    """
    (low, high), *others = spec.padding
    more = max(0, spec.in_spatial[0] + 1 - spec.out_spatial[0])
    y = stock("fprop", x, w, dataclasses.replace(spec, padding=((low, high + more), *others)), how)
    return lax.slice_in_dim(y, 0, spec.out_spatial[0], axis=2)


def polyphase_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The weight gradient of a dilated 1-D convolution: a sequence is an image with one column for each residue modulo the
    dilation, along which the kernel has no holes.
    """
    d = spec.kernel_dilation[0]
    x = pad_spatial(x, spec.padding)
    x, ct = (t.reshape(*t.shape[:2], t.shape[2] // d, d) for t in (x, ct))
    one, none = (1, 1), ((0, 0), (0, 0))
    image = ConvSpec(one, none, one, one, spec.groups, x.shape[2:], (*spec.kernel_spatial, 1))
    return stock("wgrad", x, ct, image, how)[..., 0]


# ---------------------------------------------------------------- 3-D as 2-D


def depth_to_channels(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """3-D as one 2-D convolution: taps along the depth become channels, depth becomes batch. Large ones slab by slab."""
    flat = _without_depth(spec)
    w = jnp.moveaxis(w, 2, 1).reshape(w.shape[0], -1, *w.shape[3:])
    slabs: list[Array] = []
    for rows in depth_slabs(x.nbytes, spec):
        if slabs:
            x, slabs[-1] = lax.optimization_barrier((x, slabs[-1]))  # one slab after the other, in the same memory
        y = cropped("fprop", _depth_taps(x, spec, rows), w, flat, how)
        slabs.append(jnp.moveaxis(y.reshape(x.shape[0], -1, *y.shape[1:]), 1, 2))
    return jnp.concatenate(slabs, 2)


def depth_to_channels_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    flat = _without_depth(spec)
    dw: Array | None = None
    for rows in depth_slabs(x.nbytes, spec):
        if dw is not None:
            x, ct, dw = lax.optimization_barrier((x, ct, dw))
        part = cropped(
            "wgrad", _depth_taps(x, spec, rows), _depth_to_batch(ct[:, :, rows.start : rows.stop]), flat, how
        )
        dw = part if dw is None else dw + part
    assert dw is not None
    return _with_depth(dw, spec)


def depth_to_batch_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The same for a GPU: all at once, with the taps of the depth in the channels of the smaller operand where that can be."""
    if not taps_in_cotangent(spec, x.shape[1], ct.shape[1]):
        taps = _depth_taps(x, spec, range(spec.out_spatial[0]))
        dw = cropped("wgrad", taps, _depth_to_batch(ct), _without_depth(spec), how)
        return _with_depth(dw, spec)
    firsts = [spec.padding[0][0] - t * spec.kernel_dilation[0] for t in range(spec.kernel_spatial[0])]
    taps = _depth_to_batch(_shifted_along_depth(ct, firsts, x.shape[2]))
    dw = cropped("wgrad", _depth_to_batch(x), taps, _without_depth(spec), how)
    return jnp.moveaxis(dw.reshape(spec.kernel_spatial[0], ct.shape[1], x.shape[1], *spec.kernel_spatial[1:]), 0, 2)


def _with_depth(dw: Array, spec: ConvSpec) -> Array:
    """(O, taps * C, *kernel[1:]) -> (O, C, *kernel)."""
    return jnp.moveaxis(dw.reshape(dw.shape[0], spec.kernel_spatial[0], -1, *spec.kernel_spatial[1:]), 1, 2)


def taps_in_cotangent(spec: ConvSpec, in_channels: int, out_channels: int) -> bool:
    """Whether the weight gradient above repeats the cotangent rather than x."""
    return spec.strides[0] == 1 and out_channels * spec.in_spatial[0] < in_channels * spec.out_spatial[0]


def depth_slabs(nbytes: float, spec: ConvSpec) -> list[range]:
    """The rows of depth of the output in parts, each with about SLAB bytes of an input of so many bytes."""
    outs = spec.out_spatial[0]
    nbytes *= spec.kernel_spatial[0] * outs / max(1, spec.in_spatial[0])
    parts = min(outs, MOST_SLABS, round(nbytes / SLAB)) if nbytes > 1.5 * SLAB else 1
    rows = math.ceil(outs / parts)
    return [range(first, min(first + rows, outs)) for first in range(0, outs, rows)]


def _depth_taps(x: Array, spec: ConvSpec, rows: range) -> Array:
    """(N, C, D, H, W) -> (N len(rows), taps C, H, W): what each tap of the depth reads for these rows of the output."""
    stride, (low, _) = spec.strides[0], spec.padding[0]
    firsts = [rows.start * stride + t * spec.kernel_dilation[0] - low for t in range(spec.kernel_spatial[0])]
    return _depth_to_batch(_shifted_along_depth(x, firsts, len(rows), stride))


def _shifted_along_depth(t: Array, firsts: Sequence[int], count: int, stride: int = 1) -> Array:
    """(N, C, D, H, W) -> (N, len(firsts) C, count, H, W): so many slices from each of these on, zeros where there are none."""
    shifted = []
    for first in firsts:
        last = first + (count - 1) * stride
        padded = pad_spatial(t, ((-first, last + 1 - t.shape[2]), (0, 0), (0, 0)))
        shifted.append(lax.slice_in_dim(padded, 0, None, stride, 2))
    return jnp.concatenate(shifted, 1)


def _depth_to_batch(t: Array) -> Array:
    """(N, C, D, H, W) -> (N D, C, H, W)."""
    return jnp.moveaxis(t, 2, 1).reshape(-1, t.shape[1], *t.shape[3:])


def _without_depth(spec: ConvSpec) -> ConvSpec:
    return ConvSpec(
        spec.strides[1:], spec.padding[1:], spec.input_dilation[1:], spec.kernel_dilation[1:], spec.groups,
        spec.in_spatial[1:], spec.kernel_spatial[1:],
    )  # fmt: skip
