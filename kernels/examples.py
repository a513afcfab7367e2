"""Examples, each with gradients of its own, in kernels of weight gradients: where they lie, and what their sums may take."""

import jax.numpy as jnp
from jax import Array

MOST_WORKSPACE = 256 * 2**20


def examples_as_images(a: Array, groups: int) -> Array:
    """(E, N, groups * C, *spatial) -> [E N, *spatial, groups, C].

    Examples are images here, as they lie in memory. (As groups, which they are to the dense kernel, they would be moved.)
    """
    a = a.reshape(a.shape[0] * a.shape[1], groups, a.shape[2] // groups, *a.shape[3:])
    return jnp.transpose(a, (0, *range(3, a.ndim), 1, 2))


def most_workspace(operand_bytes: int) -> int:
    """The most bytes that partial sums may take: a quarter of the operands, and never more than MOST_WORKSPACE."""
    return min(MOST_WORKSPACE, operand_bytes // 4)
