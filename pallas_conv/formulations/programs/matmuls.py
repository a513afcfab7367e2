"""Matrix products, one a group and image: weights by channels, and cotangents by channels.

A product over tiny images merges the batch with the pixels: transposing activations is cheaper there than a copy of w for every
image.
"""

import math

import jax.numpy as jnp
from jax import Array, lax

from ...spec import ConvSpec
from ..canonical import upsamples
from ..formulation import How
from ..sizes import Sizes

MOST_MATMULS = 64  # taps with columns, or with a matrix product, of their own
DW_FACTOR = 3  # dw counts so many times its size, beside operands that are transposed for one product of all images
DW_FACTOR_AS_IT_LIES = 1 / 8  # the same where x is its own columns, which would only be moved for that


def grouped(x: Array, spec: ConvSpec) -> Array:
    """(N, C, ...) -> (N, groups, C // groups * ..., pixels): the last axes are spatial."""
    pixels = math.prod(x.shape[-spec.ndim :])
    return x.reshape(x.shape[0], spec.groups, -1, pixels)


def multiply(w: Array, x: Array, how: How, summed: int = 2) -> Array:
    """(G, O, K) times (N, G, K, P) -> (N, G, O, P); or (G, K, O) if it is axis 1 of w that is summed over."""
    n, groups, k, pixels = x.shape
    o = w.shape[3 - summed]
    if merges_batch(n, o, k, pixels):
        if groups == 1:  # a product of channels last, whose layout XLA chooses
            y = lax.dot_general(x[:, 0], w[0], (((1,), (summed - 1,)), ((), ())), **how.of_lax)
            return y.swapaxes(1, 2)[:, None]
        x = jnp.moveaxis(x, 0, 2).reshape(groups, k, n * pixels)
        y = lax.dot_general(w, x, (((summed,), (1,)), ((0,), (0,))), **how.of_lax)
        return jnp.moveaxis(y.reshape(groups, o, n, pixels), 2, 0)
    w = jnp.broadcast_to(w, (n, *w.shape))
    return lax.dot_general(w, x, (((summed + 1,), (2,)), ((0, 1), (0, 1))), **how.of_lax)


def outer(ct: Array, x: Array, spec: ConvSpec, how: How) -> Array:
    """ct times (N, G, K, P) summed over images and pixels: (G, O // G, K)."""
    ct = grouped(ct, spec)
    n, _, k, pixels = x.shape
    if merges_batch(n, ct.shape[2], k, pixels, dw_factor(spec)):
        a, b = (jnp.moveaxis(t, 0, 2).reshape(*t.shape[1:3], -1) for t in (ct, x))
        return lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))), **how.of_lax)
    return lax.dot_general(ct, x, (((3,), (3,)), ((0, 1), (0, 1))), **how.of_lax).sum(0)


def dw_factor(spec: ConvSpec) -> float:
    """The factor by which dw's size counts when a weight gradient decides whether to merge the batch with the pixels."""
    return DW_FACTOR_AS_IT_LIES if spec.groups == math.prod(spec.kernel_spatial) == 1 else DW_FACTOR


def merges_batch(n: int, o: int, k: int, pixels: int, times: float = 1) -> bool:
    """Whether one product of all images copies less than one an image, with a w of (o, k) each."""
    return n > 1 and times * o * k > (o + k) * pixels


def copies_of_w(s: Sizes) -> float:
    """Bytes of w, or of partial sums of dw, for every image of a matrix product, unless the batch is merged with the pixels."""
    k = s.group_in * s.taps
    pixels = s.in_pixels if upsamples(s.spec) else s.out_pixels
    times = dw_factor(s.spec) if s.product.role == "wgrad" else 1
    return s.w if merges_batch(s.product.batch, s.group_out, k, pixels, times) else s.w * s.product.batch
