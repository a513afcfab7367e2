"""The operands and the result of the weight-gradient kernel: channels last, as its TMA sees them, and back."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from ..geometry import ConvAxis
from ..partials import add_parts
from ..views import PixelBoxes, pad, reordered, unaligned
from .plan import Tiling


def pieces(a: Array) -> Array:
    """The array if it has 16 bits; of float32 [N, ...] the two bfloat16 [2 N, ...] whose sum it is, but for its last 8 bits.

    The product of two such sums, without that of their second terms, is more precise than TF32's, and wgmma takes 16-bit
    operands whose channels lie innermost, which it does not of TF32. This is the lax.DotAlgorithmPreset BF16_BF16_F32_X3.
    """
    if a.dtype != jnp.float32:
        return a
    # Not a cast there and back, which XLA may take for the number itself.
    first = lax.reduce_precision(a, exponent_bits=8, mantissa_bits=7)
    return jnp.concatenate([first, a - first]).astype(jnp.bfloat16)


def space_to_depth(x: Array, axes: Sequence[ConvAxis]) -> Array:
    """[N, *in, G, C] -> [N, *(in / stride), G, *strides C], padded to whole strides, see `Problem.space_to_depth`."""
    strides = [axis.stride for axis in axes]
    x = pad(x, [(0, 0), *((0, -axis.in_size % axis.stride) for axis in axes), (0, 0), (0, 0)])
    nd, sizes = len(axes), zip(x.shape[1:-2], strides, strict=True)
    x = x.reshape(x.shape[0], *(n for size, s in sizes for n in (size // s, s)), *x.shape[-2:])
    x = jnp.transpose(x, (0, *range(1, 2 * nd, 2), 2 * nd + 1, *range(2, 2 * nd + 1, 2), 2 * nd + 2))
    return x.reshape(*x.shape[: nd + 2], -1)


def depth_to_taps(dw: Array, axes: Sequence[ConvAxis]) -> Array:
    """[E, *kernel in whole strides, G, O, *strides C] -> [E, *kernel, G, O, C]: undo what `space_to_depth` makes of taps."""
    nd = len(axes)
    strides = [axis.stride for axis in axes]
    dw = dw.reshape(*dw.shape[:-1], *strides, dw.shape[-1] // math.prod(strides))
    for i, axis in enumerate(axes):
        dw = jnp.moveaxis(dw, nd + 3, i + 2)  # the stride's channels, which now come first, beside the taps
        dw = dw.reshape(*dw.shape[: i + 1], -1, *dw.shape[i + 3 :])
        first = -axis.low - axis.whole_stride_taps[0] * axis.stride
        dw = lax.slice_in_dim(dw, first, first + axis.kernel, axis=i + 1)
    return dw


def with_row_outputs(dy: Array, count: int) -> Array:
    """[N, *out, 1, O] -> [N, *out[:-1], out / count, 1, count O]: as it lies."""
    return dy.reshape(*dy.shape[:-3], dy.shape[-3] // count, 1, count * dy.shape[-1])


def without_row_outputs(dw: Array, last: ConvAxis, count: int) -> Array:
    """[E, *kernel of all, G, count O, C] -> [E, *kernel, G, O, C]: the sum over the outputs, each with its own taps."""
    axis, channels = dw.ndim - 4, dw.shape[-2] // count
    own = lambda r: lax.slice_in_dim(dw, r * channels, (r + 1) * channels, axis=dw.ndim - 2)
    taps = lambda a, r: lax.slice_in_dim(a, r * last.stride, r * last.stride + last.kernel, axis=axis)
    return functools.reduce(jnp.add, [taps(own(r), r) for r in range(count)])


@dataclasses.dataclass(frozen=True)
class Views:
    """Operands and result in global memory."""

    tiling: Tiling
    interpret: bool

    @functools.cached_property
    def pixels(self) -> PixelBoxes:
        """Boxes of x, [pieces E N, *in, G, C]."""
        p = self.tiling.problem
        one_image = len(p.dims) == 3 and self.tiling.cfg.step_pixels[0] == 1
        images = p.examples * p.batch * (2 if p.terms > 1 else 1)
        return PixelBoxes(images, p.dims, p.groups, one_image, self.interpret)

    def dy(self, dy: Array) -> Array:
        """[pieces E N, *out, G, O] with whole 16 bytes of channels, without the axis of one group."""
        dy = pad(dy, [(0, 0)] * (dy.ndim - 1) + [(0, unaligned(dy.shape[-1], dy.dtype))])
        return dy if self.tiling.problem.groups > 1 else dy.reshape(*dy.shape[:-2], -1)

    def bias_gradient(self, sums: Array, product: Product) -> Array:
        """`Tiling.bias_shape` -> (O,), float32, with the models first if the product has any."""
        cfg, p = self.tiling.cfg, self.tiling.problem
        db = add_parts(sums, cfg.split_k, 0) if cfg.split_k > 1 else sums
        db = db[..., : p.out_channels].reshape(p.examples, p.groups, cfg.row_outputs, -1)
        db = functools.reduce(jnp.add, [db[:, :, r] for r in range(cfg.row_outputs)]).reshape(p.examples, -1)
        return db if product.models is not None else db[0]

    def weight_gradient(self, sums: Array, product: Product) -> Array:
        """`Tiling.out_shape` -> (O, C / groups, *kernel) of the product, with the models first if it has any."""
        cfg, oriented = self.tiling.cfg, self.tiling.raw.oriented(self.tiling.cfg)
        t, p, nd = self.tiling, self.tiling.problem, len(self.tiling.problem.dims)
        dw = add_parts(sums, cfg.split_k, 0) if cfg.split_k > 1 else sums
        dw = dw[:, : math.prod(t.tap_loads), ..., : p.out_channels, : p.in_channels]
        dw = dw.reshape(p.examples, *t.tap_loads, t.halo_taps, p.groups, p.out_channels, p.in_channels)
        dw = jnp.moveaxis(dw, nd + 1, min(t.halo_dim, nd - 1) + 1)  # beside the one place of its dimension
        dw = dw.reshape(p.examples, *(d.count[0] for d in p.dims), *dw.shape[-3:])
        if cfg.row_outputs > 1:
            before = oriented.space_to_depth() if cfg.space_to_depth else oriented
            dw = without_row_outputs(dw, before.axes[-1], cfg.row_outputs)
        if cfg.space_to_depth:
            dw = depth_to_taps(dw, oriented.axes)
        dw = dw.astype(product.out_dtype)
        for i, d in enumerate(oriented.dims):  # as they are, or backwards: either is its own inverse
            dw = reordered(dw, i + 1, d.order)
        channels = (nd + 3, nd + 2) if cfg.transposed else (nd + 2, nd + 3)
        dw = jnp.transpose(dw, (0, nd + 1, *channels, *range(1, nd + 1)))
        dw = dw.reshape(p.examples, -1, *dw.shape[3:])
        return dw if product.models is not None else dw[0]
