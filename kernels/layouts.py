"""Channels first, as users have them, to channels last, as kernels do, and back: XLA cancels these between layers."""

import jax.numpy as jnp
from jax import Array


def channels_last(a: Array, groups: int) -> Array:
    """(models, N, groups * C, *spatial) -> [N, *spatial, models * groups, C]."""
    models, images, channels, *spatial = a.shape
    a = a.reshape(models, images, groups, channels // groups, *spatial)
    a = jnp.transpose(a, (1, *range(4, a.ndim), 0, 2, 3))
    return a.reshape(images, *spatial, models * groups, channels // groups)


def flat_channels_last(a: Array) -> Array:
    """(models, N, C, *spatial) -> [N, *spatial, models * C]."""
    a = channels_last(a, groups=1)
    return a.reshape(*a.shape[:-2], -1)


def channels_first(a: Array, models: int | None) -> Array:
    """[N, *spatial, models * C] -> (models, N, C, *spatial), without the first axis if models is None."""
    if models is None:
        return jnp.moveaxis(a, -1, 1)
    a = a.reshape(*a.shape[:-1], models, -1)
    return jnp.transpose(a, (a.ndim - 2, 0, a.ndim - 1, *range(1, a.ndim - 2)))
