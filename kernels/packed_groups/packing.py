"""Weights of several groups as those of one, with blocks on a diagonal, and the blocks of such a matrix.

Pixels and results stay where they are: channels of neighbouring groups are neighbours. Four groups of two channels in and nine
out, two of them as one, have these weights of a tap; each row stands for nine:

             in  g0 g0 g1 g1             in  g2 g2 g3 g3
    out g0     [  w  w  0  0 ]  out g2     [  w  w  0  0 ]
        g1     [  0  0  w  w ]      g3     [  0  0  w  w ]
"""

import jax.numpy as jnp
from jax import Array

from pallas_conv.spec import Product

from ..family import channels_of_a_group


def block_diagonal(w: Array, product: Product, count: int) -> Array:
    """(O, C / groups, *kernel) of a product -> (O, count C / groups, *kernel). Models stay first."""
    if count == 1:
        return w
    given, wanted = channels_of_a_group(product)
    kernel = product.spec.kernel_spatial
    blocks = w.reshape(-1, count, wanted, 1, given, *kernel)
    own = jnp.eye(count, dtype=bool).reshape(count, 1, count, *[1] * (1 + len(kernel)))
    # Selected, not multiplied by zero: a weight may be infinite.
    return jnp.where(own, blocks, 0).reshape(*w.shape[: -1 - len(kernel)], count * given, *kernel)


def diagonal_blocks(dw: Array, product: Product, count: int) -> Array:
    """(O, count C / groups, *kernel) -> (O, C / groups, *kernel): the gradients of a product's weights, not those of zeros."""
    if count == 1:
        return dw
    given, wanted = channels_of_a_group(product)
    kernel = product.spec.kernel_spatial
    blocks = dw.reshape(-1, count, wanted, count, given, *kernel)
    own = jnp.stack([blocks[:, i, :, i] for i in range(count)], axis=1)
    return own.reshape(*dw.shape[: -1 - len(kernel)], given, *kernel)
