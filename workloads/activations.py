"""The activations that can be fused, stated once more in terms of jax.nn: what tests and benchmarks compare with."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def applied(name: str | None, z: Array) -> Array:
    """The activation of this name at z; z itself for None."""
    return z if name is None else ACTIVATIONS[name](z)
