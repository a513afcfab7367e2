"""The operands and the result of the weight-gradient kernel: channels last, as its TMA sees them, and back."""

import dataclasses
import functools
import math

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from ..partials import add_parts
from ..views import PixelBoxes, pad, reordered, unaligned
from .plan import Tiling


def channels_last(a: Array, groups: int) -> Array:
    """(E, N, groups * C, *spatial) -> [E N, *spatial, groups, C].

    Examples are images here, as they lie in memory. (As groups, which they are to the dense kernel, they would be moved.)
    """
    a = a.reshape(a.shape[0] * a.shape[1], groups, a.shape[2] // groups, *a.shape[3:])
    return jnp.transpose(a, (0, *range(3, a.ndim), 1, 2))


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
        return PixelBoxes(p.examples * p.batch * (2 if p.terms > 1 else 1), p.dims, one_image, self.interpret)

    def dy(self, dy: Array) -> Array:
        """[pieces E N, *out, G, K] with whole 16 bytes of channels."""
        return pad(dy, [(0, 0)] * (dy.ndim - 1) + [(0, unaligned(dy.shape[-1], dy.dtype))])

    def result(self, sums: Array, product: Product) -> Array:
        """`Tiling.out_shape` -> (O, C / groups, *kernel) of the product, with the models first if it has any."""
        t, p, nd = self.tiling, self.tiling.problem, len(self.tiling.problem.dims)
        dw = add_parts(sums, t.cfg.split_k, 0) if t.cfg.split_k > 1 else sums
        dw = dw[:, : math.prod(t.tap_loads), ..., : p.out_channels, : p.in_channels].astype(product.out_dtype)
        dw = dw.reshape(p.examples, *t.tap_loads, t.halo_taps, p.groups, p.out_channels, p.in_channels)
        dw = jnp.moveaxis(dw, nd + 1, min(t.halo_dim, nd - 1) + 1)  # beside the one place of its dimension
        dw = dw.reshape(p.examples, *(d.count[0] for d in p.dims), *dw.shape[-3:])
        for i, d in enumerate(p.dims):  # as they are, or backwards: either is its own inverse
            dw = reordered(dw, i + 1, d.order)
        channels = (nd + 3, nd + 2) if t.cfg.transposed else (nd + 2, nd + 3)
        dw = jnp.transpose(dw, (0, nd + 1, *channels, *range(1, nd + 1)))
        dw = dw.reshape(p.examples, -1, *dw.shape[3:])
        return dw if product.models is not None else dw[0]
