"""Derivatives of activations, in float32, of what the forward pass saved: see `pallas_conv.activations`."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.activations import LEAKY_RELU_SLOPE


def _silu(z: Array) -> Array:
    s = lax.logistic(z)
    return s * (1 + z * (1 - s))


def _gelu(z: Array) -> Array:
    density = jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + lax.erf(z * math.sqrt(0.5))) + z * density


def _gelu_tanh(z: Array) -> Array:
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    t = lax.tanh(scale * (z + cubic * z * z * z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * (scale * (1 + 3 * cubic * z * z))


DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    "relu": lambda y: jnp.where(y > 0, jnp.float32(1), jnp.float32(0)),
    "leaky_relu": lambda y: jnp.where(y >= 0, jnp.float32(1), jnp.float32(LEAKY_RELU_SLOPE)),
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
