"""Sums of parts that several thread blocks made, in XLA: always in the same order, which jnp.sum does not promise."""

import functools

import jax.numpy as jnp
from jax import Array, lax

from .views import pad


def add_parts(sums: Array, parts: int, axis: int) -> Array:
    """The sum over a few parts that lie side by side along an axis, one after the other."""
    sums = sums.reshape(*sums.shape[:axis], parts, -1, *sums.shape[axis + 1 :])
    return functools.reduce(jnp.add, [lax.index_in_dim(sums, part, axis, keepdims=False) for part in range(parts)])


def pairwise_sum(parts: Array) -> Array:
    """The sum over the first axis, of many parts: one half and the other, again and again, in few steps."""
    while (count := len(parts)) > 1:
        parts = pad(parts, [(0, count % 2)] + [(0, 0)] * (parts.ndim - 1))
        half = len(parts) // 2
        parts = parts[:half] + parts[half:]
    return parts[0]
