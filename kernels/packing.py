"""Groups of few channels on one side, packed: several of them are one, whose weights are a block-diagonal matrix.

Pixels and results stay where they are: channels of neighbouring groups are neighbours. Four groups of two channels in and three
out, packed by twos, are two groups with these weights of a tap:

               in  g0 g0 g1 g1          in  g2 g2 g3 g3
    out g0 g0 g0 [  w  w  0  0 ]  g2 g2 g2 [  w  w  0  0 ]
        g1 g1 g1 [  0  0  w  w ]  g3 g3 g3 [  0  0  w  w ]

Tensor cores sum over sixteen channels at once, and strides of TMA are whole eights. So a group of fewer would be filled up
with zeros, in a copy of the pixels, and those would be multiplied as well. Packed, there are zeros among the weights alone.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jax import Array

from pallas_conv.spec import Product

from .family import LEAST_CHANNELS, channels_of_a_group, narrow

WHOLE = 8  # channels: no array of whole eights is padded, whatever its dtype
MOST_CHANNELS = 64  # of a packed group's smaller side: the more there are, the more of the weights are zeros


@functools.cache
def packed_groups(product: Product) -> int:
    """The number of groups that are packed into one; 1 if they have enough channels as they are.

    It is the least divisor of the number of groups that makes enough channels, and whole eights of them on both sides if a
    divisor does without making too many. If none makes enough, it is all groups.
    """
    groups, channels = product.spec.groups, channels_of_a_group(product)
    if groups == 1 or narrow(product) or min(channels) >= LEAST_CHANNELS:
        return 1
    enough = [n for n in range(2, groups + 1) if groups % n == 0 and n * min(channels) >= LEAST_CHANNELS] or [groups]
    whole = [n for n in enough if all(n * c % WHOLE == 0 for c in channels) and n * min(channels) <= MOST_CHANNELS]
    return (whole or enough)[0]


def packed(product: Product) -> Product:
    """The product with its groups packed: the same pixels and results, and larger weights."""
    groups = product.spec.groups // packed_groups(product)
    return dataclasses.replace(product, spec=dataclasses.replace(product.spec, groups=groups))


def block_diagonal(w: Array, count: int) -> Array:
    """(G, K, C, *kernel) -> (G / count, count K, count C, *kernel): the weights of so many groups in one."""
    if count == 1:
        return w
    groups, k, c, *kernel = w.shape
    own = jnp.eye(count, dtype=bool).reshape(count, 1, count, *[1] * (1 + len(kernel)))
    # Selected, not multiplied by zero: a weight may be infinite.
    blocks = jnp.where(own, w.reshape(-1, count, k, 1, c, *kernel), 0)
    return blocks.reshape(groups // count, count * k, count * c, *kernel)


def diagonal_blocks(dw: Array, count: int) -> Array:
    """(E, G, count K, count C, *kernel) -> (E, G count, K, C, *kernel): the gradients of weights, without those of zeros."""
    if count == 1:
        return dw
    examples, groups, k, c, *kernel = dw.shape
    of_each = dw.reshape(examples, groups, count, k // count, count, c // count, *kernel)
    own = jnp.stack([of_each[:, :, i, :, i] for i in range(count)], axis=2)
    return own.reshape(examples, groups * count, k // count, c // count, *kernel)


def packing_reasons(product: Product) -> list[str]:
    """The reason against groups whose number has no divisor that makes enough channels, and not too many."""
    few = min(channels_of_a_group(product))
    if (count := packed_groups(product)) == 1 or count * few <= MOST_CHANNELS:
        return []
    into = f"{count} of them would make {count * few} channels on the smaller side, more than {MOST_CHANNELS}"
    return [f"groups of {few} channels are packed, but of {product.spec.groups} groups at least {into}"]


def packed_word(product: Product) -> str:
    """A word for the name of a series, if groups are packed: their zeros take time."""
    return "_packed" * (packed_groups(product) > 1)


def packing_notes(product: Product) -> list[str]:
    """A note on what packing costs, for users to read."""
    if (count := packed_groups(product)) == 1:
        return []
    vain = f"{count - 1} of {count} multiply-adds are in vain"
    return [f"every {count} groups are multiplied as one, with their weights as blocks on a diagonal: {vain}"]
