"""Three dimensions as two, for the library, whose own convolutions of volumes are slow on a CPU and channels first on a GPU."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from ...spec import ConvSpec
from ..formulation import Cost, Formulation, How
from ..sizes import Sizes
from .library import cropped
from .windows import pad_spatial

SLAB = 24e6  # bytes of a volume, once for each tap along its depth, that are convolved at a time
MOST_SLABS = 16  # written out in a program


def depth_to_channels(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """3-D as one 2-D convolution: taps along the depth become channels, depth becomes batch. Large ones slab by slab."""
    flat = _without_depth(spec)
    w = jnp.moveaxis(w, 2, 1).reshape(w.shape[0], -1, *w.shape[3:])
    slabs: list[Array] = []
    for rows in _depth_slabs(x.nbytes, spec):
        if slabs:
            x, slabs[-1] = lax.optimization_barrier((x, slabs[-1]))  # one slab after the other, in the same memory
        y = cropped("fprop", _depth_taps(x, spec, rows), w, flat, how)
        slabs.append(jnp.moveaxis(y.reshape(x.shape[0], -1, *y.shape[1:]), 1, 2))
    return jnp.concatenate(slabs, 2)


def depth_to_channels_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The weight gradient in that way, summed over the slabs."""
    flat = _without_depth(spec)
    dw: Array | None = None
    for rows in _depth_slabs(x.nbytes, spec):
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
    if not _taps_in_cotangent(spec, x.shape[1], ct.shape[1]):
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


def _taps_in_cotangent(spec: ConvSpec, in_channels: int, out_channels: int) -> bool:
    """Whether the weight gradient above repeats the cotangent rather than x."""
    return spec.strides[0] == 1 and out_channels * spec.in_spatial[0] < in_channels * spec.out_spatial[0]


def _depth_slabs(nbytes: float, spec: ConvSpec) -> list[range]:
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


# ---------------------------------------------------------------- conditions and costs


def _dense_volumes_conv(s: Sizes) -> bool:
    return s.is_conv and s.spec.ndim == 3 and s.spec.groups == 1


def _dense_volumes_wgrad(s: Sizes) -> bool:
    return s.is_wgrad and s.spec.ndim == 3 and s.spec.groups == 1


def _slabs_cost(s: Sizes) -> Cost:
    """Copies the input once for every tap along the depth, slab by slab."""
    taps = s.x * s.spec.kernel_spatial[0] * s.spec.out_spatial[0] / s.spec.in_spatial[0]
    slabs = _depth_slabs(s.x, s.spec)
    largest = taps * len(slabs[0]) / s.spec.out_spatial[0]
    written_out = s.spec.kernel_spatial[0] * len(slabs)
    return Cost(s.useful_flops, 4 * taps + 3 * (s.w + s.y), written_out, largest + s.y)


def _at_once_cost(s: Sizes) -> Cost:
    """Copies the input or the cotangent once for every tap along the depth, all at once."""
    taps = s.spec.kernel_spatial[0]
    if _taps_in_cotangent(s.spec, s.product.in_channels, s.product.out_channels):
        repeated, whole = taps * s.y * s.spec.in_spatial[0] / s.spec.out_spatial[0], s.x
    else:
        repeated, whole = taps * s.x * s.spec.out_spatial[0] / s.spec.in_spatial[0], s.y
    return Cost(s.useful_flops, 3 * repeated + whole + s.w, taps, repeated)


FORMULATIONS = (
    Formulation("depth_to_channels", _dense_volumes_conv, _slabs_cost, fprop=depth_to_channels),
    Formulation("depth_to_channels_wgrad", _dense_volumes_wgrad, _slabs_cost, wgrad=depth_to_channels_wgrad),
    Formulation("depth_to_batch_wgrad", _dense_volumes_wgrad, _at_once_cost, wgrad=depth_to_batch_wgrad, library=True),
)
